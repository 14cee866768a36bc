"""What containers do: stats, top."""

from __future__ import annotations

from ctnr.cli.choosing import LATEST, with_latest
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import human_size, rows_text, short_id, table, write
from ctnr.cli.request import base_request
from ctnr.cli.screen import Screen
from ctnr.cli.tell import Teller
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

_COLUMNS = {
    "CONTAINER ID": "ID", "NAME": "Name", "CPU %": "CPUPerc", "MEM USAGE / LIMIT": "MemUsage", "MEM %": "MemPerc",
    "NET I/O": "NetIO", "BLOCK I/O": "BlockIO", "PIDS": "PIDs",
}  # fmt: skip
_NOTHING = "--"


def stats(service: Service, options: Parsed) -> int:
    request = {**base_request("stats"), "containers": options.args, "all": options.flag("all")}
    whole, form = options.flag("no_trunc"), options.text("format")
    if options.flag("no_stream"):
        rows = ask(service, request, tell=Teller())
        write(_text(rows, form, whole))
        for line in () if form else _sums(rows):
            Teller().note(line)
        return 0
    interval = options.seconds("interval")
    request["interval"] = 1.0 if interval is None else interval
    teller, screen = Teller(), Screen()

    def tell(event: Event) -> None:
        if event.get("event") != "item":
            teller(event)
            return
        notes = "" if form else "".join(f"\n{line}" for line in _sums(event["value"]))
        screen.show(_text(event["value"], form, whole) + notes)

    ask(service, request, tell=tell)
    return 0


def _text(rows: list[Event], form: str | None, whole: bool) -> str:
    if form == "json":
        return rows_text(rows, {}, format=form)
    return rows_text([display(row, whole=whole) for row in rows], _COLUMNS, format=form)


def display(row: Event, *, whole: bool = False) -> Event:
    """A row of the service under the names that people know from `docker stats --format`."""
    shown = {"ID": short_id(row["id"], whole=whole), "Container": row["name"], "Name": row["name"]}
    if not row["running"]:
        return {**dict.fromkeys(_COLUMNS.values(), _NOTHING), **shown}
    received = row.get("received")
    return {
        **shown,
        "CPUPerc": f"{row['cpu_percent']:.2f}%",
        "MemUsage": f"{human_size(row['memory'])} / {human_size(row['memory_limit'])}",
        "MemPerc": f"{row['memory_percent']:.2f}%",
        "NetIO": _NOTHING if received is None else f"{human_size(received)} / {human_size(row['sent'])}",
        "BlockIO": f"{human_size(row['read'])} / {human_size(row['written'])}",
        "PIDs": row["pids"],
    }


def _sums(rows: list[Event]) -> list[str]:
    """What is no count of the kernel's is said to be none."""
    summed: dict[str, list[str]] = {}
    for row in rows:
        if row.get("summed"):
            summed.setdefault(", ".join(row["summed"]), []).append(row["name"])
    return [
        f"{what} of {', '.join(names)}: summed over processes, as no cgroup counts it"
        for what, names in summed.items()
    ]


def top(service: Service, options: Parsed) -> int:
    container, *columns = with_latest(service, options)
    request = {**base_request("top"), "container": container, "columns": columns}
    value = ask(service, request, tell=Teller())
    write(table(value["headings"], value["rows"]))
    return 0


COMMANDS = {
    "stats": Command(
        "stats", "[CONTAINER …]", "Show what containers use, again and again.",
        (
            Option("all", "flag", "also those that do not run", short="a"),
            Option("format", "text", "json, or a template of fields such as '{{.Name}}'", metavar="FORMAT"),
            Option("interval", "seconds", "how often [1s]", short="i", metavar="TIME"),
            Option("no-stream", "flag", "once"),
            Option("no-trunc", "flag", "whole ids"),
        ),
        stats,
    ),
    "top": Command(
        "top", "CONTAINER [COLUMN …]", "Show the processes of a container; columns by name or as for ps.",
        (LATEST,), top, least=1, stops=True,
    ),
}  # fmt: skip
