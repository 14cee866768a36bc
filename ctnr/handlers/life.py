"""What is done to containers that exist: start, stop, restart, kill, wait, rm."""

from __future__ import annotations

import signal as signals
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.bundles.process import parse_signal
from ctnr.engine import Engine
from ctnr.order import stopper
from ctnr.records import Record
from supervisor.errors import SupervisorError, WrongState
from supervisor.service.server import Connection
from supervisor.spec import State


async def start(engine: Engine, request: requests.Start, connection: Connection) -> Any:
    """In the background, as they were made, one after the other. One that runs is fine."""
    turn = trio.StrictFIFOLock()  # the later ones may share namespaces of the earlier ones

    async def one(name: str) -> None:
        async with turn:
            await engine.ensure_running(engine.records.get(name))

    return await each(connection, request.containers, one)


async def wait(engine: Engine, request: requests.Wait, connection: Connection) -> Any:
    """The exit statuses, when all have ended; or until all have reached another condition."""
    if request.condition != "stopped":
        await each(connection, request.containers, partial(_wait_for, engine, request.condition))
        return []
    statuses = []
    for name in request.containers:
        record = engine.records.get(name)
        container = engine.live(record)
        if container is not None:
            await container.wait_gone()
            statuses.append(container.status)
        else:
            statuses.append(record.last_status if record.last_status is not None else 137)
    return statuses


async def _wait_for(engine: Engine, condition: str, name: str) -> None:
    """Raises: WrongState where that will not be."""
    record = engine.records.get(name)
    container = engine.live(record)
    if condition == "removed":
        reader = engine.supervisor.events()
        while engine.records.find(record.id) is not None:
            await anext(reader)
        return
    if container is None:
        raise WrongState(f"container {record.name} is not running", cure=f"ctnr start {record.name}")
    if condition == "healthy":
        await container.wait_healthy()
    elif condition == "ready":
        await container.wait_ready()
    else:
        await container.wait_until(lambda: container.state is State.RUNNING or container.has_ended)
        if container.has_ended:
            raise WrongState(f"container {record.name} has ended with status {container.status}")


async def run_health_check(engine: Engine, request: requests.HealthRun, connection: Connection) -> Any:
    """One check now: its status, its output, and what the container's health is with it."""
    container = engine.running(engine.records.get(request.container))
    result = await container.check_health()
    assert container.health is not None
    return {"health": container.health.status, "status": result.status, "output": result.output}


async def each(connection: Connection, names: tuple[str, ...], work: Any) -> list[str]:
    """Do it for all at the same time, every one tried. Those with which it went well, in order.

    `work` gives False for one with which there is nothing to do.
    Raises: ExceptionGroup if some failed; the others are told as `item` events before.
    """
    failed: list[Exception] = []
    done: set[str] = set()

    async def one(name: str) -> None:
        try:
            if await work(name) is not False:
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
    return [name for name in names if name in done]


async def stop(engine: Engine, request: requests.Stop, connection: Connection) -> Any:
    """Stop signal, grace, SIGKILL. One that has stopped is fine."""

    named = [record for name in request.containers if (record := _found(engine, name)) is not None]
    stop_one = stopper(engine, named)

    async def one(name: str) -> bool:
        record = engine.records.find(name) if request.ignore else engine.records.get(name)
        if record is None:
            return False
        engine.unwant(record)
        await stop_one(record, request.seconds)
        return True

    return await each(connection, request.containers, one)


def _found(engine: Engine, name: str) -> Record | None:
    """Told of each name for itself, later, if there is none or are several."""
    with suppress(SupervisorError):
        return engine.records.find(name)
    return None


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
    async def one(name: str) -> bool:
        record = engine.records.find(name) if request.ignore else engine.records.get(name)
        if record is None:
            return False
        await remove_one(
            engine, record, force=request.force, volumes=request.volumes, grace_seconds=request.seconds
        )
        return True

    return await each(connection, request.containers, one)


async def remove_one(
    engine: Engine, record: Record, *, force: bool, volumes: bool, grace_seconds: float | None = None
) -> None:
    """With `force` also one that runs: killed at once, or after its stop signal and a grace. Its anonymous `volumes` go
    too if --rm was to remove it.

    Raises: WrongState, SupervisorError, OSError.
    """
    container = engine.live(record)
    if container is not None:
        if not force:
            raise WrongState(
                f"container {record.name} is running",
                cure=f"ctnr stop {record.name}, or: ctnr rm -f {record.name}",
            )
        if grace_seconds is not None:
            await container.stop(grace_seconds)
        container.cancel()
        await container.wait_gone()
    if engine.records.find(record.id) is record:  # --rm has not removed it
        await engine.remove(record, volumes=volumes or record.request.remove)


async def rename(engine: Engine, request: requests.Rename, connection: Connection) -> Any:
    """At once for us; on its networks, where others look for it by name, from its next start on."""
    engine.rename(engine.records.get(request.container), request.name)
    return None


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Start: start,
    requests.Wait: wait,
    requests.HealthRun: run_health_check,
    requests.Stop: stop,
    requests.Restart: restart,
    requests.Kill: kill,
    requests.Remove: remove,
    requests.Rename: rename,
}
