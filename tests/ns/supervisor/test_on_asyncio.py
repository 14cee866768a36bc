"""The supervisor in asyncio programs: cancellation and errors both ways, and nothing left of either loop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from netconf import load_builtin
from supervisor import CommandNotFound, Completed, GroupFailed, State, on_asyncio
from supervisor.container import Container
from tests.ns.supervisor.helpers import KINDS, spec

SLEEP = ["sleep", "1000"]


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main

    asyncio.run(bounded())


@KINDS
def test_everything_is_awaited_from_asyncio(bundle: Path, tmp_path: Path, rootless: bool) -> None:
    said = ["sh", "-c", "echo one; echo two; exec sleep 1000"]

    async def main() -> None:
        wanted = spec(bundle, said, networks=[load_builtin("slirp")], log_path=str(tmp_path / "log"))
        async with (
            on_asyncio.open_supervisor() as supervisor,
            supervisor.run(wanted, rootless=rootless) as one,
        ):
            assert one.state is State.RUNNING
            assert supervisor.get(one.id) == one
            assert await one.exec(["echo", "hi"]) == Completed(0, b"hi\n", b"")
            assert one.attachments[0].ifname == "cni0"
            async with aclosing(one.logs(follow=True)) as lines:
                first = await anext(lines)
                assert (first.stream, first.data) == ("stdout", b"one\n")
            async with one.open_exec(["cat"]) as process:
                await process.stdin.send_all(b"through")
                assert await process.stdout.receive_some() == b"through"
                await process.stdin.aclose()
                assert await process.wait() == 0
            await one.stop(0)
            assert await one.wait() == 137

    run(main())


def test_netlink_works_beside_the_loop(bundle: Path) -> None:
    """pyroute2 brings an asyncio loop of its own (house trap 11): its codec alone is used, on a socket of trio's."""

    async def main() -> None:
        wanted = spec(bundle, SLEEP, networks=[load_builtin("bridge")])
        async with on_asyncio.open_supervisor() as supervisor, supervisor.run(wanted) as container:
            counted = await container.membership.count_bytes()
            assert {"cni0", "lo"} <= set(counted)

    run(main())


def test_cancelling_the_task_kills_the_container(bundle: Path) -> None:
    async def main() -> None:
        held: list[Container] = []

        async def hold() -> None:
            async with supervisor.run(spec(bundle, SLEEP)) as container:
                held.append(container)
                await container.wait()

        async with on_asyncio.open_supervisor() as supervisor:
            task = asyncio.create_task(hold())
            while not held:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert held[0].status == 137
            assert not supervisor.containers
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await supervisor.run_process(spec(bundle, SLEEP))
            assert not supervisor.containers

    run(main())


@pytest.mark.parametrize("milliseconds", [0, 3, 10, 20, 30, 45, 70])
def test_a_start_that_is_cancelled_leaves_nothing_or_gives_its_container(
    bundle: Path, milliseconds: int
) -> None:
    async def main() -> None:
        async with on_asyncio.open_supervisor() as supervisor:
            got: list[Container] = []

            async def start() -> None:
                got.append(await supervisor.start(spec(bundle, SLEEP)))

            task = asyncio.create_task(start())
            await asyncio.sleep(milliseconds / 1000)
            task.cancel()
            await asyncio.wait([task])
            assert len(got) == len(supervisor.containers)

    run(main())


def test_exceptions_come_out_as_themselves(bundle: Path) -> None:
    async def main() -> None:
        with pytest.raises(KeyError, match="mine"):
            async with (
                on_asyncio.open_supervisor() as supervisor,
                supervisor.run(spec(bundle, SLEEP)) as one,
            ):
                raise KeyError("mine")
        assert one.status == 137
        async with on_asyncio.open_supervisor() as supervisor:
            with pytest.raises(CommandNotFound, match="no-such"):
                await supervisor.start(spec(bundle, ["no-such"]))
            with pytest.raises(CommandNotFound):
                async with supervisor.run(spec(bundle, ["no-such"])):
                    pass

    run(main())


def test_a_group_that_fails_cancels_its_body(bundle: Path) -> None:
    async def main() -> None:
        async with on_asyncio.open_supervisor() as supervisor:
            with pytest.raises(GroupFailed):  # noqa: PT012
                async with on_asyncio.open_group(restarts=1) as group:
                    await group.start(supervisor.start, spec(bundle, ["false"]))
                    await asyncio.sleep(1000)
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()
            assert not supervisor.containers

    run(main())


def test_several_blocks_share_a_loop_and_come_and_go(bundle: Path) -> None:
    async def one() -> None:
        async with on_asyncio.open_supervisor() as supervisor:
            assert (await supervisor.run_process(spec(bundle, ["echo", "hi"]))).stdout == b"hi\n"

    async def main() -> None:
        await asyncio.gather(one(), one())
        await one()

    run(main())
    run(main())


def test_the_end_of_the_loop_ends_what_it_ran(bundle: Path) -> None:
    held: list[Container] = []

    async def hold(started: asyncio.Event) -> None:
        async with (
            on_asyncio.open_supervisor() as supervisor,
            supervisor.run(spec(bundle, SLEEP)) as container,
        ):
            held.append(container)
            started.set()
            await asyncio.sleep(1000)

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(hold(started))
        await started.wait()
        assert not task.done()  # and nobody waits for it: asyncio.run cancels it

    run(main())
    assert held[0].status == 137


@pytest.mark.parametrize("runner", ["asyncio.run", "run_until_complete"])
def test_ctrl_c(bundle: Path, runner: str) -> None:
    """asyncio.run turns it into a cancellation; a loop run by hand leaves it to whom Python interrupts."""
    held: list[Container] = []

    async def main() -> None:
        async with (
            on_asyncio.open_supervisor() as supervisor,
            supervisor.run(spec(bundle, SLEEP)) as container,
        ):
            held.append(container)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            await container.wait()

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        if runner == "asyncio.run":
            asyncio.run(main())
        else:
            by_hand(main())
    assert held[0].status == 137


def by_hand(main: Coroutine[Any, Any, None]) -> None:
    """What programs did before asyncio.run: whatever came, the tasks are cancelled and waited for before the close."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(main)
    try:
        loop.run_until_complete(task)
    finally:
        if not task.done():
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
        task.exception()
        loop.close()


def test_in_a_thread_beside_another_loop(bundle: Path) -> None:
    """Supervisors in two threads, each in a loop of its own."""
    statuses: list[int] = []

    async def main() -> None:
        async with on_asyncio.open_supervisor() as supervisor:
            done = await supervisor.run_process(spec(bundle, ["sh", "-c", "exit 3"]))
            statuses.append(done.status)

    threads = [threading.Thread(target=run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [3, 3]
