"""Waiting until files change, whoever changes them and however: in place, by rename, or by a link that leads elsewhere.

    async with open_watch("/etc/resolv.conf") as watch:
        while True:
            await watch.wait_change()

inotify tells of a directory that something in it changed. So those of a path's links are watched, all along the
chain, and the file at its end, which may be mounted from elsewhere.
"""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import trio

from supervisor.sandbox.syscalls import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    inotify_add_watch,
    inotify_init1,
)

SETTLE_SECONDS = 0.05  # who writes a file truncates it first: what follows at once belongs to it
_LINKS_MAX = 40  # path_resolution(7)
_IN_DIRECTORY = IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR
_AT_FILE = IN_ATTRIB | IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MODIFY | IN_MOVE_SELF
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows


class Watch:
    """Of some files, that need not exist. For one task at a time."""

    def __init__(self, descriptor: int, paths: Sequence[str]) -> None:
        self._descriptor = descriptor
        self._paths = paths
        self._names: dict[int, set[bytes] | None] = {}  # by watch: what counts there; None: everything
        self._follow()

    async def wait_change(self) -> None:
        """Return when one of the files may have another content than when this was called or returned last."""
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            if self._read():
                break
        await trio.sleep(SETTLE_SECONDS)
        self._follow()
        self._read()  # what came meanwhile, our own new watches included

    def _follow(self) -> None:
        """Watch what the paths lead over now; an event of a place that they have left does no harm."""
        for path in self._paths:
            for place, name in _places(path):
                mask = _AT_FILE if name is None else _IN_DIRECTORY
                with suppress(OSError):  # it is not there: its directory tells when it comes
                    watch = inotify_add_watch(self._descriptor, place, mask)
                    known = self._names.setdefault(watch, set() if name is not None else None)
                    if name is not None and known is not None:
                        known.add(name)

    def _read(self) -> bool:
        """Was there an event that counts?"""
        counts = False
        while True:
            try:
                data = os.read(self._descriptor, 65536)
            except BlockingIOError:
                return counts
            at = 0
            while at < len(data):
                watch, _, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                names = self._names.get(watch, None)
                counts = counts or names is None or data[at - length : at].rstrip(b"\0") in names


def _places(path: str) -> Iterator[tuple[str, bytes | None]]:
    """Directory and name of each link from `path` on, then the file itself, which has no name."""
    for _ in range(_LINKS_MAX):
        directory = os.path.realpath(os.path.dirname(path))
        yield directory, os.fsencode(os.path.basename(path))
        try:
            path = os.path.join(directory, os.readlink(path))
        except OSError:
            break
    yield path, None


async def wait_modified(path: str, condition: Callable[[], bool]) -> None:
    """Until `condition` holds; it is asked at once and after each change of the one file's content. Raises: OSError."""
    with _open_inotify() as descriptor:
        inotify_add_watch(descriptor, path, IN_MODIFY)
        while not condition():
            await trio.lowlevel.wait_readable(descriptor)
            os.read(descriptor, 4096)


@asynccontextmanager
async def open_watch(*paths: str) -> AsyncIterator[Watch]:
    """A watch of absolute paths for as long as the block lasts. Raises: OSError if there are too many inotify users."""
    with _open_inotify() as descriptor:
        yield Watch(descriptor, paths)


@contextmanager
def _open_inotify() -> Iterator[int]:
    descriptor = inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        trio.lowlevel.notify_closing(descriptor)
        os.close(descriptor)
