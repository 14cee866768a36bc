"""Containers that are held back or changed while they run: pause, unpause, update."""

from __future__ import annotations

from typing import Any

import msgspec

from ctnr import requests
from ctnr.bundles.resources import build_limits, merge
from ctnr.creation import check_restart
from ctnr.engine import Engine
from ctnr.handlers.life import each
from supervisor.service.server import Connection


async def pause(engine: Engine, request: requests.Pause, connection: Connection) -> Any:
    async def one(name: str) -> None:
        await engine.running(engine.records.get(name)).confinement.pause()

    return await each(connection, request.containers, one)


async def unpause(engine: Engine, request: requests.Unpause, connection: Connection) -> Any:
    async def one(name: str) -> None:
        await engine.running(engine.records.get(name)).confinement.unpause()

    return await each(connection, request.containers, one)


async def update(engine: Engine, request: requests.Update, connection: Connection) -> Any:
    """Change a container: at once if it runs, and for its next start. All or nothing of each."""

    async def one(name: str) -> None:
        record = engine.records.get(name)
        container = engine.live(record)
        changes: dict[str, Any] = {}
        policy = None if request.restart is None else check_restart(record.request, request.restart)
        if request.limits is not None:
            changes["limits"] = merge(record.request.limits, request.limits)
            limits = build_limits(changes["limits"])
            if container is not None:
                await container.update(limits)
        if policy is not None:
            changes["restart"] = str(policy)
            if container is not None:
                container.backoff.policy = policy
                record.wanted = policy.is_lasting and container.streams.output.log is not None
        record.request = msgspec.structs.replace(record.request, **changes)
        engine.records.save(record)

    return await each(connection, request.containers, one)


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Pause: pause,
    requests.Unpause: unpause,
    requests.Update: update,
}
