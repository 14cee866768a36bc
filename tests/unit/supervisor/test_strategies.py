"""Who is started again in a group, and when it is given up: on a virtual clock, with containers that end on command."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from supervisor import GroupFailed, SupervisorError, open_group
from supervisor.restart import NEVER
from supervisor.strategies import Group, Intensity


class Puppet:
    """What a group asks of a container."""

    def __init__(self, name: str, story: list[str]) -> None:
        self.name, self.story = name, story
        self.status: int | None = None
        self.error: Exception | None = None
        self.backoff = SimpleNamespace(policy=NEVER)
        self._gone = trio.Event()
        story.append(f"+{name}")

    def end(self, status: int) -> None:
        if self.status is None:
            self.status = status
            self.story.append(f"-{self.name}")
            self._gone.set()

    def cancel(self) -> None:
        self.end(137)

    async def stop(self) -> None:
        await trio.sleep(0.01)
        self.end(143)

    async def wait_gone(self) -> None:
        await self._gone.wait()


class Stage:
    """Starts puppets, and says what happened: +name and -name, in order."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.refuse: dict[str, int] = {}  # by name, how many starts are to fail

    async def start(self, name: str) -> Any:
        await trio.sleep(0.01)
        if self.refuse.get(name, 0):
            self.refuse[name] -= 1
            raise SupervisorError(f"{name} is refused")
        return Puppet(name, self.story)

    def take(self) -> str:
        said = " ".join(self.story)
        self.story.clear()
        return said


@pytest.mark.parametrize(
    ("strategy", "story"),
    [
        ("one_for_one", "-b +b"),
        ("one_for_all", "-b -c -a +a +b +c"),
        ("rest_for_one", "-b -c +b +c"),
    ],
)
async def test_who_is_started_again(autojump_clock: MockClock, strategy: str, story: str) -> None:
    stage = Stage()
    async with open_group(strategy) as group:
        _, second, _ = [await group.start(stage.start, name) for name in "abc"]
        assert stage.take() == "+a +b +c"
        second.container.end(1)  # type: ignore[attr-defined]
        await trio.sleep(1)
        assert stage.take() == story
        assert second.restarts == 1
        await group.stop()
    assert stage.take() == "-c -b -a"


async def test_the_block_waits_until_all_have_ended_for_good(autojump_clock: MockClock) -> None:
    stage = Stage()
    started = trio.current_time()
    async with open_group() as group, trio.open_nursery() as nursery:
        task = await group.start(stage.start, "task", restart="on-failure")
        once = await group.start(stage.start, "once", restart="no")

        async def end() -> None:
            for status in (3, 0):
                await trio.sleep(20)
                task.container.end(status)  # type: ignore[attr-defined]
            await trio.sleep(20)
            once.container.end(5)  # type: ignore[attr-defined]

        nursery.start_soon(end)
    assert trio.current_time() - started == pytest.approx(60, abs=1)
    assert (task.restarts, once.restarts) == (1, 0)


async def test_too_many_restarts_end_the_group(autojump_clock: MockClock) -> None:
    stage = Stage()
    expected = "loop ended with status 7; the group had its 3 restarts in 5 s"
    with pytest.raises(GroupFailed, match=expected) as told:  # noqa: PT012
        async with open_group() as group:
            await group.start(stage.start, "bystander")
            member = await group.start(stage.start, "loop")
            while True:
                if member.container.status is None:
                    member.container.end(7)  # type: ignore[attr-defined]
                await trio.sleep(0.05)
    assert (told.value.container, told.value.status) == ("loop", 7)
    assert stage.story.count("+loop") == 4
    assert stage.story[-1] == "-bystander"


