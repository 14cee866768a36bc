"""What takes how many bytes on disk, and how many of them `system prune -a --volumes` would free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ctnr.housekeeping import stale_bundles, used_images
from ctnr.images.catalog import ImageFile, names_in
from supervisor.spec import State

if TYPE_CHECKING:
    from ctnr.engine import Engine

Row = dict[str, Any]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Of one kind of things: how many there are and are in use, and bytes. `rows` are the things, each with `bytes`."""

    kind: str
    total: int
    active: int
    bytes: int
    reclaimable: int
    rows: list[Row]


async def measure(engine: Engine) -> list[Usage]:
    """Images, containers, volumes and bundles, all counted by one process. Raises: SandboxError, OSError."""
    images = {file.id: file for file in engine.images.catalog.image_files()}
    parts = {file.id: _paths(engine, file) for file in images.values()}
    stored = {
        *map(engine.images.blob, names_in(engine.images.catalog.blob_dir)),
        *map(engine.images.layers.path, names_in(engine.images.layers.root)),
    }
    records = engine.records.all()
    own = {record.id for record in engine.records.everybody()}
    bundles = {name: file for name, file in engine.bundles.all().items() if name not in own}
    uppers = [engine.bundles.upper(name) for name in (*bundles, *(record.id for record in records))]
    volumes = engine.volumes.all()
    places = [engine.volumes.path(name) for name in volumes]
    sizes = await engine.tree_sizes([*stored, *uppers, *places])

    def size_of_bundle(name: str) -> int:
        return sizes.get(engine.bundles.upper(name), 0)

    return [
        _images(engine, parts, stored, sizes),
        _containers(engine, {record.id: size_of_bundle(record.id) for record in records}),
        _volumes(engine, {name: sizes[engine.volumes.path(name)] for name in volumes}),
        _bundles(engine, {name: size_of_bundle(name) for name in bundles}),
    ]


def _paths(engine: Engine, file: ImageFile) -> set[str]:
    blobs, layers = engine.images.parts(file)
    return {*map(engine.images.blob, blobs), *map(engine.images.layers.path, layers)}


def _images(
    engine: Engine, parts: Mapping[str, set[str]], stored: Iterable[str], sizes: Mapping[str, int]
) -> Usage:
    """Compressed and unpacked. What belongs to no image any more can go, too."""
    having = Counter(path for paths in parts.values() for path in paths)
    users = Counter(record.image_id for record in engine.records.everybody())
    rows: list[Row] = [
        {
            **msgspec.to_builtins(image),
            "bytes": sum(sizes.get(path, 0) for path in parts[image.id]),
            "shared": sum(sizes.get(path, 0) for path in parts[image.id] if having[path] > 1),
            "containers": users[image.id],
        }
        for image in engine.images.list()
        if image.id in parts
    ]
    used = used_images(engine)
    needed = {path for image_id, paths in parts.items() if image_id in used for path in paths}
    total = sum(sizes[path] for path in stored)
    return Usage(
        kind="Images", total=len(rows), active=sum(row["id"] in used for row in rows), bytes=total,
        reclaimable=total - sum(sizes.get(path, 0) for path in needed), rows=rows,
    )  # fmt: skip


def _containers(engine: Engine, sizes: Mapping[str, int]) -> Usage:
    """What they have written; what is in a bundle with a name is the bundle's."""
    volumes = Counter(
        user.record.id for users in engine.volumes.users().values() for user in users if user.record
    )
    rows = [
        {**engine.summary(record), "bytes": sizes[record.id], "local_volumes": volumes[record.id]}
        for record in engine.records.all()
        if record.id in sizes
    ]
    return _sum("Containers", rows, [row["state"] not in (State.CREATED, State.STOPPED) for row in rows])


def _volumes(engine: Engine, sizes: Mapping[str, int]) -> Usage:
    users = engine.volumes.users()
    rows: list[Row] = [
        {"name": name, "bytes": size, "links": len(users.get(name, ()))} for name, size in sizes.items()
    ]
    return _sum("Local Volumes", rows, [row["links"] > 0 for row in rows])


def _bundles(engine: Engine, sizes: Mapping[str, int]) -> Usage:
    """Those with a name are kept, whether a container has them or not."""
    stale = set(stale_bundles(engine))
    users = Counter(record.bundle for record in engine.records.everybody())
    rows: list[Row] = [
        {"name": name, "bytes": size, "containers": users[name]} for name, size in sizes.items()
    ]
    used = _sum("Bundles", rows, [row["containers"] > 0 for row in rows])
    return msgspec.structs.replace(
        used, reclaimable=sum(row["bytes"] for row in rows if row["name"] in stale)
    )


def _sum(kind: str, rows: list[Row], active: list[bool]) -> Usage:
    return Usage(
        kind=kind, total=len(rows), active=sum(active), bytes=sum(row["bytes"] for row in rows), rows=rows,
        reclaimable=sum(row["bytes"] for row, is_used in zip(rows, active, strict=True) if not is_used),
    )  # fmt: skip
