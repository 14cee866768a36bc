"""Looking at what containers do: stats, top."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.bundles.users import read_user_files
from ctnr.engine import Engine
from ctnr.records import Record
from ctnr.top import choose_columns, list_processes
from supervisor.errors import WrongState
from supervisor.service.server import Connection
from supervisor.usage import Usage, measure

MIN_INTERVAL_SECONDS = 0.1


async def stats(engine: Engine, request: requests.Stats, connection: Connection) -> Any:
    """One sample as the answer; or one after the other as `item` events, until the client has seen enough."""
    before: dict[str, tuple[float, float]] = {}  # container → when, and the processor seconds till then
    while True:
        rows = _sample(engine, request, before)
        if request.interval is None:
            return rows
        await connection.send("item", value=rows)
        await trio.sleep(max(request.interval, MIN_INTERVAL_SECONDS))


def _sample(
    engine: Engine, request: requests.Stats, before: dict[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    if request.containers:
        records = [engine.records.get(name) for name in request.containers]
    else:
        records = [one for one in engine.records.all() if request.all or engine.live(one) is not None]
    live = [container for one in records if (container := engine.live(one)) is not None]
    usages, now = measure(live), time.time()
    rows = []
    for record in records:
        usage, container = usages.get(record.id), engine.live(record)
        share = 0.0
        if usage is not None and container is not None:
            # the first sample tells the mean since the start
            since, used = before.get(record.id, (container.started_at or now, 0.0))
            share = max(usage.cpu_seconds - used, 0) / max(now - since, 0.001)
            before[record.id] = (now, usage.cpu_seconds)
        rows.append(_row(record, usage, share))
    return rows


def _row(record: Record, usage: Usage | None, share: float) -> dict[str, Any]:
    row: dict[str, Any] = {"id": record.id, "name": record.name, "running": usage is not None}
    if usage is None:
        return row
    return {
        **row,
        **msgspec.to_builtins(usage),
        "cpu_percent": round(100 * share, 2),
        "memory_percent": round(100 * usage.memory / usage.memory_limit, 2),
    }


async def top(engine: Engine, request: requests.Top, connection: Connection) -> Any:
    columns = choose_columns(request.columns)
    record = engine.records.get(request.container)
    container = engine.running(record)
    files = await read_user_files(container.sandbox, container.rootfs)
    first = container.host_pid
    if first is None:
        raise WrongState(f"container {record.name} is not running", cure=f"ctnr start {record.name}")
    headings, rows = list_processes(first, files, columns)
    return {"headings": headings, "rows": rows}


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Stats: stats,
    requests.Top: top,
}
