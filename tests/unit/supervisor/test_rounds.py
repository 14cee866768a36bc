"""A container's rounds on the mock clock: what a program that ends after so many seconds makes of its policy.

The rounds are played, since no process lives in virtual time; tests/ns/supervisor/test_restart.py has real ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from supervisor.container import Container
from supervisor.errors import RuntimeFailed
from supervisor.events import EventLog
from supervisor.restart import RestartPolicy, parse_restart_policy
from supervisor.spec import ContainerSpec, State


class PlayedRound:
    """Runs for `seconds` and ends with `status`; an exception instead is what its set-up fails with."""

    script: list[tuple[float, int] | Exception]
    starts: list[float]

    def __init__(self, container: Container, realm: Any) -> None:
        self.process, self.status = None, None
        self.started_at: float | None = None
        self.ended, self.gone = trio.Event(), trio.Event()
        self.membership = SimpleNamespace(tell_all=lambda action: None)
        self.vigil = SimpleNamespace(ready=True, health=None)
        self._container, self._scope = container, trio.CancelScope()

    async def run(self) -> None:
        played = self.script.pop(0) if self.script else (1000.0, 0)
        if isinstance(played, Exception):
            raise played
        seconds, status = played
        self.started_at = trio.current_time()
        self.starts.append(self.started_at)
        self._container.round_started()
        with self._scope:
            await trio.sleep(seconds)
        self.status = 137 if self._scope.cancelled_caught else status
        self.ended.set()
        self._container.round_ended(self.status, trio.current_time() - self.started_at)

    def cancel(self) -> None:
        self._scope.cancel()


async def _unused(*_: Any) -> Any:
    raise AssertionError


@contextlib.contextmanager
def _use() -> Iterator[None]:
    yield


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a container whose rounds are as told; `play.starts` is when they began."""
    monkeypatch.setattr("supervisor.container.Round", PlayedRound)

    def make(policy: str | RestartPolicy, *script: tuple[float, int] | Exception) -> Container:
        PlayedRound.script, PlayedRound.starts = list(script), []
        restart = parse_restart_policy(policy) if isinstance(policy, str) else policy
        spec = ContainerSpec(
            id="1" * 64, name="web", rootfs="/", build=_unused, build_process=_unused, restart=restart, stop_seconds=0
        )  # fmt: skip
        sandbox = SimpleNamespace(run_dir="/run", gone=False)
        realm: Any = SimpleNamespace(sandbox=sandbox, events=EventLog(), use=_use)
        return Container(spec, realm, _unused)

    return make


def starts() -> list[float]:
    return [round(one, 3) for one in PlayedRound.starts]


async def test_the_pause_doubles(play: Any, autojump_clock: trio.testing.MockClock) -> None:
    container = play("on-failure:4", *[(1, 2)] * 9)
    async with trio.open_nursery() as nursery:
        await nursery.start(container.run)
        assert await container.wait() == 2
    assert starts() == [0, 1.1, 2.3, 3.7, 5.5]
    assert (container.backoff.count, container.state) == (4, State.STOPPED)


async def test_a_steady_run_begins_anew(play: Any, autojump_clock: trio.testing.MockClock) -> None:
    container = play("always", (1, 1), (1, 1), (10, 1), (1, 1))
    async with trio.open_nursery() as nursery:
        await nursery.start(container.run)
        await trio.sleep(20)
        await container.stop()
    assert starts() == [0, 1.1, 2.3, 12.4, 13.6]


async def test_a_success_ends_on_failure(play: Any, autojump_clock: trio.testing.MockClock) -> None:
    container = play("on-failure", (1, 1), (1, 0))
    async with trio.open_nursery() as nursery:
        await nursery.start(container.run)
        assert await container.wait() == 0
    assert starts() == [0, 1.1]


async def test_stop_ends_the_pause(play: Any, autojump_clock: trio.testing.MockClock) -> None:
    container = play(RestartPolicy(when=parse_restart_policy("always").when, first_seconds=500), (1, 3))
    async with trio.open_nursery() as nursery:
        await nursery.start(container.run)
        await trio.sleep(100)
        assert container.state is State.RESTARTING
        await container.stop()
        assert trio.current_time() == pytest.approx(100)
    assert container.status == 3


async def test_restart_ends_the_pause_and_forgets_it(
    play: Any, autojump_clock: trio.testing.MockClock
) -> None:
    container = play(RestartPolicy(when=parse_restart_policy("always").when, first_seconds=500), (1, 3))
    async with trio.open_nursery() as nursery:
        await nursery.start(container.run)
        await trio.sleep(100)
        await container.restart()
        assert (starts(), container.backoff.count) == ([0, 100], 0)
        await container.stop()


async def test_a_set_up_that_fails_counts(play: Any, autojump_clock: trio.testing.MockClock) -> None:
    container = play("on-failure:2", (1, 1), RuntimeFailed("no"), RuntimeFailed("still no"), (1, 0))
    async with trio.open_nursery() as nursery:
        await nursery.start(container.run)
        assert await container.wait() == 125
    assert (starts(), container.backoff.count) == ([0], 2)
    assert str(container.error) == "still no"


async def test_the_first_one_is_raised(play: Any, autojump_clock: trio.testing.MockClock) -> None:
    container = play("always", RuntimeFailed("no"))
    async with trio.open_nursery() as nursery:
        with pytest.raises(RuntimeFailed, match="no"):
            await nursery.start(container.run)


async def test_unless_it_is_resumed(play: Any, autojump_clock: trio.testing.MockClock) -> None:
    container = play("always", RuntimeFailed("no"), (1000, 0))

    async def resume(*, task_status: trio.TaskStatus[Container]) -> None:
        await container.run(resumed=True, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(resume)
        assert container.state is State.RESTARTING
        await container.wait_until(lambda: container.state is State.RUNNING)
        assert starts() == [0.1]
        await container.stop()
