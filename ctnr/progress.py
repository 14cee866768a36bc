"""Progress of pulls, from the image store to the client: numbers for a terminal's bars, or a line per step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ctnr.images.progress import Progress, Report
from supervisor.service.server import Connection

BAR_SECONDS = 0.1


@asynccontextmanager
async def reporting(connection: Connection, *, bars: bool) -> AsyncIterator[Report]:
    """Something to report progress to, for as long as the block lasts; what was told last is sent too."""
    reporter = Reporter(connection, bars=bars)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reporter.run)
        yield reporter
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await reporter.flush()


class Reporter:
    """Takes progress synchronously, as the store tells it, and sends it on; the newest of each bar wins."""

    def __init__(self, connection: Connection, *, bars: bool) -> None:
        self._connection = connection
        self._bars = bars
        self._waiting: dict[tuple[str, bool], Progress] = {}
        self._told: set[tuple[str, str]] = set()
        self._news = trio.Event()

    def __call__(self, progress: Progress) -> None:
        self._waiting[progress.id, progress.warning] = progress
        self._news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await self.flush()
            if self._bars:
                await trio.sleep(BAR_SECONDS)

    async def flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for progress in waiting.values():
            if self._bars and not progress.warning:
                await self._connection.send(
                    "progress", id=progress.id, what=progress.what, done=progress.done, total=progress.total
                )
            elif (progress.id, progress.what) not in self._told:
                self._told.add((progress.id, progress.what))
                kind = "warning" if progress.warning else "message"
                await self._connection.send(kind, text=f"{progress.id}: {progress.what}")
