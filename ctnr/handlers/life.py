"""What is done to containers that exist: start, stop, restart, kill, wait, rm."""

from __future__ import annotations

import signal as signals
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.bundles.process import parse_signal
from ctnr.engine import Engine
from supervisor.errors import WrongState
from supervisor.service.server import Connection


async def start(engine: Engine, request: requests.Start, connection: Connection) -> Any:
    """In the background, as they were made, one after the other. One that runs is fine."""
    turn = trio.StrictFIFOLock()  # the later ones may share namespaces of the earlier ones

    async def one(name: str) -> None:
        async with turn:
            await engine.ensure_running(engine.records.get(name))

    return await each(connection, request.containers, one)


async def wait(engine: Engine, request: requests.Wait, connection: Connection) -> Any:
    """The exit statuses, when all have ended."""
    statuses = []
    for name in request.containers:
        record = engine.records.get(name)
        container = engine.live(record)
        if container is not None:
            await container.wait_gone()
            statuses.append(container.status)
        else:
            statuses.append(record.status if record.status is not None else 137)
    return statuses


async def each(connection: Connection, names: tuple[str, ...], work: Any) -> list[str]:
    """Do it for all at the same time, every one tried. Those with which it went well, in order.

    Raises: ExceptionGroup if some failed; the others are told as `item` events before.
    """
    failed: list[Exception] = []
    done: set[str] = set()

    async def one(name: str) -> None:
        try:
            await work(name)
            done.add(name)
        except Exception as exc:
            failed.append(exc)

    async with trio.open_nursery() as nursery:
        for name in dict.fromkeys(names):
            nursery.start_soon(one, name)
    if failed:
        for name in names:
            if name in done:
                await connection.send("item", value=name)
        raise ExceptionGroup("some failed", failed)
    return list(names)


async def stop(engine: Engine, request: requests.Stop, connection: Connection) -> Any:
    """Stop signal, grace, SIGKILL. One that has stopped is fine."""

    async def one(name: str) -> None:
        record = engine.records.find(name) if request.ignore else engine.records.get(name)
        if record is None:
            return
        engine.unwant(record)
        container = engine.live(record)
        if container is not None:
            await container.stop(request.seconds)

    return await each(connection, request.containers, one)


async def restart(engine: Engine, request: requests.Restart, connection: Connection) -> Any:
    """Stop and start; one that has ended is started."""

    async def one(name: str) -> None:
        await engine.restart(engine.records.get(name), request.seconds)

    return await each(connection, request.containers, one)


async def kill(engine: Engine, request: requests.Kill, connection: Connection) -> Any:
    number = parse_signal(request.signal)

    async def one(name: str) -> None:
        record = engine.records.get(name)
        container = engine.running(record)
        if number in (signals.SIGKILL, container.spec.stop_signal):  # meant to end it, so for good
            engine.unwant(record)
            container.end_restarts()
        await container.signal(number)
        if number == signals.SIGKILL:
            await container.wait_gone()

    return await each(connection, request.containers, one)


async def remove(engine: Engine, request: requests.Remove, connection: Connection) -> Any:
    async def one(name: str) -> None:
        record = engine.records.find(name) if request.ignore else engine.records.get(name)
        if record is None:
            return
        container = engine.live(record)
        if container is not None:
            if not request.force:
                raise WrongState(
                    f"container {record.name} is running",
                    cure=f"ctnr stop {record.name}, or: ctnr rm -f {record.name}",
                )
            container.cancel()
            await container.wait_gone()
        await engine.remove(record)

    return await each(connection, request.containers, one)


async def rename(engine: Engine, request: requests.Rename, connection: Connection) -> Any:
    """At once for us; on its networks, where others look for it by name, from its next start on."""
    engine.rename(engine.records.get(request.container), request.name)
    return None


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Start: start,
    requests.Wait: wait,
    requests.Stop: stop,
    requests.Restart: restart,
    requests.Kill: kill,
    requests.Remove: remove,
    requests.Rename: rename,
}
