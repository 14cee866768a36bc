"""Containers in a table: ps."""

from __future__ import annotations

import posix as os
import time

from ctnr.cli.filters import all_fit, filter_option, label_fits, name_fits, parse_filters
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

_STATES = ("created", "running", "paused", "restarting", "exited", "stopped", "removing", "dead")
FILTERS: dict[str, tuple[str, ...]] = {
    "id": (), "name": (), "image": (), "ancestor": (), "status": _STATES, "state": _STATES, "label": (), "network": (),
    "exited": (), "before": (), "since": (), "volume": (), "health": ("starting", "healthy", "unhealthy", "none"),
}  # fmt: skip
_COLUMNS = {
    "CONTAINER ID": "ID", "IMAGE": "Image", "COMMAND": "Command", "CREATED": "RunningFor", "STATUS": "Status",
    "NETWORKS": "Networks", "PORTS": "Ports", "NAMES": "Names",
}  # fmt: skip


def ps(service: Service, options: Parsed) -> int:
    filters = parse_filters(options.list("filter"), FILTERS)
    for key, value in filters:
        if key == "exited" and not value.isdecimal():
            raise UsageError(f"--filter=exited={value}: an exit status is a number")
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
    rows: list[Event] = ask(service, request, tell=Teller())
    for key in ("before", "since"):
        for name in [value for known, value in filters if known == key]:
            rows = _beside(service, rows, key, name)
    rows = [
        row for row in rows if matches(row, [one for one in filters if one[0] not in ("before", "since")])
    ]
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


def _beside(service: Service, rows: list[Event], key: str, name: str) -> list[Event]:
    """Those made before (since) another one."""
    every: list[Event] = ask(service, {**base_request("ps"), "all": True}, tell=Teller())
    other = next((row for row in every if name == row["name"] or row["id"].startswith(name)), None)
    if other is None:
        raise UsageError(f"--filter {key}={name}: no container has that name or id", cure="ctnr ps -a")
    sign = 1 if key == "since" else -1
    return [row for row in rows if sign * (row["created"] - other["created"]) > 0]


SORT_KEYS: dict[str, Callable[[Event], Any]] = {
    "command": lambda row: " ".join(row.get("command") or ()),
    "created": lambda row: row.get("created") or 0,
    "id": lambda row: row["id"],
    "image": lambda row: row.get("image") or "",
    "names": lambda row: row["name"],
    "runningfor": lambda row: row.get("started") or 0,
    "size": lambda row: row.get("size_bytes") or 0,
    "status": lambda row: _state(row),
}


def matches(row: Event, filters: Filters) -> bool:
    """Whether it is one of those; before and since are not looked at here."""
    same = {"ancestor": "image", "status": "state"}
    wanted = [(same.get(key, key), value) for key, value in filters]
    return all_fit(wanted, lambda key, value: _fits(row, key, value))


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
        "Mounts": ",".join(part.partition(":")[0] for part in row.get("volumes") or ()),
        "Size": human_size(row.get("size_bytes")),
    }


def describe_status(row: Event) -> str:
    """Up 3 minutes, Exited (0) 2 hours ago, Created."""
    state = _state(row)
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
        return name_fits(value.removeprefix("/"), row["name"])
    if key == "image":
        image = str(row.get("image") or "")
        return image == value or image.rpartition("/")[2] in (value, f"{value}:latest") or value in image
    if key == "state":
        return {"stopped": "exited"}.get(value, value) == _state(row)
    if key == "health":
        return value == (row.get("health") or "none")
    if key == "label":
        return label_fits(row.get("labels") or {}, value)
    if key == "volume":
        return any(value in part.split(":") for part in row.get("volumes") or ())
    if key == "network":
        return value in _networks(row)
    return str(row.get("status")) == value  # exited=N


COMMANDS = {
    "ps": Command(
        "ps", "", "List containers.",
        (
            Option("all", "flag", "also those that do not run", short="a"),
            filter_option(FILTERS),
            Option("format", "text", "json, or a template of fields such as '{{.Names}}'", metavar="FORMAT"),
            Option("last", "number", "the newest N, running or not", short="n", metavar="N"),
            Option("latest", "flag", "the newest one, running or not", short="l"),
            Option("no-trunc", "flag", "whole ids and commands"),
            Option("quiet", "flag", "ids only", short="q"),
            Option("size", "flag", "also how much each has written", short="s"),
            Option("sort", "text", f"by {', '.join(SORT_KEYS)}", metavar="KEY"),
            Option("watch", "seconds", "again and again, after so long", short="w", metavar="TIME"),
        ),
        ps, most=0,
    ),
}  # fmt: skip
