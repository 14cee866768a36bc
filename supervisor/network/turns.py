"""Whose turn it is: CNI wants one operation at a time for a container, and garbage collection alone."""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

_POLL_SECONDS = 0.01  # flock(2) can't be waited for without a thread


class Turns:
    """CNI 1.1.0 section 3, "Lifecycle & Ordering". Different containers run side by side.

    `lock` is a descriptor (the caller's) of a file that all processes lock whose plugins share their state: a block
    that is alone is so among all of them.
    """

    def __init__(self, lock: int | None = None) -> None:
        self._lock = lock
        self._busy: set[str] = set()
        self._alone: trio.lowlevel.Task | None = None
        self._wanting_alone = 0
        self._lot = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def of_container(self, container_id: str) -> AsyncIterator[None]:
        """No other block for this container, and none that is alone, while this one lasts; unless it is in that."""
        await trio.lowlevel.checkpoint()
        if self._is_ours():
            yield
            return
        while self._alone is not None or self._wanting_alone or container_id in self._busy:
            await self._lot.park()
        self._busy.add(container_id)
        try:
            await self._acquire(fcntl.LOCK_SH)
            yield
        finally:
            self._busy.discard(container_id)
            if not self._busy:
                self._release()
            self._lot.unpark_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """No other block at all while this one lasts, but those inside it; blocks asked for later wait behind it."""
        await trio.lowlevel.checkpoint()
        if self._is_ours():
            yield
            return
        self._wanting_alone += 1
        try:
            while self._alone is not None or self._busy:
                await self._lot.park()
            self._alone = trio.lowlevel.current_task()
        finally:
            self._wanting_alone -= 1
            self._lot.unpark_all()
        try:
            await self._acquire(fcntl.LOCK_EX)
            yield
        finally:
            self._alone = None
            self._release()
            self._lot.unpark_all()

    def _is_ours(self) -> bool:
        return self._alone is trio.lowlevel.current_task()

    async def _acquire(self, kind: int) -> None:
        while self._lock is not None:
            try:
                fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                await trio.sleep(_POLL_SECONDS)

    def _release(self) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
