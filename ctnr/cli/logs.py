"""What containers in the background have written: logs."""

from __future__ import annotations

from ctnr.cli.choosing import LATEST, chosen
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.moment import parse_moment
from ctnr.cli.output import short_id, write
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event


def logs(service: Service, options: Parsed) -> int:
    from binascii import a2b_base64

    names = chosen(service, options)
    request = {**base_request("logs"), "containers": names, "follow": options.flag("follow")}
    for key in ("since", "until"):
        if (text := options.text(key)) is not None:
            request[key] = parse_moment(text, "--" + key)
    if (tail := options.text("tail")) not in (None, "all", "-1"):
        if not str(tail).isdigit():
            raise UsageError(f"--tail={tail}: a number or all is expected")
        request["tail"] = int(str(tail))
    prefixes = [""] * len(names)
    if options.flag("names"):
        prefixes = [f"{name} " for name in names]
    elif len(names) > 1:
        found = ask(service, {**base_request("inspect"), "containers": names}, tell=Teller())
        prefixes = [short_id(one["Id"]) + " " for one in found]
    printers = [Printer(prefix.encode(), stamps=options.flag("timestamps")) for prefix in prefixes]
    teller = Teller()

    def tell(event: Event) -> None:
        if event.get("event") == "item":
            value = event["value"]
            printers[value["container"]].print(a2b_base64(value["entries"]))
        else:
            teller(event)

    ask(service, request, tell=tell)
    return 0


class Printer:
    """Writes one container's entries (`TIME STREAM F|P TEXT`) as what they once were."""

    def __init__(self, prefix: bytes, *, stamps: bool) -> None:
        self._prefix, self._stamps = prefix, stamps
        self._unfinished: set[bytes] = set()  # streams whose last line goes on

    def print(self, entries: bytes) -> None:
        held: list[bytes] = []
        stream = b"stdout"
        at, end = 0, len(entries)
        while at < end:
            stop = entries.find(b"\n", at) + 1 or end
            head = entries[at : min(at + 40, stop)]
            to = head[31:37]
            if len(head) < 40 or to not in (b"stdout", b"stderr"):
                at = stop  # a full disk has cut it off
                continue
            if to != stream:
                _write(held, stream)
                held, stream = [], to
            lead = b"" if to in self._unfinished else self._prefix + (head[:31] if self._stamps else b"")
            whole = head[38:39] != b"P"
            if whole and entries.startswith(head, stop) and to not in self._unfinished:
                run = _run(entries, at, head)
                if run:
                    held += [lead + line[40:] + b"\n" for line in run]
                    at += sum(map(len, run)) + len(run)
                    continue
            held.append(
                lead + (entries[at + 40 : stop] if whole else entries[at + 40 : stop].removesuffix(b"\n"))
            )
            if whole:
                self._unfinished.discard(to)
            else:
                self._unfinished.add(to)
            at = stop
        _write(held, stream)


def _run(entries: bytes, at: int, head: bytes) -> list[bytes]:
    """The lines that begin with `head`, as what was written at once does; none if others are among them."""
    end = entries.find(b"\n", entries.rfind(b"\n" + head) + 1)
    lines = entries[at : end if end >= 0 else len(entries)].split(b"\n")
    return lines if entries.count(b"\n" + head, at) == len(lines) - 1 else []


def _write(held: list[bytes], stream: bytes) -> None:
    if held:
        write(b"".join(held), 2 if stream == b"stderr" else 1)


COMMANDS = {
    "logs": Command(
        "logs", "CONTAINER …", "Show what a background container has written.",
        (
            Option("follow", "flag", "go on as long as the container runs", short="f"),
            LATEST,
            Option("names", "flag", "begin every line with the container's name"),
            Option("since", "text", "from then on: a date, or how long ago", metavar="TIME"),
            Option("tail", "text", "the last N lines of each", short="n", metavar="N|all"),
            Option("timestamps", "flag", "begin every line with its time", short="t"),
            Option("until", "text", "up to then", metavar="TIME"),
        ),
        logs, least=1,
    ),
}  # fmt: skip
