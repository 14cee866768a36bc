"""Looking at containers: ps, inspect, logs."""

from __future__ import annotations

import os
import time
from math import inf
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.engine import Engine
from supervisor.errors import SupervisorError
from supervisor.runtime.logs import follow_log
from supervisor.service.server import Connection
from supervisor.spec import State


async def ps(engine: Engine, request: requests.Ps, connection: Connection) -> Any:
    rows = [engine.summary(record) for record in engine.records.all()]
    return [row for row in rows if request.all or row["state"] in (State.RUNNING, State.PAUSED)]


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


async def logs(engine: Engine, request: requests.Logs, connection: Connection) -> Any:
    """Stream the lines as `item` events: {stream, data (base64), time}."""
    record = engine.records.get(request.container)
    path = engine.records.log_path(record)
    container = engine.live(record)
    if not os.path.exists(path) and (container is None or container.streams.output.log is None):
        raise SupervisorError(
            f"container {record.name} has no log: its output went to the terminal that started it",
            cure="containers that run with -d have one",
        )
    writer = container.streams.output.log if container is not None and request.follow else None
    kept: list[Any] = []
    async for line in follow_log(path, None if request.tail is not None else writer):
        if _wanted(request, line.time):
            if request.tail is None:
                await _send_line(connection, line)
            else:
                kept.append(line)
                del kept[: -request.tail or len(kept)]
    for line in kept:
        await _send_line(connection, line)
    if request.tail is not None and writer is not None:
        last = kept[-1].time if kept else 0.0
        async for line in follow_log(path, writer):
            if line.time > last and _wanted(request, line.time):
                await _send_line(connection, line)
    return None


def _wanted(request: requests.Logs, time: float) -> bool:
    return (request.since is None or time >= request.since) and (
        request.until is None or time <= request.until
    )


async def _send_line(connection: Connection, line: Any) -> None:
    await connection.send("item", value={"stream": line.stream, "data": line.data, "time": line.time})


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Ps: ps,
    requests.Inspect: inspect,
    requests.Events: events,
    requests.Logs: logs,
}
