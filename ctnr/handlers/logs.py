"""The logs of containers: what there is, and what is to come."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.bundles.log_options import log_driver
from ctnr.engine import Engine
from ctnr.records import Record
from supervisor.errors import SupervisorError
from supervisor.runtime.log_reader import READ_BYTES, LogReader, lines_of
from supervisor.runtime.logs import FILE, STAMP_BYTES, Log
from supervisor.service.server import Connection


class _Sender:
    """Entries to the client, one message at a time: several followers share the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = trio.Lock()

    async def send(self, place: int, entries: bytes) -> None:
        async with self._lock:
            await self._connection.send("item", value={"container": place, "entries": entries})


async def logs(engine: Engine, request: requests.Logs, connection: Connection) -> Any:
    """Several containers' lines come in the order of their times; while they are followed, as they are written."""
    records = [engine.records.get(name) for name in request.containers]
    written = [_log_of(engine, record) for record in records]
    sender = _Sender(connection)
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                LogReader(
                    engine.records.log_path(record),
                    tail=request.tail, since=request.since, until=request.until,
                )
            )
            for record in records
        ]  # fmt: skip
        if len(readers) > 1:
            await _send_merged(readers, sender)
        async with trio.open_nursery() as nursery:
            for place, reader in enumerate(readers):
                log = written[place] if request.follow else None
                nursery.start_soon(_follow, place, reader, log, sender)
    for record, log in zip(records, written, strict=True):
        lost = str(log.lost.strerror) if log is not None and log.lost is not None else record.log_lost
        if lost:
            await connection.send("warning", text=f"the log of {record.name} is not whole: {lost}")
    return None


async def _follow(place: int, reader: LogReader, log: Log | None, sender: _Sender) -> None:
    async for entries in reader.follow(log):
        await sender.send(place, entries)


async def _send_merged(readers: list[LogReader], sender: _Sender) -> None:
    """What there is of all of them, sorted by time."""
    place, held, size = 0, list[bytes](), 0
    for at, line in heapq.merge(
        *[_lines(at, reader) for at, reader in enumerate(readers)], key=lambda one: one[1][:STAMP_BYTES]
    ):
        if held and (at != place or size > READ_BYTES):
            await sender.send(place, b"".join(held))
            held, size = [], 0
        place = at
        held.append(line)
        size += len(line)
    if held:
        await sender.send(place, b"".join(held))


def _lines(place: int, reader: LogReader) -> Iterator[tuple[int, bytes]]:
    while entries := reader.read():
        for line in lines_of(entries):
            yield place, line


def _log_of(engine: Engine, record: Record) -> Log | None:
    """What writes it now. Raises: SupervisorError if none is kept here."""
    driver = log_driver(record.request)
    if driver != FILE:
        cure = (
            f"journalctl CONTAINER_NAME={record.name}" if driver != "none" else "choose another --log-driver"
        )
        raise SupervisorError(
            f"container {record.name} has log driver {driver}: there is no file", cure=cure
        )
    container = engine.live(record)
    log = container.streams.output.log if container is not None else None
    if log is None and record.started is not None and not os.path.exists(engine.records.log_path(record)):
        raise SupervisorError(
            f"container {record.name} has no log: its output went to the terminal or the pipe that started it",
            cure="containers that run with -d have one",
        )
    return log


TABLE: dict[type[msgspec.Struct], Any] = {requests.Logs: logs}
