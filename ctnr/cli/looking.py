"""Looking at one container: inspect, logs."""

from __future__ import annotations

import time

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import list_rows, write
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event


def inspect(service: Service, options: Parsed) -> int:
    values = ask(service, {**base_request("inspect"), "containers": options.args}, tell=Teller())
    form = options.text("format")
    if form is None or form == "json":
        list_rows(values, {}, format="json")
    else:
        list_rows(values, {}, format=form)
    return 0


def logs(service: Service, options: Parsed) -> int:
    from binascii import a2b_base64

    stamps = options.flag("timestamps")
    request = {**base_request("logs"), "container": options.args[0], "follow": options.flag("follow")}
    for key in ("since", "until"):
        if (text := options.text(key)) is not None:
            request[key] = parse_moment(text, "--" + key)
    if (tail := options.text("tail")) not in (None, "all"):
        if not str(tail).isdigit():
            raise UsageError(f"--tail={tail}: a number or all is expected")
        request["tail"] = int(str(tail))
    teller = Teller()

    def tell(event: Event) -> None:
        if event.get("event") != "item":
            teller(event)
            return
        line = event["value"]
        data = a2b_base64(line["data"])
        if stamps:
            data = f"{format_moment(line['time'])} ".encode() + data
        write(data, 2 if line["stream"] == "stderr" else 1)

    ask(service, request, tell=tell)
    return 0


def parse_moment(text: str, flag: str) -> float:
    """Unix seconds from a number, a date (RFC 3339) or how long ago (``10m``). Raises: UsageError."""
    from datetime import datetime

    from ctnr.cli.grammar import parse_seconds

    try:
        return float(text)
    except ValueError:
        pass
    try:
        return time.time() - parse_seconds(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        cure = "2026-01-31T12:00:00, a time ago such as 10m, or Unix seconds"
        raise UsageError(f"{flag}={text}: not a moment", cure=cure) from None


def format_moment(unix_seconds: float) -> str:
    """RFC 3339 in UTC, with microseconds: what a double holds."""
    whole = int(unix_seconds)
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((unix_seconds - whole) * 1e6):06d}Z"
    )


COMMANDS = {
    "inspect": Command(
        "inspect", "CONTAINER …", "Show all that is known about containers.",
        (Option("format", "text", "json, or a template such as '{{.State}}'", short="f", metavar="FORMAT"),),
        inspect, least=1,
    ),
    "logs": Command(
        "logs", "CONTAINER", "Show what a background container has written.",
        (
            Option("follow", "flag", "go on as long as the container runs", short="f"),
            Option("since", "text", "from then on: a date, or how long ago", metavar="TIME"),
            Option("tail", "text", "the last N lines", short="n", metavar="N|all"),
            Option("timestamps", "flag", "begin every line with its time", short="t"),
            Option("until", "text", "up to then", metavar="TIME"),
        ),
        logs, least=1, most=1,
    ),
}  # fmt: skip
