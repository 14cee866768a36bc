"""Looking at containers: ps, inspect, logs."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from ctnr import requests
from ctnr.engine import Engine
from supervisor.errors import SupervisorError
from supervisor.runtime.logs import follow_log
from supervisor.service.server import Connection
from supervisor.spec import State


async def ps(engine: Engine, request: requests.Ps, connection: Connection) -> Any:
    rows = [engine.summary(record) for record in engine.records.all()]
    return [row for row in rows if request.all or row["state"] == State.RUNNING]


async def inspect(engine: Engine, request: requests.Inspect, connection: Connection) -> Any:
    return [engine.inspect(engine.records.get(name)) for name in request.containers]


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
    requests.Logs: logs,
}
