"""What no name, container or bundle refers to any more leaves the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable

import msgspec

from ctnr.images.catalog import names_in
from ctnr.images.guard import collecting, sweep
from ctnr.images.pull import OpenSandbox
from ctnr.images.view import StoreView


class Dropped(msgspec.Struct):
    """What has gone: the ids of images, how many layers and blobs, and how many bytes on disk they all took."""

    images: list[str]
    layers: int = 0
    blobs: int = 0
    bytes: int = 0


async def collect_garbage(
    store: StoreView,
    *,
    sandbox: OpenSandbox,
    used: Callable[[], Iterable[str]],
    every: bool = False,
    among: Container[str] | None = None,
) -> Dropped:
    """Drop images without a name (with `every` also named ones) that are not `used`, then blobs and layers of none.

    Of images only those `among` these ids, if some are given. Waits until no pull is under way, in any process, nor a
    container being made of an image; then `used` is asked. Raises: StoreError.
    """
    dropped = Dropped(images=[])
    async with collecting(store):
        names = store.catalog.names()
        keep = set(used()) | (set() if every else set(names.values()))
        for file in list(store.catalog.image_files()):
            if file.id not in keep and (among is None or file.id in among):
                for name in [name for name, image_id in names.items() if image_id == file.id]:
                    store.catalog.remove_name(name)
                store.catalog.remove_image(file.id)
                dropped.images.append(file.id)
        blobs, layers = _referenced(store)
        for name in names_in(store.catalog.blob_dir):
            if name not in blobs:
                dropped.bytes += os.stat(store.blob(name)).st_blocks * 512
                os.unlink(store.blob(name))
                dropped.blobs += 1
        stale = [store.layers.path(name) for name in names_in(store.layers.root) if name not in layers]
        if stale:
            inside = await sandbox()
            sizes = await inside.tree_sizes(stale)
            await inside.remove_tree(*stale)
            dropped.layers += len(stale)
            dropped.bytes += sum(sizes.values())
        await sweep(store, sandbox)
    return dropped


def _referenced(store: StoreView) -> tuple[set[str], set[str]]:
    blobs: set[str] = set()
    layers: set[str] = set()
    for file in store.catalog.image_files():
        its_blobs, its_layers = store.parts(file)
        blobs |= its_blobs
        layers |= its_layers
    return blobs, layers
