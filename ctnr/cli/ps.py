"""Containers in a table: ps."""

from __future__ import annotations

import time

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import age, human_time, list_rows, parse_filters, short_id, shorten
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
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


COMMANDS = {
    "ps": Command(
        "ps", "", "List containers.",
        (
            Option("all", "flag", "also those that do not run", short="a"),
            Option("filter", "list", f"only those that fit: {', '.join(FILTERS)}", short="f", metavar="KEY=VALUE"),
            Option("format", "text", "json, or a template of fields such as '{{.Names}}'", metavar="FORMAT"),
            Option("last", "number", "the newest N, running or not", short="n", metavar="N"),
            Option("latest", "flag", "the newest one, running or not", short="l"),
            Option("no-trunc", "flag", "whole ids and commands"),
            Option("quiet", "flag", "ids only", short="q"),
        ),
        ps, most=0,
    ),
}  # fmt: skip
