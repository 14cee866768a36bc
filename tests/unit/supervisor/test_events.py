"""The history of events: in order, bounded, and nobody waits for a reader."""

from __future__ import annotations

import time

import trio
import trio.testing

from supervisor.events import EventLog, describe_event


def test_readers_get_what_comes_in_order() -> None:
    async def story() -> list[str]:
        log = EventLog()
        log.tell(describe_event("create", "1", "web"))
        first, second = log.read(), log.read(since=0)
        log.tell(describe_event("start", "1", "web", {"tier": "front"}))
        log.tell(describe_event("die", "1", "web", status=3, signal="9"))
        assert [(await anext(second)).action for _ in range(3)] == ["create", "start", "die"]
        return [(await anext(first)).action, (await anext(first)).action]

    assert trio.run(story) == ["start", "die"]


def test_what_is_told_of_one() -> None:
    event = describe_event("die", "1", "web", {"tier": "front"}, status=3, signal="9")
    assert (event.type, event.id, event.name, event.status) == ("container", "1", "web", 3)
    assert event.attributes == {"tier": "front", "signal": "9"}
    assert abs(event.time - time.time()) < 60


async def test_a_reader_sleeps_until_something_happens(autojump_clock: trio.testing.MockClock) -> None:
    log = EventLog()
    got: list[str] = []

    async def read() -> None:
        got.append((await anext(log.read())).action)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        log.tell(describe_event("start", "1", "web"))
        await trio.sleep(1)
        assert got == ["start", "start"]
        nursery.cancel_scope.cancel()


async def test_a_slow_reader_is_told_how_many_it_has_lost() -> None:
    log = EventLog(kept=3)
    reader = log.read()
    for number in range(10):
        log.tell(describe_event("exec_start", str(number), "web"))
    lost = await anext(reader)
    assert (lost.type, lost.action, lost.attributes["count"]) == ("events", "lost", "7")
    assert [(await anext(reader)).id for _ in range(3)] == ["7", "8", "9"]


async def test_since_leaves_out_what_was_before() -> None:
    log = EventLog()
    for moment in (1.0, 2.0, 3.0):
        event = describe_event("start", str(moment), "web")
        log.tell(type(event)(time=moment, action="start", id=str(moment)))
    reader = log.read(since=2)
    assert [(await anext(reader)).id, (await anext(reader)).id] == ["2.0", "3.0"]


async def test_a_deadline_ends_the_waiting_only(autojump_clock: trio.testing.MockClock) -> None:
    log = EventLog()
    reader = log.read()
    log.tell(describe_event("start", "1", "web"))
    with trio.CancelScope(deadline=trio.current_time()) as scope:
        event = await anext(reader)
    assert event.action == "start"
    with trio.move_on_after(5) as scope:
        await anext(reader)
    assert scope.cancelled_caught
