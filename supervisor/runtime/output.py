"""Output of containers in the background: read from pipes or a pty, logged, and copied to whoever is attached."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from supervisor.runtime.logs import Log

CHUNK_BYTES = 1 << 16
SLOW_READER_SECONDS = 5


class Output:
    """One container's output. `log` may be None (nothing is kept)."""

    def __init__(self, log: Log | None) -> None:
        self.log = log
        self.watchers: list[Callable[[str, bytes], None]] = []
        self._readers: dict[trio.lowlevel.FdStream, trio.Lock] = {}  # stdout and stderr go to each, in turns

    @asynccontextmanager
    async def copied(self) -> AsyncIterator[int]:
        """The read end of a pipe (the caller's) that gets all output as long as the block lasts."""
        read_end, write_end = os.pipe()
        reader = trio.lowlevel.FdStream(write_end)
        self._readers[reader] = trio.Lock()
        try:
            yield read_end
        finally:
            await self._drop(reader)

    async def pump(self, descriptor: int, stream: str) -> None:
        """Copy from `descriptor` (owned from here) until its end; a pty's hang-up (EIO) is an end."""
        async with trio.lowlevel.FdStream(descriptor) as source:
            with suppress(trio.BrokenResourceError):
                while data := await source.receive_some(CHUNK_BYTES):
                    if self.log is not None:
                        self.log.write(stream, bytes(data))
                    for watcher in self.watchers:
                        watcher(stream, bytes(data))
                    for reader, turn in list(self._readers.items()):
                        await self._copy(reader, turn, data)

    async def _copy(self, reader: trio.lowlevel.FdStream, turn: trio.Lock, data: bytes | bytearray) -> None:
        with trio.move_on_after(SLOW_READER_SECONDS) as scope:
            try:
                async with turn:
                    await reader.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                scope.cancel()
                await self._drop(reader)
        if scope.cancelled_caught:
            await self._drop(reader)

    async def _drop(self, reader: trio.lowlevel.FdStream) -> None:
        if self._readers.pop(reader, None) is not None:
            await trio.aclose_forcefully(reader)

    async def close(self) -> None:
        """The last output has come: readers see the end, the log is complete."""
        for reader in list(self._readers):
            await self._drop(reader)
        if self.log is not None and not self.log.closed:
            self.log.close()
