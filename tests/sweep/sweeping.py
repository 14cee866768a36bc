"""A story again and again, each time disturbed one step later, and a look at what it left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from tests.sweep.stage import Home, Stage
from tests.world.leaks import wait_clean

POINT_SECONDS = 60
Play = Callable[[Stage], Awaitable[None]]


class Disturbance(Protocol):
    """What happens to a story at its n-th step (or call, …). `told` says where that was."""

    told: str

    async def disturb(self, play: Callable[[], Awaitable[None]]) -> bool:
        """Play it, disturbed; False if it got through before that. Raises: AssertionError if it ended uncleanly."""


async def sweep_on(
    stage: Stage, play: Play, disturbance: Callable[[int], Disturbance], stride: int, *, replay: bool = False
) -> int:
    """Disturb the story while the stage lives on: its own clean-up has to do it all.

    With `replay` it is played undisturbed after each point, else the next point is the proof that it still works.
    Returns how many points were covered. Raises: AssertionError with the first leak.
    """
    for _ in range(2):  # what is made once, and stays, is there then
        await play(stage)
        await stage.clear()
    before = await stage.look()
    points, number = 0, 1
    while True:
        at = disturbance(number)

        async def once() -> None:
            with trio.fail_after(POINT_SECONDS):
                await play(stage)

        disturbed = await at.disturb(once)
        try:
            await stage.clear()
        except Exception as exc:
            exc.add_note(at.told)
            raise
        await stage.expect(before, at.told)
        if not disturbed:
            return points
        if replay:
            with trio.fail_after(POINT_SECONDS):
                await play(stage)
            await stage.clear()
            await stage.expect(before, f"{at.told}, and played again after that")
        points += 1
        number += stride


def sweep_all(
    home: Home, play: Play, disturbance: Callable[[int], Disturbance], stride: int, *, rootless: bool
) -> int:
    """Disturb everything, stage and story, from opening the supervisor to leaving it. As `sweep_on`."""
    points, number = 0, 1
    before = home.look()
    while True:
        at = disturbance(number)

        async def once() -> None:
            with trio.fail_after(POINT_SECONDS):
                async with home.open_stage(rootless=rootless) as stage:
                    await play(stage)

        disturbed = trio.run(at.disturb, once)
        left = wait_clean(before, home.look)
        assert not left, f"{at.told}, these are left: {left}"
        if not disturbed:
            return points
        points += 1
        number += stride


class CancelAtStep(trio.abc.Instrument):
    """Cancels the story before the n-th step of any task. It has to end by that, and by nothing else."""

    def __init__(self, step: int) -> None:
        self.told = f"cancelled at step {step}"
        self._left = step
        self._scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()

    async def disturb(self, play: Callable[[], Awaitable[None]]) -> bool:
        trio.lowlevel.add_instrument(self)
        try:
            with self._scope:
                await play()
        except Exception as exc:
            exc.add_note(self.told)
            raise
        finally:
            trio.lowlevel.remove_instrument(self)
        return self._left <= 0
