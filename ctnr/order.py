"""Who is started before whom, and stopped after whom; and what a new service starts by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import structlog
import trio

from ctnr.dependencies import check_cycle, dependants, dependencies_of
from ctnr.records import Record
from supervisor.errors import SupervisorError
from supervisor.groups import bare_errors, single_error

if TYPE_CHECKING:
    from ctnr.engine import Engine

log = structlog.get_logger()


async def start_dependencies(engine: Engine, record: Record) -> None:
    """What it needs runs before it does, all at the same time.

    Raises: as Engine.start; NotFound, WrongState; SupervisorError if it needs itself.
    """
    needed = dependencies_of(record)
    if not needed:
        return
    check_cycle(record, engine.records.find)

    async def one(name: str, condition: str) -> None:
        other = engine.records.get(name)
        await engine.ensure_running(other)
        container = engine.running(other)
        if condition == "ready":
            await container.wait_ready()
        elif condition == "healthy":
            await container.wait_healthy(patient=False)

    with bare_errors():
        async with trio.open_nursery() as nursery:
            for name, condition in needed:
                nursery.start_soon(one, name, condition)


def stopper(engine: Engine, records: Sequence[Record]) -> Callable[[Record, float | None], Awaitable[None]]:
    """What stops one of these, with a grace in seconds (None: its own).

    All may be stopped at the same time: those that others of them need end after the others.
    """
    waits = dependants(records, engine.records.find)
    gone = {record.id: trio.Event() for record in records}

    async def stop(record: Record, grace_seconds: float | None) -> None:
        try:
            for other in waits.get(record.id, ()):
                await gone[other].wait()
            container = engine.live(record)
            if container is not None:
                await container.stop(grace_seconds)
        finally:
            if record.id in gone:
                gone[record.id].set()

    return stop


async def stop_all(engine: Engine) -> None:
    """Every container, with its own grace. They come back with the next service, if they are to."""
    records = [one for one in engine.records.all() if engine.live(one) is not None]
    stop = stopper(engine, records)
    async with trio.open_nursery() as nursery:
        for record in records:
            nursery.start_soon(stop, record, None)
    await engine.supervisor.stop_all()


async def bring_back(engine: Engine) -> None:
    """After the last service has ended, or was killed: start what is to run, forget what --rm would have."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep_volumes, engine)
        for record in engine.records.all():
            if record.wanted:
                nursery.start_soon(_bring_back, engine, record)
            elif (
                record.request.remove and record.request.start and not engine.bundles.is_busy(record.bundle)
            ):
                nursery.start_soon(_forget_killed, engine, record)
    engine.settled.set()


async def _bring_back(engine: Engine, record: Record) -> None:
    try:
        await engine.ensure_running(record, resumed=True)
    except Exception as exc:
        record.error = str(single_error(exc))
        log.warning("container_not_brought_back", container=record.name, error=record.error)
        engine.tell("failed", record, error=record.error)


async def _forget_killed(engine: Engine, record: Record) -> None:
    try:
        await engine.remove(record)
    except (SupervisorError, OSError) as exc:
        log.warning("container_not_forgotten", container=record.name, error=str(exc))


async def sweep_volumes(engine: Engine) -> None:
    """Finish what was being done to volumes when a service was killed."""
    try:
        await engine.volumes.sweep(sandbox=engine.sandbox)
    except (SupervisorError, OSError) as exc:
        log.warning("volumes_not_swept", error=str(exc))
