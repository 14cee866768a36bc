"""A stack of undo steps: last up, first down, each tried, shielded, with a deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from supervisor.errors import StepTimeout


class Teardown:
    """Push the undo *before* the step that may half-succeed; `run` once, in whatever way the set-up ended."""

    def __init__(self, step_seconds: float = 30) -> None:
        self._step_seconds = step_seconds
        self._steps: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def push(self, step: str, undo: Callable[[], Awaitable[object]]) -> None:
        self._steps.append((step, undo))

    def pop_all(self) -> Teardown:
        """Hand the steps over to a stack that lives longer; this one is empty then."""
        taken = Teardown(self._step_seconds)
        taken._steps, self._steps = self._steps, []
        return taken

    async def run(self) -> None:
        """Undo everything, last step first.

        Raises: ExceptionGroup of the steps' own errors and of StepTimeout for those that did not end in time.
        """
        failed: list[Exception] = []
        while self._steps:
            step, undo = self._steps.pop()
            scope = trio.CancelScope(deadline=trio.current_time() + self._step_seconds, shield=True)
            try:
                with scope:
                    await undo()
            except Exception as exc:
                exc.add_note(f"during teardown step: {step}")
                failed.append(exc)
            if scope.cancelled_caught:
                failed.append(StepTimeout(f"teardown: {step}", self._step_seconds))
        if failed:
            raise ExceptionGroup("teardown", failed)
