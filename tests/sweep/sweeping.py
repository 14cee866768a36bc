"""Run a story again and again, cancelled one step later each time, and look for what it left."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import trio

from tests.world.leaks import descendants

STRIDE = int(os.environ.get("CTNR_SWEEP_STRIDE", "4"))  # 1: every single step
SETTLE_SECONDS = 3
Story = Callable[[], Awaitable[None]]


class CancelAtStep(trio.abc.Instrument):
    """Cancels its scope before the n-th step of any task."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


def sweep(story: Story, *, stride: int = STRIDE) -> int:
    """How many points were covered, when the story got through. Raises: AssertionError with the first leak."""
    points, step = 0, 1
    before = set(os.listdir("/proc/self/fd"))
    known = set(descendants())  # the world's own servers
    while True:
        instrument = CancelAtStep(step)

        async def once(scope: trio.CancelScope = instrument.scope) -> None:
            with scope:
                await story()

        trio.run(once, instruments=[instrument])
        _assert_nothing_left(before, known, step)
        points += 1
        if instrument.left > 0 and not instrument.scope.cancelled_caught:
            return points
        step += stride


def _assert_nothing_left(before: set[str], known: set[int], step: int) -> None:
    async def settle() -> None:
        with trio.move_on_after(SETTLE_SECONDS):
            while set(descendants()) - known:  # noqa: ASYNC110 -- the kernel has no event for it
                await trio.sleep(0.002)

    trio.run(settle)
    left = [f"{pid}: {_command(pid)}" for pid in set(descendants()) - known]
    assert not left, f"cancelled at step {step}, these processes are left: {left}"
    opened = {fd: _target(fd) for fd in set(os.listdir("/proc/self/fd")) - before}
    opened = {fd: target for fd, target in opened.items() if target and not target.startswith("/proc/")}
    assert not opened, f"cancelled at step {step}, these descriptors are left: {opened}"


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().replace("\0", " ")[:100]
    except OSError:
        return "?"


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""
