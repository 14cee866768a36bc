"""Containers in a table: ps."""

from __future__ import annotations

import posix as os
import time

from ctnr.cli.choosing import FILTER, LATEST, networks_of, read_filters, select, state_of
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import age, human_size, human_time, list_rows, short_id, shorten, write
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ctnr.cli.filters import Filters
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

_COLUMNS = {
    "CONTAINER ID": "ID", "IMAGE": "Image", "COMMAND": "Command", "CREATED": "RunningFor", "STATUS": "Status",
    "NETWORKS": "Networks", "PORTS": "Ports", "NAMES": "Names",
}  # fmt: skip


def ps(service: Service, options: Parsed) -> int:
    filters = read_filters(options.list("filter"))
    last = 1 if options.flag("latest") else options.number("last")
    if options.given("sort") and options.text("sort") not in SORT_KEYS:
        raise UsageError(f"--sort={options.text('sort')}: not known", cure=f"one of: {', '.join(SORT_KEYS)}")
    wide = (
        options.flag("all")
        or last is not None
        or any(key in ("status", "state", "exited") for key, _ in filters)
    )
    request = {**base_request("ps"), "all": wide}
    if options.flag("size"):
        request["size"] = True
    if not options.given("watch"):
        _show(service, request, options, filters, last)
        return 0
    while True:
        write("\x1b[H\x1b[2J" if os.isatty(1) else "")
        _show(service, request, options, filters, last)
        time.sleep(max(options.seconds("watch") or 0, 0.1))


def _show(service: Service, request: Event, options: Parsed, filters: Filters, last: int | None) -> None:
    rows = select(service, ask(service, request, tell=Teller()), filters)
    if last is not None:
        rows = sorted(rows, key=lambda row: -float(row.get("created") or 0))[:last]
    if options.given("sort"):
        rows = sorted(rows, key=SORT_KEYS[str(options.text("sort"))])
    form = options.text("format")
    if form == "json":
        list_rows(rows, {}, format=form)
        return
    shown = [display(row, whole=options.flag("no_trunc")) for row in rows]
    columns = {**_COLUMNS, "SIZE": "Size"} if options.flag("size") else _COLUMNS
    list_rows(shown, columns, format=form, key="ID", quiet=options.flag("quiet"))


SORT_KEYS: dict[str, Callable[[Event], Any]] = {
    "command": lambda row: " ".join(row.get("command") or ()),
    "created": lambda row: row.get("created") or 0,
    "id": lambda row: row["id"],
    "image": lambda row: row.get("image") or "",
    "names": lambda row: row["name"],
    "runningfor": lambda row: row.get("started") or 0,
    "size": lambda row: row.get("size_bytes") or 0,
    "status": lambda row: state_of(row),
}


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
        "State": state_of(row),
        "Status": describe_status(row),
        "ExitCode": row.get("status"),
        "Pid": row.get("pid"),
        "Networks": ",".join(networks_of(row)),
        "Ports": ", ".join(describe_port(port) for port in row.get("ports") or ()),
        "Labels": labels
        if isinstance(labels, str)
        else ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "Bundle": row.get("bundle") or "",
        "Mounts": ",".join(part.partition(":")[0] for part in row.get("volumes") or ()),
        "Size": human_size(row.get("size_bytes")),
    }


def describe_status(row: Event) -> str:
    """Up 3 minutes, Exited (0) 2 hours ago, Created."""
    state = state_of(row)
    started, finished, status = row.get("started"), row.get("finished"), row.get("status")
    if state in ("running", "paused", "stopping") and started:
        since = f"Up {human_time(time.time() - started)}"
        health = row.get("health")
        told = state if state != "running" else "health: starting" if health == "starting" else health
        return f"{since} ({told})" if told else since
    if state == "restarting":
        return f"Restarting ({status}) {age(finished)}".rstrip()
    if status is not None:
        return f"Exited ({status}) {age(finished)}".rstrip()
    return state.capitalize()


def describe_port(port: Event) -> str:
    """``127.0.0.1:8080->80/tcp``, as docker puts it."""
    address = port.get("host_ip") or "0.0.0.0"
    address = f"[{address}]" if ":" in address else address
    inside = f"{port['container_port']}/{port.get('protocol') or 'tcp'}"
    return f"{address}:{port['host_port']}->{inside}"


COMMANDS = {
    "ps": Command(
        "ps", "", "List containers.",
        (
            Option("all", "flag", "also those that do not run", short="a"),
            FILTER,
            Option("format", "text", "json, or a template of fields such as '{{.Names}}'", metavar="FORMAT"),
            Option("last", "number", "the newest N, running or not", short="n", metavar="N"),
            LATEST,
            Option("no-trunc", "flag", "whole ids and commands"),
            Option("quiet", "flag", "ids only", short="q"),
            Option("size", "flag", "also how much each has written", short="s"),
            Option("sort", "text", f"by {', '.join(SORT_KEYS)}", metavar="KEY"),
            Option("watch", "seconds", "again and again, after so long", short="w", metavar="TIME"),
        ),
        ps, most=0,
    ),
}  # fmt: skip