async def test_slow_enough_restarts_go_on_for_ever(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_group(restarts=1, seconds=10) as group:
        member = await group.start(stage.start, "slow")
        for _ in range(50):
            await trio.sleep(11)
            member.container.end(1)  # type: ignore[attr-defined]
        await trio.sleep(11)
        assert member.restarts == 50
        await group.stop(member)


async def test_the_pause_doubles(autojump_clock: MockClock) -> None:
    stage = Stage()
    pauses = []
    async with open_group(restarts=100) as group:
        member = await group.start(stage.start, "one")
        for _ in range(4):
            member.container.end(1)  # type: ignore[attr-defined]
            before, count = trio.current_time(), member.restarts
            while member.restarts == count:  # noqa: ASYNC110
                await trio.sleep(0.001)
            pauses.append(trio.current_time() - before)
        await group.stop()
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.05)


async def test_a_start_that_fails_is_tried_again_and_counted(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_group("rest_for_one") as group:
        first, _, _ = [await group.start(stage.start, name) for name in "abc"]
        stage.take()
        stage.refuse["b"] = 2
        first.container.end(1)  # type: ignore[attr-defined]
        await trio.sleep(5)
        assert stage.take() == "-a -c -b +a +b +c"
        stage.refuse["b"] = 99
        with pytest.raises(SupervisorError, match="b is refused"):
            await group.start(stage.start, "b")
        await group.stop()
    stage = Stage()
    with pytest.raises(GroupFailed, match="status 125: a is refused"):  # noqa: PT012
        async with open_group() as group:
            member = await group.start(stage.start, "a")
            stage.refuse["a"] = 99
            member.container.end(1)  # type: ignore[attr-defined]
            await trio.sleep_forever()


async def test_two_that_end_at_once_are_one_restart_of_all(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_group("one_for_all", restarts=1) as group:
        members = [await group.start(stage.start, name) for name in "ab"]
        for member in members:
            member.container.end(1)  # type: ignore[attr-defined]
        await trio.sleep(3)
        assert [member.restarts for member in members] == [1, 1]
        await group.stop()


async def test_errors_and_cancellation_of_the_block(autojump_clock: MockClock) -> None:
    stage = Stage()
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012
        async with open_group() as group:
            await group.start(stage.start, "a")
            raise KeyError("mine")
    with trio.move_on_after(1) as scope:
        async with open_group() as group:
            await group.start(stage.start, "b")
    assert scope.cancelled_caught
    async with open_group() as group:
        await group.start(stage.start, "c")
        group.cancel_scope.cancel()
    assert stage.take() == "+a -a +b -b +c -c"
    with pytest.raises(SupervisorError, match="two_for_one"):
        async with open_group("two_for_one"):
            pass
    async with open_group() as group:
        with pytest.raises(SupervisorError, match="unless-stopped"):
            await group.start(stage.start, "d", restart="unless-stopped")


def test_intensity_is_a_sliding_window() -> None:
    limit = Intensity(2, 10)
    assert [limit.allows(at) for at in (0, 1, 2, 10.5, 11.5, 30)] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]


async def test_a_stop_does_not_wait_for_the_restart_that_is_due(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_group(restarts=100) as group:
        member = await group.start(stage.start, "a")
        stage.refuse["a"] = 100
        member.container.end(1)  # type: ignore[attr-defined]
        await trio.sleep(30)  # the pauses have doubled up to 25.6 s
        started = trio.current_time()
        await group.stop()
        assert trio.current_time() - started < 1
    assert stage.take() == "+a -a"


async def test_who_is_stopped_when_the_block_waits_has_its_grace(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:

        async def stop(group: Group) -> None:
            await trio.sleep(5)
            await group.stop()

        async with open_group() as group:
            members = [await group.start(stage.start, name) for name in "ab"]
            nursery.start_soon(stop, group)
        assert [one.container.status for one in members] == [143, 143]


async def test_a_stop_that_is_cancelled_kills(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_group() as group:
        members = [await group.start(stage.start, name) for name in "ab"]
        with trio.move_on_after(0.015):
            await group.stop()
    assert [one.container.status for one in members] == [137, 143]
