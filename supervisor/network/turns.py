"""Whose turn it is: CNI wants one operation at a time for a container, and garbage collection alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Turns:
    """CNI 1.1.0 section 3, "Lifecycle & Ordering". Different containers run side by side."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._alone = False
        self._wanting_alone = 0
        self._lot = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def of_container(self, container_id: str) -> AsyncIterator[None]:
        """No other block for this container, and none that is alone, while this one lasts."""
        await trio.lowlevel.checkpoint()
        while self._alone or self._wanting_alone or container_id in self._busy:
            await self._lot.park()
        self._busy.add(container_id)
        try:
            yield
        finally:
            self._busy.discard(container_id)
            self._lot.unpark_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """No other block at all while this one lasts; blocks asked for later wait behind it."""
        await trio.lowlevel.checkpoint()
        self._wanting_alone += 1
        try:
            while self._alone or self._busy:
                await self._lot.park()
            self._alone = True
        finally:
            self._wanting_alone -= 1
            self._lot.unpark_all()
        try:
            yield
        finally:
            self._alone = False
            self._lot.unpark_all()
