"""What no name, container or bundle refers to any more leaves the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from ctnr.images.catalog import names_in
from ctnr.images.guard import collecting, sweep
from ctnr.images.manifest import BrokenImage, Manifest, load
from ctnr.images.pull import OpenSandbox
from ctnr.images.view import StoreView


async def collect_garbage(
    store: StoreView, *, sandbox: OpenSandbox, used: Callable[[], Iterable[str]], every: bool = False
) -> dict[str, int]:
    """Drop images without a name (with `every` also named ones) that are not `used`, then blobs and layers of none.

    Waits until no pull is under way, in any process, nor a container being made of an image; then `used` is asked.
    Returns {"images", "layers", "blobs", "bytes"}.
    Raises: StoreError.
    """
    dropped = {"images": 0, "layers": 0, "blobs": 0, "bytes": 0}
    async with collecting(store):
        names = store.catalog.names()
        keep = set(used()) | (set() if every else set(names.values()))
        for file in list(store.catalog.image_files()):
            if file.id not in keep:
                for name in [name for name, image_id in names.items() if image_id == file.id]:
                    store.catalog.remove_name(name)
                store.catalog.remove_image(file.id)
                dropped["images"] += 1
        blobs, layers = _referenced(store)
        for name in names_in(store.catalog.blob_dir):
            if name not in blobs:
                dropped["bytes"] += os.stat(store.blob(name)).st_size
                os.unlink(store.blob(name))
                dropped["blobs"] += 1
        stale = [store.layers.path(name) for name in names_in(store.layers.root) if name not in layers]
        if stale:
            await (await sandbox()).remove_tree(*stale)
            dropped["layers"] += len(stale)
        await sweep(store, sandbox)
    return dropped


def _referenced(store: StoreView) -> tuple[set[str], set[str]]:
    blobs: set[str] = set()
    layers: set[str] = set()
    for file in store.catalog.image_files():
        blobs |= {file.id, file.manifest}
        layers |= {*file.layers, *file.diff_ids}
        with suppress(FileNotFoundError, BrokenImage):
            manifest = load(store.catalog.read_blob(file.manifest), Manifest, "manifest")
            blobs |= {layer.hex for layer in manifest.layers}
    return blobs, layers
