"""Temporary run directories of supervisors: locked as long as one lives; those of killed ones go with the next."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from supervisor.lock import try_lock

PREFIX = "ctnr-run-"
SANDBOX = "sandbox"  # all that may lie in one: what the sandbox mounts over it has gone with the sandbox


@contextmanager
def own_run_dir() -> Iterator[str]:
    """A directory of one's own for as long as the block lasts; what killed ones of this user have left is removed.

    Raises: OSError.
    """
    remove_deserted()
    path, lock = _make()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_deserted() -> None:
    """Only empty directories of this user whose lock is free: no file of anybody's goes with them."""
    top = tempfile.gettempdir()
    with suppress(OSError):
        for name in os.listdir(top):
            if name.startswith(PREFIX):
                _remove(f"{top}/{name}")


def is_deserted(path: str) -> bool:
    """Whether nobody lives there (any more)."""
    lock = try_lock(path)
    if lock is not None:
        os.close(lock)
    return lock is not None or not os.path.lexists(path)


def _remove(path: str) -> None:
    with suppress(OSError):
        found = os.lstat(path)
        if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
            return
        lock = try_lock(path)
        if lock is None:
            return
        try:
            for one in (f"{path}/{SANDBOX}", path):
                with suppress(FileNotFoundError):
                    os.rmdir(one)
        finally:
            os.close(lock)


def _make() -> tuple[str, int]:
    """Once more where somebody took it for a dead one's before it had its lock."""
    while True:
        path = tempfile.mkdtemp(prefix=PREFIX)
        lock = try_lock(path)
        if lock is None:
            continue
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(lock).st_ino:
                return path, lock
        os.close(lock)
