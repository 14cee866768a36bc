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
    statuses: list[int | None],
    *,
    seconds: float,
    takes: float = 0,
    paused: Callable[[], bool] = lambda: False,
) -> tuple[list[float], list[str]]:
    """At what times it was asked, and what it became, within so many seconds. A status of None is none."""
    asked: list[float] = []
    became: list[str] = []
    health = Health(check)

    async def ask() -> ProbeResult | None:
        asked.append(trio.current_time())
        await trio.sleep(takes)
        status = statuses.pop(0) if statuses else 0
        return None if status is None else result(status)

    async def changed() -> None:
        became.append(health.status)

    told: Callable[[], Awaitable[None]] = changed
    with trio.move_on_after(seconds):
        await watch(health, ask, paused, told)
    return asked, became


async def test_checks_come_an_interval_apart(autojump_clock: trio.testing.MockClock) -> None:
    asked, became = await played(CHECK, [0, 1, 1, 1, 0], seconds=130, takes=1)
    assert rounded(asked) == [0.1, 31.1, 62.1, 93.1, 124.1]
    assert became == ["healthy", "unhealthy", "healthy"]


async def test_until_it_is_healthy_it_is_asked_early_and_those_failures_do_not_count(
    autojump_clock: trio.testing.MockClock,
) -> None:
    failing: list[int | None] = [1] * 100
    asked, became = await played(CHECK, failing, seconds=94, takes=1)
    counted = [30, 61, 92]
    assert rounded(asked) == [0.1, 1.3, 2.7, 4.5, 7.1, 11.3, 18.7, 30, 43.8, 61, 87.6, 92]
    assert set(counted) < set(asked)
    assert became == ["unhealthy"]  # after three that were due, not after three


async def test_an_early_success_counts(autojump_clock: trio.testing.MockClock) -> None:
    asked, became = await played(CHECK, [1] * 5 + [0], seconds=40)
    assert rounded(asked) == [0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 36.3]
    assert became == ["healthy"]


async def test_an_unhealthy_one_is_not_asked_early(autojump_clock: trio.testing.MockClock) -> None:
    check = HealthCheck(command=("true",), interval_seconds=1, retries=1)
    asked, became = await played(check, [1] * 6, seconds=4.5)
    assert rounded(asked) == [0.1, 0.3, 0.7, 1, 2, 3, 4]
    assert became == ["unhealthy", "healthy"]


async def test_they_come_quicker_in_the_start_period(autojump_clock: trio.testing.MockClock) -> None:
    check = HealthCheck(command=("true",), retries=1, start_period_seconds=20, start_interval_seconds=2)
    asked, became = await played(check, [1] * 8 + [0, 0], seconds=70)
    assert rounded(asked) == [0.1, 0.3, 0.7, 1.5, 2, 3.6, 4, 6, 8, 38, 68]
    assert became == ["healthy"]


def rounded(times: list[float]) -> list[float]:
    return [round(one, 6) for one in times]


async def test_what_is_paused_is_not_asked(autojump_clock: trio.testing.MockClock) -> None:
    asked, _ = await played(CHECK, [], seconds=130, paused=lambda: trio.current_time() < 70)
    assert asked == [90, 120]


async def test_one_that_is_paused_before_its_check_begins_is_checked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked, became = await played(CHECK, [0, None, 1, 1, 1], seconds=130)
    assert rounded(asked) == [0.1, 30.1, 60.1, 90.1, 120.1]
    assert became == ["healthy", "unhealthy"]
