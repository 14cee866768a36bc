"""Locks on files, between the tasks of one process and between processes that share a store.

flock(2) belongs to the open file: it ends with its holder, however that dies, and holds between two tasks of one
process too. It has no readiness to wait for, so waiting is asking again; that can be cancelled, a thread could not.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import trio

FIRST_WAIT_SECONDS = 0.005
LONGEST_WAIT_SECONDS = 0.1

SUFFIX = ".lock"


@asynccontextmanager
async def file_lock(path: str, *, shared: bool = False, transient: bool = False) -> AsyncIterator[bool]:
    """Hold the lock `path` (made if need be); gives True if somebody else had it first. Entering is a checkpoint.

    A `transient` lock file is removed by its last exclusive holder. Raises: OSError.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    seconds, has_waited = FIRST_WAIT_SECONDS, False
    await trio.lowlevel.checkpoint()
    while (descriptor := _try_lock(path, kind)) is None:
        has_waited = True
        await trio.sleep(seconds)
        seconds = min(seconds * 2, LONGEST_WAIT_SECONDS)
    try:
        yield has_waited
    finally:
        if transient:
            with suppress(FileNotFoundError):
                os.unlink(path)
        os.close(descriptor)


@contextmanager
def claim(directory: str) -> Iterator[str]:
    """A name in `directory` for something unfinished; as long as the block lasts, `dead_claims` does not list it.

    What the block makes under that name (a file or tree) it must rename or remove itself.
    """
    while True:
        name = f".new-{secrets.token_hex(8)}"
        descriptor = _try_lock(f"{directory}/{name}{SUFFIX}", fcntl.LOCK_EX)
        if descriptor is not None:
            break
    try:
        yield f"{directory}/{name}"
    finally:
        if not os.path.lexists(f"{directory}/{name}"):  # else it is left to the next sweep
            with suppress(FileNotFoundError):
                os.unlink(f"{directory}/{name}{SUFFIX}")
        os.close(descriptor)


def dead_claims(directory: str) -> list[str]:
    """Claims in `directory` whose holders are gone, as paths; their lock files are at path + SUFFIX."""
    dead = []
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    for name in names:
        if name.startswith(".new-") and name.endswith(SUFFIX):
            descriptor = _try_lock(f"{directory}/{name}", fcntl.LOCK_EX, make=False)
            if descriptor is not None:
                os.close(descriptor)
                dead.append(f"{directory}/{name.removesuffix(SUFFIX)}")
    return dead


def _try_lock(path: str, kind: int, *, make: bool = True) -> int | None:
    try:
        # an archive is written where the user says: there, links may be others'
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        if make:
            raise
        return None
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        own, named = os.fstat(descriptor), os.stat(path)
        if own.st_ino == named.st_ino:  # else it was removed between open and flock
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
