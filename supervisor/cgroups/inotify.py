"""Waiting for a file to change, by inotify(7): what cgroup.events is made for."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import trio

IN_MODIFY = 0x2

_libc = ctypes.CDLL(None, use_errno=True)


async def wait_modified(path: str, condition: Callable[[], bool]) -> None:
    """Until `condition` holds; it is asked at once and after each change of the file. Raises: OSError."""
    watch = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if watch < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1", path)
    try:
        if _libc.inotify_add_watch(watch, os.fsencode(path), IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", path)
        while not condition():
            await trio.lowlevel.wait_readable(watch)
            os.read(watch, 4096)
    finally:
        trio.lowlevel.notify_closing(watch)
        os.close(watch)
