"""Containers that exist: ps, inspect, logs, attach, start, stop, kill, rm, wait."""

from __future__ import annotations

import time

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import age, human_time, list_rows, parse_filters, short_id, shorten, write
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

FILTERS = ("id", "name", "image", "ancestor", "status", "state", "label", "network", "exited")
_COLUMNS = {
    "CONTAINER ID": "ID", "IMAGE": "Image", "COMMAND": "Command", "CREATED": "RunningFor", "STATUS": "Status",
    "NETWORKS": "Networks", "PORTS": "Ports", "NAMES": "Names",
}  # fmt: skip


def ps(service: Service, options: Parsed) -> int:
    filters = parse_filters(options.list("filter"), FILTERS)
    last = 1 if options.flag("latest") else options.number("last")
    wide = (
        options.flag("all")
        or last is not None
        or any(key in ("status", "state", "exited") for key, _ in filters)
    )
    rows: list[Event] = ask(service, {**base_request("ps"), "all": wide}, tell=Teller())
    rows = [row for row in rows if matches(row, filters)]
    if last is not None:
        rows = sorted(rows, key=lambda row: -float(row.get("created") or 0))[:last]
    whole = options.flag("no_trunc")
    form = options.text("format")
    if form == "json":
        list_rows(rows, {}, format=form)
    else:
        shown = [display(row, whole=whole) for row in rows]
        list_rows(shown, _COLUMNS, format=form, key="ID", quiet=options.flag("quiet"))
    return 0


def matches(row: Event, filters: list[tuple[str, str]]) -> bool:
    """All keys must fit; of several values for one key, one must (docker's and podman's way)."""
    wanted: dict[str, list[str]] = {}
    for key, value in filters:
        wanted.setdefault({"ancestor": "image", "status": "state"}.get(key, key), []).append(value)
    return all(any(_fits(row, key, value) for value in values) for key, values in wanted.items())


def display(row: Event, *, whole: bool = False) -> Event:
    """A row of the service with the names and values that people know from `docker ps --format`."""
    command = row.get("command") or ()
    words = command if isinstance(command, str) else " ".join(command)
    labels = row.get("labels") or {}
    created = row.get("created")
    return {
        "ID": short_id(row["id"], whole=whole),
        "Names": row["name"],
        "Image": row.get("image") or "",
        "Command": shorten(words, 24, whole=whole),
        "RunningFor": age(created),
        "CreatedAt": ""
        if created is None
        else time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(created)),
        "State": _state(row),
        "Status": describe_status(row),
        "ExitCode": row.get("status"),
        "Pid": row.get("pid"),
        "Networks": ",".join(_networks(row)),
        "Ports": ", ".join(describe_port(port) for port in row.get("ports") or ()),
        "Labels": labels
        if isinstance(labels, str)
        else ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "Bundle": row.get("bundle") or "",
    }


def describe_status(row: Event) -> str:
    """Up 3 minutes, Exited (0) 2 hours ago, Created."""
    state = _state(row)
    started, finished, status = row.get("started"), row.get("finished"), row.get("status")
    if state in ("running", "paused", "stopping") and started:
        since = f"Up {human_time(time.time() - started)}"
        return since if state == "running" else f"{since} ({state})"
    if status is not None:
        return f"Exited ({status}) {age(finished)}".rstrip()
    return state.capitalize()


def describe_port(port: Event) -> str:
    """``127.0.0.1:8080->80/tcp``, as docker puts it."""
    address = port.get("host_ip") or "0.0.0.0"
    address = f"[{address}]" if ":" in address else address
    inside = f"{port['container_port']}/{port.get('protocol') or 'tcp'}"
    return f"{address}:{port['host_port']}->{inside}"


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


def attach(service: Service, options: Parsed) -> int:
    from ctnr.cli.request import add_terminal
    from ctnr.cli.run import check_detach_keys
    from ctnr.client.session import run_foreground

    keys = options.text("detach_keys")
    check_detach_keys(keys)
    stdin = not options.flag("no_stdin")
    request = {**base_request("attach"), "container": options.args[0], "stdin": stdin}
    add_terminal(request)
    teller = Teller()
    return run_foreground(
        service, request, tell=teller, detached=lambda event: teller.note("detached"), tty=True, interactive=stdin,
        detach_keys="ctrl-p,ctrl-q" if keys is None else keys,
        forward_signals=options.flag("sig_proxy", default=stdin),  # Ctrl-C of a mere watcher must not end it
    )  # fmt: skip


def start(service: Service, options: Parsed) -> int:
    if service.in_process:
        raise UsageError("--no-service start: nothing would keep it running", cure="leave out --no-service")
    return _for_each(service, options, "start", {})


