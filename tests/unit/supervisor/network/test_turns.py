from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.network.turns import Turns


async def test_one_at_a_time_for_a_container_and_others_beside_it() -> None:
    turns = Turns()
    log: list[str] = []

    async def act(container_id: str, name: str) -> None:
        async with turns.of_container(container_id):
            log.append(name)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act, "a", "a")
        await wait_all_tasks_blocked()
        nursery.start_soon(act, "a", "again")
        nursery.start_soon(act, "b", "b")
        await wait_all_tasks_blocked()
        assert log == ["a", "b"]
        nursery.cancel_scope.cancel()


async def test_alone_waits_for_all_and_holds_back_what_comes_later() -> None:
    turns = Turns()
    log: list[str] = []
    leave = trio.Event()

    async def before() -> None:
        async with turns.of_container("a"):
            await leave.wait()
            log.append("before")

    async def alone() -> None:
        async with turns.alone():
            log.append("alone")
            await trio.lowlevel.checkpoint()

    async def after() -> None:
        async with turns.of_container("b"):
            log.append("after")

    async with trio.open_nursery() as nursery:
        for act in (before, alone, after):
            nursery.start_soon(act)
            await wait_all_tasks_blocked()
        assert log == []
        leave.set()
    assert log == ["before", "alone", "after"]


async def test_one_that_gives_up_waiting_holds_nobody_back() -> None:
    turns = Turns()

    async def hold() -> None:
        async with turns.of_container("a"):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.01):
            async with turns.alone():
                raise AssertionError("not alone")
        async with turns.of_container("b"):
            pass
        nursery.cancel_scope.cancel()
    async with turns.alone():
        pass


async def test_inside_alone_its_own_blocks_go_on() -> None:
    turns = Turns()
    with trio.fail_after(1):
        async with turns.alone(), turns.of_container("a"), turns.alone():
            pass
        async with turns.of_container("a"):
            pass


@pytest.mark.parametrize("first", ["of_container", "alone"])
async def test_processes_with_one_lock_wait_for_each_other(
    tmp_path: Path, first: str, autojump_clock: MockClock
) -> None:
    """Two descriptors stand for two processes: flock(2) tells them apart like those."""
    descriptors = [os.open(tmp_path, os.O_RDONLY) for _ in range(2)]
    ours, theirs = (Turns(descriptor) for descriptor in descriptors)
    log: list[str] = []

    def enter(turns: Turns, kind: str) -> AbstractAsyncContextManager[None]:
        return turns.alone() if kind == "alone" else turns.of_container("a")

    async def act(turns: Turns, kind: str) -> None:
        async with enter(turns, kind):
            log.append(kind)
            await trio.sleep(1)
            log.append("end")

    second = "of_container" if first == "alone" else "alone"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(act, ours, first)
        await trio.sleep(0.1)
        nursery.start_soon(act, theirs, second)
    assert log == [first, "end", second, "end"]
    log.clear()
    async with (
        trio.open_nursery() as nursery
    ):  # different containers run side by side, in two processes as in one
        for turns in (ours, theirs):
            nursery.start_soon(act, turns, "of_container")
    assert log == ["of_container", "of_container", "end", "end"]
    for descriptor in descriptors:
        os.close(descriptor)


async def test_a_cancelled_wait_for_another_process_holds_nothing(tmp_path: Path) -> None:
    descriptors = [os.open(tmp_path, os.O_RDONLY) for _ in range(2)]
    ours, theirs = (Turns(descriptor) for descriptor in descriptors)
    async with ours.of_container("a"):
        with trio.move_on_after(0.05):
            async with theirs.alone():
                raise AssertionError("it is not alone")
        with trio.fail_after(1):
            async with theirs.of_container("a"):
                pass
    with trio.fail_after(1):
        async with theirs.alone():
            pass
    for descriptor in descriptors:
        os.close(descriptor)
