"""A stack of undo steps: last up, first down, each tried, shielded, with a deadline; tasks that end in their turn."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from supervisor.errors import StepTimeout


class Teardown:
    """Push the undo *before* the step that may half-succeed; `run`, in whatever way the set-up ended.

    Undoing is idempotent, as what it undoes may be half there.
    """

    def __init__(self, step_seconds: float = 30) -> None:
        self._step_seconds = step_seconds
        self._steps: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        self._failed: list[Exception] = []

    def push(self, step: str, undo: Callable[[], Awaitable[object]]) -> None:
        self._steps.append((step, undo))

    def pop_all(self) -> Teardown:
        """Hand the steps over to a stack that lives longer; this one is empty then."""
        taken = Teardown(self._step_seconds)
        taken._steps, self._steps = self._steps, []
        return taken

    async def run(self) -> None:
        """Undo everything, last step first. A step that fails is tried once more; run again, it tells the same errors.

        Raises: ExceptionGroup of the steps' own errors and of StepTimeout for those that did not end in time.
        """
        while self._steps:
            step, undo = self._steps.pop()
            error = await self._try(step, undo)
            if error is not None and not isinstance(error, StepTimeout):
                error = await self._try(step, undo)
            if error is not None:
                error.add_note(f"during teardown step: {step}")
                self._failed.append(error)
        if self._failed:
            raise ExceptionGroup("teardown", self._failed)

    async def _try(self, step: str, undo: Callable[[], Awaitable[object]]) -> Exception | None:
        scope = trio.CancelScope(deadline=trio.current_time() + self._step_seconds, shield=True)
        try:
            with scope:
                await undo()
        except Exception as exc:
            return exc
        return StepTimeout(f"teardown: {step}", self._step_seconds) if scope.cancelled_caught else None


async def start_in_turn(
    step: str,
    run: Callable[..., Awaitable[None]],
    teardown: Teardown,
    nursery: trio.Nursery,
    *,
    end: Callable[[Any], object] | None = None,
) -> Any:
    """Start the task `run(task_status=…)`, which ends when `teardown` comes to `step`, not when all is cancelled.

    Returns what it has started with; `end` is called with that to end it, in place of a cancellation.
    Raises: what `run` raises before it has started.
    """
    gone, scope = trio.Event(), trio.CancelScope()

    async def live(*, task_status: trio.TaskStatus[Any]) -> None:
        try:
            with scope:
                await run(task_status=Shielding(scope, task_status))
        finally:
            gone.set()

    started = await nursery.start(live)

    async def finish() -> None:
        if end is not None:
            end(started)
        else:
            scope.cancel()
        await gone.wait()

    teardown.push(step, finish)
    return started


class Shielding:
    """A trio.TaskStatus that shields the task from the moment on in which it has started: nothing comes between."""

    def __init__(self, scope: trio.CancelScope, status: trio.TaskStatus[Any]) -> None:
        self._scope, self._status = scope, status

    def started(self, value: Any = None) -> None:
        if (
            trio.current_effective_deadline() > -math.inf
        ):  # else its start is cancelled, and it would never end
            self._scope.shield = True
        self._status.started(value)
