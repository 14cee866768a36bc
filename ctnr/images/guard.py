"""Who may change a store: many add at the same time, one collects alone; what went wrong is told in one line.

Whoever adds comes by what processes left that died at work, and removes it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from ctnr.images.locks import SUFFIX, dead_claims, file_lock
from ctnr.images.pull import OpenSandbox
from ctnr.images.view import StoreView
from supervisor.errors import SupervisorError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


class StoreError(SupervisorError):
    """The store can't be written."""


@asynccontextmanager
async def adding(store: StoreView, sandbox: OpenSandbox | None) -> AsyncIterator[None]:
    """The store is there and writable, and nothing is collected meanwhile. `sandbox` is for whoever adds layers.

    Raises: StoreError.
    """
    async with holding(store):
        with _clear_errors(store.root):
            await sweep(store, sandbox)
            yield


@asynccontextmanager
async def holding(store: StoreView) -> AsyncIterator[None]:
    """Nothing is collected meanwhile: an image that is found is there until somebody has put down that he uses it.

    Raises: StoreError.
    """
    _make(store)
    async with file_lock(f"{store.root}/lock", shared=True):
        yield


@asynccontextmanager
async def collecting(store: StoreView) -> AsyncIterator[None]:
    """Nobody adds meanwhile, in any process; waits until nobody does. Raises: StoreError."""
    _make(store)
    async with file_lock(f"{store.root}/lock"):
        with _clear_errors(store.root):
            yield


async def sweep(store: StoreView, sandbox: OpenSandbox | None) -> None:
    """Remove what processes left that died at work; layers only if there is a sandbox."""
    for directory in ("tmp", "images", "names", "blobs/sha256"):
        remove_dead(f"{store.root}/{directory}")
    if sandbox is not None and dead_claims(store.layers.root):
        await store.layers.sweep(await sandbox())


def remove_dead(directory: str) -> None:
    """Remove unfinished files and trees of processes that have died, and their locks."""
    for path in dead_claims(directory):
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                os.unlink(path)
        with suppress(FileNotFoundError):
            os.unlink(path + SUFFIX)


def _make(store: StoreView) -> None:
    with _clear_errors(store.root):
        os.makedirs(
            store.root, 0o700, exist_ok=True
        )  # what images and containers hold is nobody else's to read
        for directory in ("tmp", "locks", "blobs/sha256"):
            os.makedirs(f"{store.root}/{directory}", 0o711, exist_ok=True)


@contextmanager
def _clear_errors(root: str) -> Iterator[None]:
    """What the kernel says about the store, as one line with a cure."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_SPACE:
            raise StoreError(
                f"image store {root}: no space left on device", cure="ctnr image gc, or another --store-dir"
            ) from None
        if exc.errno in _NO_WRITE:
            raise StoreError(
                f"image store {root}: {exc.filename or root}: {exc.strerror}",
                cure="make it yours and writable, or use --store-dir",
            ) from None
        raise
