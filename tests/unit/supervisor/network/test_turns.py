from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

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
