"""How often a helper of a network (slirp4netns, pasta) is started again when it dies, and after which pause."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import trio


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """At most `limit` restarts within `window_seconds`; the pause before them doubles from first to last."""

    limit: int = 5
    window_seconds: float = 60.0
    first_seconds: float = 0.02
    last_seconds: float = 2.0

    def pause(self, number: int) -> float:
        return min(self.last_seconds, self.first_seconds * 2.0 ** (number - 1))


class Deaths:
    """Those of one helper that still count."""

    def __init__(self, restarts: Restarts) -> None:
        self._restarts = restarts
        self._times: deque[float] = deque()

    def count(self) -> float | None:
        """One more, now: the pause in seconds before the next start; None if they were too many."""
        now = trio.current_time()
        self._times.append(now)
        while self._times[0] < now - self._restarts.window_seconds:
            self._times.popleft()
        number = len(self._times)
        return self._restarts.pause(number) if number <= self._restarts.limit else None

    def __str__(self) -> str:
        return f"{len(self._times)} times within {self._restarts.window_seconds:g} s"
