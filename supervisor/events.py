"""What happened, in order: one bounded history per supervisor, and any number of readers that nobody waits for.

The words are docker's where it has some (podman's died, remove, exec and exec_died are its die, destroy, exec_start
and exec_die): create start die kill stop restart pause unpause oom health_status update rename attach detach
exec_start exec_die destroy; of networks connect and disconnect. Ours: restarting (a back-off begins), ready, failed (a
later round of a container could not be set up), slirp_died and slirp_restarted (pasta_… likewise).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Mapping

import msgspec
import trio

KEPT_EVENTS = 1024  # some 500 bytes each
LOST = "lost"

_NOTHING: Mapping[str, str] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a container (or, with type network, between it and a network).

    `status` is the exit status, of die and exec_die. `attributes` are the container's labels and image, and what is
    particular to the action: docker's names (signal, network, oldName, execID), or seconds, error, health, condition.
    A reader that fell behind gets one with type events and action lost, whose attribute count says how many.
    """

    time: float  # Unix seconds
    action: str
    id: str = ""
    name: str = ""
    type: str = "container"
    status: int | None = None
    attributes: Mapping[str, str] = _NOTHING


class EventLog:
    """The last `kept` events. Telling one costs an append, whoever listens."""

    def __init__(self, kept: int = KEPT_EVENTS) -> None:
        self._kept: deque[Event] = deque(maxlen=kept)
        self._told = 0  # since the beginning; the number of the next one
        self._waiting = trio.lowlevel.ParkingLot()

    def tell(self, event: Event) -> None:
        """Synchronous, and never waits for a reader."""
        self._kept.append(event)
        self._told += 1
        self._waiting.unpark_all()

    def read(self, since: float | None = None) -> EventReader:
        """Events from now on, after those that are kept from Unix time `since` on."""
        first = self._told
        if since is not None:
            first -= sum(1 for event in self._kept if event.time >= since)
        return EventReader(self, first)

    async def _next(self, number: int) -> tuple[Event, int]:
        """The event of that number, or what tells that it is lost; and the number to go on with."""
        while number >= self._told:
            await self._waiting.park()
        first = self._told - len(self._kept)
        if number < first:
            return _lost(first - number, self._kept[0].time), first
        await (
            trio.lowlevel.cancel_shielded_checkpoint()
        )  # an event that is there is never lost to a deadline
        return self._kept[number - first], number + 1


class EventReader(AsyncIterator[Event]):
    """Iterates over events without an end; begins when it is made, not when it is first asked. Needs no closing."""

    def __init__(self, log: EventLog, number: int) -> None:
        self._log, self._number = log, number

    async def __anext__(self) -> Event:
        event, self._number = await self._log._next(self._number)
        return event


def describe_event(
    action: str,
    id: str,
    name: str,
    labels: Mapping[str, str] = _NOTHING,
    *,
    type: str = "container",
    status: int | None = None,
    **attributes: str,
) -> Event:
    """An event of this moment."""
    told = {**labels, **attributes} if attributes else labels
    return Event(
        time=time.time(), action=action, id=id, name=name, type=type, status=status, attributes=told
    )


def _lost(count: int, moment: float) -> Event:
    return Event(time=moment, type="events", action=LOST, attributes={"count": str(count)})
