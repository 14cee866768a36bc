"""Looking at containers: ps, inspect."""

from __future__ import annotations

import time
from math import inf
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.engine import Engine
from supervisor.service.server import Connection
from supervisor.spec import State


async def ps(engine: Engine, request: requests.Ps, connection: Connection) -> Any:
    rows = [engine.summary(record) for record in engine.records.all()]
    rows = [row for row in rows if request.all or row["state"] not in (State.CREATED, State.STOPPED)]
    if request.size:
        uppers = {row["id"]: engine.bundles.upper(row["bundle"]) for row in rows}
        sizes = await engine.tree_sizes(list(uppers.values()))
        rows = [{**row, "size_bytes": sizes[uppers[row["id"]]]} for row in rows]
    return rows


async def inspect(engine: Engine, request: requests.Inspect, connection: Connection) -> Any:
    return [engine.inspect(engine.records.get(name)) for name in request.containers]


async def events(engine: Engine, request: requests.Events, connection: Connection) -> Any:
    """Stream them in order as `item` events: those that are kept, then those to come, up to `until`."""
    until = request.until if request.stream else time.time()
    since = 0.0 if request.since is None and until is not None else request.since
    reader = engine.supervisor.events(since)
    seconds = inf if until is None else max(until - time.time(), 0)
    deadline = trio.current_time() + seconds
    while True:
        with trio.move_on_at(deadline) as scope:  # ends the waiting, never a frame half sent
            event = await anext(reader)
        if scope.cancelled_caught or (until is not None and event.time > until):
            return None
        await connection.send("item", value=event)


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Ps: ps,
    requests.Inspect: inspect,
    requests.Events: events,
}