def stop(service: Service, options: Parsed) -> int:
    return _for_each(service, options, "stop", {"seconds": options.seconds("time")})


def kill(service: Service, options: Parsed) -> int:
    return _for_each(service, options, "kill", {"signal": options.text("signal") or "KILL"})


def remove(service: Service, options: Parsed) -> int:
    return _for_each(service, options, "rm", {"force": options.flag("force")})


def wait(service: Service, options: Parsed) -> int:
    statuses = ask(service, {**base_request("wait"), "containers": options.args}, tell=Teller())
    write("".join(f"{status}\n" for status in statuses))
    return 0


def _for_each(service: Service, options: Parsed, op: str, fields: dict[str, Any]) -> int:
    """One request for all that are named (or --all there are), and their names printed, as scripts expect."""
    names = list(options.args)
    if op != "start" and options.flag("all"):
        if names:
            raise UsageError(f"{op} --all takes no names")
        found = ask(service, {**base_request("ps"), "all": op == "rm"}, tell=Teller())
        names = [row["id"] for row in found]
        if not names:
            return 0
    if not names:
        raise UsageError("missing CONTAINER …", cure=f"see ctnr {op} --help")
    given = {key: value for key, value in fields.items() if value is not None}
    ask(service, {**base_request(op), "containers": names, **given}, tell=Teller())
    write("".join(f"{name}\n" for name in names))
    return 0


def _state(row: Event) -> str:
    """OCI says stopped where people say exited."""
    state = str(row.get("state") or "")
    return "exited" if state == "stopped" else state


def _networks(row: Event) -> list[str]:
    return [one["network"] if isinstance(one, dict) else str(one) for one in row.get("networks") or ()]


def _fits(row: Event, key: str, value: str) -> bool:
    if key == "id":
        return str(row["id"]).startswith(value)
    if key == "name":
        return value.lstrip("/^").rstrip("$") in row["name"]
    if key == "image":
        image = str(row.get("image") or "")
        return image == value or image.rpartition("/")[2] in (value, f"{value}:latest") or value in image
    if key == "state":
        return {"stopped": "exited"}.get(value, value) == _state(row)
    if key == "label":
        labels = row.get("labels") or {}
        name, equals, wanted = value.partition("=")
        return name in labels and (not equals or labels[name] == wanted)
    if key == "network":
        return value in _networks(row)
    return str(row.get("status")) == value  # exited=N


_FORMAT = Option("format", "text", "json, or a template of fields such as '{{.Names}}'", metavar="FORMAT")
_ALL = Option("all", "flag", "all there are", short="a")
_NAMES = "CONTAINER …"

COMMANDS = {
    "ps": Command(
        "ps", "", "List containers.",
        (
            Option("all", "flag", "also those that do not run", short="a"),
            Option("filter", "list", f"only those that fit: {', '.join(FILTERS)}", short="f", metavar="KEY=VALUE"),
            _FORMAT,
            Option("last", "number", "the newest N, running or not", short="n", metavar="N"),
            Option("latest", "flag", "the newest one, running or not", short="l"),
            Option("no-trunc", "flag", "whole ids and commands"),
            Option("quiet", "flag", "ids only", short="q"),
        ),
        ps, most=0,
    ),
    "inspect": Command(
        "inspect", _NAMES, "Show all that is known about containers.",
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
    "attach": Command(
        "attach", "CONTAINER", "Connect the terminal to a container that runs.",
        (
            Option("detach-keys", "text", 'keys that detach from it, "" for none [ctrl-p,ctrl-q]', metavar="KEYS"),
            Option("no-stdin", "flag", "only watch"),
            Option("sig-proxy", "flag", "pass signals on to the program [true, unless --no-stdin]"),
        ),
        attach, least=1, most=1,
    ),
    "start": Command("start", _NAMES, "Start containers that were made or have ended.", (), start, least=1),
    "stop": Command(
        "stop", _NAMES, "Ask containers to end, and kill them if they do not.",
        (
            _ALL,
            Option(
                "time", "seconds", "how long to wait before killing [10s]",
                short="t", metavar="TIME", aliases=("timeout",),
            ),
        ),
        stop,
    ),
    "kill": Command(
        "kill", _NAMES, "Send containers a signal.",
        (_ALL, Option("signal", "text", "by name or number [KILL]", short="s", metavar="SIGNAL")), kill,
    ),
    "rm": Command(
        "rm", _NAMES, "Remove containers.",
        (_ALL, Option("force", "flag", "also those that run", short="f")), remove,
    ),
    "wait": Command("wait", _NAMES, "Wait for containers to end and print their exit statuses.", (), wait, least=1),
}  # fmt: skip
