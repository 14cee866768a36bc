"""Health checks on the mock clock: when they are made, what their results come to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from supervisor.health import KEPT_RESULTS, Health, HealthCheck, HealthStatus, ProbeResult, watch

CHECK = HealthCheck(command=("true",))


def result(status: int) -> ProbeResult:
    return ProbeResult(start=0, end=0, status=status)


def test_three_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() -> None:
    health = Health(CHECK)
    assert health.status is HealthStatus.STARTING
    assert [health.take(result(one), 60) for one in (1, 1, 0, 1, 1, 1, 1, 0)] == [
        False, False, True, False, False, True, False, True,
    ]  # fmt: skip
    assert (health.status, health.failing_streak) == (HealthStatus.HEALTHY, 0)
    assert len(health.results) == KEPT_RESULTS


def test_in_the_start_period_failures_do_not_count() -> None:
    health = Health(HealthCheck(command=("true",), retries=1, start_period_seconds=10))
    assert not health.take(result(1), 9)
    assert (health.status, health.failing_streak) == (HealthStatus.STARTING, 0)
    assert health.take(result(1), 10)
    assert health.status is HealthStatus.UNHEALTHY


def test_the_first_success_ends_the_start_period() -> None:
    health = Health(HealthCheck(command=("true",), retries=1, start_period_seconds=100))
    assert health.pause(0) == 5
    assert health.take(result(0), 1)
    assert health.pause(1) == 30
    assert health.take(result(1), 2)
    assert health.status is HealthStatus.UNHEALTHY


async def played(
    check: HealthCheck,
    statuses: list[int],
    *,
    seconds: float,
    takes: float = 0,
    paused: Callable[[], bool] = lambda: False,
) -> tuple[list[float], list[str]]:
    """At what times it was asked, and what it became, within so many seconds."""
    asked: list[float] = []
    became: list[str] = []
    health = Health(check)

    async def ask() -> ProbeResult:
        asked.append(trio.current_time())
        await trio.sleep(takes)
        return result(statuses.pop(0) if statuses else 0)

    async def changed() -> None:
        became.append(health.status)

    told: Callable[[], Awaitable[None]] = changed
    with trio.move_on_after(seconds):
        await watch(health, ask, paused, told)
    return asked, became


async def test_checks_come_an_interval_apart(autojump_clock: trio.testing.MockClock) -> None:
    asked, became = await played(CHECK, [1, 1, 1, 0], seconds=125, takes=1)
    assert asked == [30, 61, 92, 123]
    assert became == ["unhealthy", "healthy"]


async def test_they_come_quicker_in_the_start_period(autojump_clock: trio.testing.MockClock) -> None:
    check = HealthCheck(command=("true",), start_period_seconds=20, start_interval_seconds=2)
    asked, became = await played(check, [1, 1, 0, 0], seconds=70)
    assert asked == [2, 4, 6, 36, 66]
    assert became == ["healthy"]


async def test_what_is_paused_is_not_asked(autojump_clock: trio.testing.MockClock) -> None:
    asked, _ = await played(CHECK, [], seconds=130, paused=lambda: trio.current_time() < 70)
    assert asked == [90, 120]
