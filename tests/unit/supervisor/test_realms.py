"""A supervisor's realm outlives its containers, wherever a cancellation comes; the realm is played here."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from supervisor import supervisor
from supervisor.supervisor import open_supervisor


class CancelAtStep(trio.abc.Instrument):
    """Cancels its scope before the n-th step of any task."""

    def __init__(self, number: int) -> None:
        self.left, self.scope = number, trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


def test_a_realm_that_has_started_is_left_when_nobody_uses_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []

    @asynccontextmanager
    async def played_realm(*_: Any, **__: Any) -> AsyncIterator[Any]:
        async def wait_unused() -> None:
            await trio.lowlevel.checkpoint()
            said.append("unused")

        await trio.lowlevel.checkpoint()
        sandbox = SimpleNamespace(gone=False, wait_gone=trio.sleep_forever)
        if trio.current_effective_deadline() > -math.inf:
            said.append("started")
        try:
            yield SimpleNamespace(sandbox=sandbox, wait_unused=wait_unused)
        finally:
            said.append("left")

    async def story(at: CancelAtStep) -> None:
        with at.scope, trio.fail_after(5):
            async with open_supervisor(str(tmp_path)) as opened:
                await opened.realm(rootless=True)
                await trio.lowlevel.checkpoint()

    monkeypatch.setattr(supervisor, "open_realm", played_realm)
    seen = set()
    for _ in range(10):  # trio shuffles the order of tasks
        for number in itertools.count(1):
            said.clear()
            at = CancelAtStep(number)
            trio.run(story, at, instruments=[at])
            seen.add(tuple(said))
            if at.left > 0:
                break
    assert seen <= {(), ("left",), ("started", "unused", "left")}
    assert ("started", "unused", "left") in seen
