"""Volumes: list, inspect, create, rm, prune. What they are on disk, and who has them, is told by `ctnr.volumes`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from ctnr import requests
from ctnr.engine import Engine
from ctnr.handlers.life import each, remove_one
from ctnr.inspection import rfc3339
from ctnr.records import parse_labels
from ctnr.volumes import User, VolumeFile, VolumeInUse
from supervisor.errors import NotFound
from supervisor.service.server import Connection


async def volume_list(engine: Engine, request: requests.VolumeList, connection: Connection) -> Any:
    users = engine.volumes.users()
    return [
        _describe(engine, name, file, users.get(name, [])) for name, file in engine.volumes.all().items()
    ]


async def volume_inspect(engine: Engine, request: requests.VolumeInspect, connection: Connection) -> Any:
    users = engine.volumes.users()
    found = [engine.volumes.get(text) for text in request.names]
    return [_describe(engine, name, file, users.get(name, [])) for name, file in found]


async def volume_create(engine: Engine, request: requests.VolumeCreate, connection: Connection) -> Any:
    return engine.volumes.create(request.name, parse_labels(request.labels), ignore=request.ignore)


async def volume_remove(engine: Engine, request: requests.VolumeRemove, connection: Connection) -> Any:
    await engine.volumes.sweep(sandbox=engine.sandbox)

    async def one(text: str) -> bool:
        name = engine.volumes.find(text)
        if name is None and request.force:
            return False
        name = engine.volumes.get(text)[0]
        for user in engine.volumes.users().get(name, ()) if request.force else ():
            if user.record is not None and user.record.owner == engine.records.owner:
                await remove_one(engine, user.record, force=True, volumes=False)
        await engine.volumes.remove(name, sandbox=engine.sandbox)
        return True

    return await each(connection, request.names, one)


async def volume_prune(engine: Engine, request: requests.VolumePrune, connection: Connection) -> Any:
    """Some may have got users meanwhile, or be gone: those are left out."""
    await engine.volumes.sweep(sandbox=engine.sandbox)
    paths = {name: engine.volumes.path(name) for name in request.names}
    sizes = await engine.tree_sizes(list(paths.values()))
    removed = []
    for name in paths:
        with suppress(NotFound, VolumeInUse):
            await engine.volumes.remove(name, sandbox=engine.sandbox)
            removed.append(name)
    return {"volumes": removed, "bytes": sum(sizes[paths[name]] for name in removed)}


def _describe(engine: Engine, name: str, file: VolumeFile, users: list[User]) -> dict[str, Any]:
    """As docker and podman lay it out, and who has it."""
    return {
        "Name": name,
        "Driver": "local",
        "Mountpoint": engine.volumes.path(name),
        "CreatedAt": rfc3339(file.created),
        "Labels": file.labels,
        "Scope": "local",
        "Options": {},
        "Anonymous": file.anonymous,
        "Containers": [user.name for user in users if user.record is not None],
        "UsedBy": [user.what for user in users],
    }


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.VolumeList: volume_list,
    requests.VolumeInspect: volume_inspect,
    requests.VolumeCreate: volume_create,
    requests.VolumeRemove: volume_remove,
    requests.VolumePrune: volume_prune,
}
