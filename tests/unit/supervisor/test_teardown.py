"""Undoing: last step first, each tried, one that fails once more."""

from __future__ import annotations

import pytest
import trio

from supervisor.errors import StepTimeout
from supervisor.teardown import Teardown, start_in_turn


class Steps:
    """Undo steps that say when they run; `failures` of them fail, as often as told."""

    def __init__(self, **failures: int) -> None:
        self.ran: list[str] = []
        self._failures = failures

    def onto(self, teardown: Teardown, *names: str) -> None:
        for name in names:
            teardown.push(name, lambda name=name: self._undo(name))

    async def _undo(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self.ran.append(name)
        if self._failures.get(name, 0) > 0:
            self._failures[name] -= 1
            raise OSError(f"{name} is busy")


async def test_a_step_that_fails_is_tried_once_more() -> None:
    steps, teardown = Steps(second=1), Teardown()
    steps.onto(teardown, "first", "second", "third")
    await teardown.run()
    assert steps.ran == ["third", "second", "second", "first"]


async def test_the_others_are_tried_whatever_fails() -> None:
    steps, teardown = Steps(second=2), Teardown()
    steps.onto(teardown, "first", "second")
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="second is busy")) as caught:
        await teardown.run()
    assert steps.ran == ["second", "second", "first"]
    assert caught.value.exceptions[0].__notes__ == ["during teardown step: second"]


async def test_a_teardown_in_a_teardown_keeps_its_error() -> None:
    steps, outer, inner = Steps(link=2), Teardown(), Teardown()
    steps.onto(inner, "link")
    outer.push("inner", inner.run)
    with pytest.RaisesGroup(pytest.RaisesGroup(OSError)):
        await outer.run()
    assert steps.ran == ["link", "link"]


async def test_a_step_that_hangs_is_told_and_not_tried_again(autojump_clock: trio.abc.Clock) -> None:
    steps, teardown = Steps(), Teardown(step_seconds=5)
    steps.onto(teardown, "first")
    teardown.push("hanging", trio.sleep_forever)
    with pytest.RaisesGroup(StepTimeout):
        await teardown.run()
    assert steps.ran == ["first"]
    assert trio.current_time() < 6


@pytest.mark.parametrize("steps", range(6))
async def test_a_task_in_turn_outlives_what_is_cancelled_around_it(
    steps: int, autojump_clock: trio.testing.MockClock
) -> None:
    """From the step on in which it has started; before, its start can be cancelled."""
    told: list[str] = []

    async def run(*, task_status: trio.TaskStatus[str]) -> None:
        told.append("begun")
        try:
            await trio.lowlevel.checkpoint()
            task_status.started("value")
            told.append("started")
            await trio.sleep_forever()
        finally:
            told.append("ended")

    async def cancel(scope: trio.CancelScope) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    teardown, before = Teardown(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel, nursery.cancel_scope)
        try:
            assert await start_in_turn("end it", run, teardown, nursery) == "value"
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                before = list(told)
                await teardown.run()
    if "started" in before:
        assert before == ["begun", "started"]
        assert told == ["begun", "started", "ended"]
    else:
        assert steps < 4
        assert told in ([], ["begun", "ended"])
