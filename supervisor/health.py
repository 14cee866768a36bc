"""Health checks in docker's sense: a command that is run in the container again and again, and what comes of it.

The rules are pure (`Health`), the loop asks for a probe and says what changed; only `probe` knows of containers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
import trio

from supervisor.errors import RuntimeFailed

if TYPE_CHECKING:
    from supervisor.container import Container

KEPT_RESULTS = 5
FIRST_EARLY_SECONDS = 0.1  # from the start, or from a check's end; doubled each time
DRAIN_SECONDS = 0.2  # for its output, where something that it has started holds the pipes
OUTPUT_BYTES = 4096  # of a probe, as docker keeps
TIMED_OUT = -1


class HealthStatus(StrEnum):
    """What people see of it."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class OnFailure(StrEnum):
    """What is done with a container that has become unhealthy."""

    NONE = "none"
    KILL = "kill"  # its restart policy says what then
    RESTART = "restart"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """Docker's HEALTHCHECK, with its defaults. `command` is run in the container as exec would."""

    command: tuple[str, ...]
    interval_seconds: float = 30
    timeout_seconds: float = 30
    retries: int = 3
    start_period_seconds: float = 0  # failures do not count until then, or the first success
    start_interval_seconds: float = 5  # between the checks in that period
    on_failure: OnFailure = OnFailure.NONE


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the command. Times are Unix seconds; `status` is TIMED_OUT if it was killed for that."""

    start: float
    end: float
    status: int
    output: str = ""


class Health:
    """Of one round of a container."""

    def __init__(self, check: HealthCheck) -> None:
        self.check = check
        self.status = HealthStatus.STARTING
        self.failing_streak = 0
        self.results: deque[ProbeResult] = deque(maxlen=KEPT_RESULTS)
        self.has_succeeded = False

    def take(self, result: ProbeResult, up_seconds: float, *, early: bool = False) -> bool:
        """Whether the status is another one after this result, `up_seconds` into the round.

        A failure does not count in the start period, nor of an `early` check: it is only to see a success soon.
        """
        before = self.status
        self.results.append(result)
        if result.status == 0:
            self.failing_streak, self.has_succeeded = 0, True
            self.status = HealthStatus.HEALTHY
        elif not early and (self.has_succeeded or up_seconds >= self.check.start_period_seconds):
            self.failing_streak += 1
            if self.failing_streak >= self.check.retries:
                self.status = HealthStatus.UNHEALTHY
        return self.status is not before

    def pause(self, up_seconds: float) -> float:
        """Seconds until the next check that counts."""
        check = self.check
        if not self.has_succeeded and up_seconds < check.start_period_seconds:
            return min(check.start_interval_seconds, check.interval_seconds)
        return check.interval_seconds


async def watch(
    health: Health,
    ask: Callable[[], Awaitable[ProbeResult | None]],
    is_paused: Callable[[], bool],
    changed: Callable[[], Awaitable[None]],
) -> None:
    """Check for ever, from the start of a round; one check at a time, none while the container is paused.

    `ask` gives None where it was paused just then. As long as it is `starting` there are early checks beside those that
    are due: one right after the start, and then at pauses that grow, so that nobody waits for an interval who waits for
    it.
    """
    began = trio.current_time()
    due, early_pause = began + health.pause(0), FIRST_EARLY_SECONDS
    while True:
        now = trio.current_time()
        at = due
        if health.status is HealthStatus.STARTING and now + early_pause < due:
            at = now + early_pause
            early_pause *= 2
        await trio.sleep_until(at)
        if not is_paused():
            result = await ask()
            took = trio.current_time() - began
            if result is None or (result.status and is_paused()):
                pass  # it was paused meanwhile
            elif health.take(result, took, early=at < due):
                await changed()
        if at == due or health.status is not HealthStatus.STARTING:
            now = trio.current_time()
            due = now + health.pause(now - began)


async def probe(container: Container, check: HealthCheck) -> ProbeResult:
    """Run the command once. At its timeout it is killed, with all that it has started in its process group.

    Raises: WrongState if the container does not run (any more).
    """
    start = time.time()
    output = bytearray()

    async def read(stream: trio.abc.ReceiveStream) -> None:
        async for chunk in stream:
            output.extend(chunk[: max(OUTPUT_BYTES - len(output), 0)])

    status = TIMED_OUT
    try:
        with trio.move_on_after(check.timeout_seconds):
            async with container.open_exec(check.command) as process, trio.open_nursery() as nursery:
                await process.stdin.aclose()
                nursery.start_soon(read, process.stdout)
                nursery.start_soon(read, process.stderr)
                status = await process.wait()
                nursery.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS  # what is in the pipes
        told = output.decode(errors="replace")
        if status == TIMED_OUT:
            told += f"{told and chr(10)}health check exceeded timeout ({check.timeout_seconds:g}s)"
    except RuntimeFailed as exc:
        status, told = exc.exit_status, str(exc)
    return ProbeResult(start=start, end=time.time(), status=status, output=told)
