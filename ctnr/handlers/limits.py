"""What holds containers back while they run: pause, unpause, update."""

from __future__ import annotations

from typing import Any

import msgspec

from ctnr import requests
from ctnr.bundles.resources import build_limits, merge
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
        if request.limits is None:
            return
        limits = merge(record.request.limits, request.limits)
        new, container = build_limits(limits), engine.live(record)
        if container is not None:
            await container.update(new)
        record.request = msgspec.structs.replace(record.request, limits=limits)
        engine.records.save(record)

    return await each(connection, request.containers, one)


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Pause: pause,
    requests.Unpause: unpause,
    requests.Update: update,
}
