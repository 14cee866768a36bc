"""Further programs in a container, captured and streamed, and containers whose output is captured."""

from __future__ import annotations

import gc
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from supervisor import Completed, SupervisorError, open_supervisor
from supervisor.container import Container
from supervisor.errors import CommandNotFound, RuntimeFailed, WrongState
from supervisor.runtime.stdio import Stdio
from supervisor.spec import Program, State
from tests.ns.supervisor.helpers import KINDS, spec

SLEEP = ["sleep", "1000"]


@KINDS
async def test_exec_captures_both_outputs_and_the_status(bundle: Path, rootless: bool) -> None:
    async with (
        open_supervisor() as supervisor,
        supervisor.run(spec(bundle, SLEEP), rootless=rootless) as one,
    ):
        script = 'read line; echo "$line $WHO in $PWD"; id -u; echo err >&2; exit 3'
        done = await one.exec(
            ["sh", "-c", script], stdin=b"hello\n", env=["WHO=you"], workdir="tmp", user="7:8"
        )
        assert done == Completed(3, b"hello you in /tmp\n7\n", b"err\n")


async def test_exec_takes_more_than_a_pipe_holds_both_ways(bundle: Path) -> None:
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, SLEEP)) as container:
        sent = bytes(range(256)) * 4096
        assert (await container.exec(["cat"], stdin=sent)).stdout == sent
        assert (await container.exec(["head", "-c", "3"], stdin=sent)).stdout == sent[:3]


async def test_an_exec_that_is_cancelled_closes_its_pipes_itself(bundle: Path) -> None:
    """All of them, and not when the garbage collector comes by."""
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, SLEEP)) as container:
        await container.exec(["true"])
        gc.disable()
        try:
            before = os.listdir("/proc/self/fd")
            with trio.move_on_after(0.2) as scope:
                await container.exec(SLEEP)
            assert scope.cancelled_caught
            assert os.listdir("/proc/self/fd") == before
        finally:
            gc.enable()


async def test_exec_does_not_wait_for_what_it_leaves_behind(bundle: Path) -> None:
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, SLEEP)) as container:
        with trio.fail_after(20):
            done = await container.exec(["sh", "-c", "sleep 500 & echo started"])
        assert done == Completed(0, b"started\n")


async def test_exec_that_can_not_start(bundle: Path) -> None:
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, SLEEP)) as container:
        with pytest.raises(CommandNotFound):
            await container.exec(["no-such"])
        with pytest.raises(RuntimeFailed, match="numbers only"):
            await container.exec(["true"], user="nobody")
        with pytest.raises(RuntimeFailed, match="privileged"):
            await container.exec(["true"], privileged=True)
        container.cancel()
        await container.wait_gone()
        with pytest.raises(WrongState):
            await container.exec(["true"])


@KINDS
async def test_a_streamed_program_answers_line_by_line(bundle: Path, rootless: bool) -> None:
    doubling = ["sh", "-c", "while read n; do echo $((n * 2)); done; exit 4"]
    async with (
        open_supervisor() as supervisor,
        supervisor.run(spec(bundle, SLEEP), rootless=rootless) as container,
        container.open_exec(doubling) as process,
    ):
        for number in (1, 21):
            await process.stdin.send_all(b"%d\n" % number)
            assert await process.stdout.receive_some() == b"%d\n" % (number * 2)
        assert process.status is None
        await process.stdin.aclose()
        with trio.fail_after(10):
            assert await process.wait() == 4
        assert await process.stderr.receive_some() == b""


async def test_leaving_the_block_or_cancelling_kills_the_program(bundle: Path) -> None:
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, SLEEP)) as container:
        async with container.open_exec(["sleep", "501"]) as process:
            pass
        assert process.status == 137
        async with container.open_exec(["sleep", "502"]) as process:
            await process.signal(signal.SIGTERM)
            assert await process.wait() == 143
        with trio.move_on_after(0.5) as scope:
            await container.exec(["sleep", "503"])
        assert scope.cancelled_caught
        left = await container.exec(["ps"])
        assert b"sleep 50" not in left.stdout


async def test_a_program_ends_with_its_container(bundle: Path) -> None:
    async with (
        open_supervisor() as supervisor,
        supervisor.run(spec(bundle, SLEEP)) as container,
        container.open_exec(SLEEP) as process,
    ):
        container.cancel()
        with trio.fail_after(10):
            assert await process.wait() == 137


@KINDS
async def test_run_process_captures_a_container(bundle: Path, rootless: bool) -> None:
    async with open_supervisor() as supervisor:
        doubled = spec(bundle, ["sh", "-c", "cat; echo err >&2; exit 5"])
        done = await supervisor.run_process(doubled, stdin=b"through\n", rootless=rootless)
        assert done == Completed(5, b"through\n", b"err\n")
        with trio.move_on_after(0.5) as scope:
            await supervisor.run_process(spec(bundle, SLEEP), rootless=rootless)
        assert scope.cancelled_caught
        assert not supervisor.containers


async def test_logs_are_read_and_followed(bundle: Path, tmp_path: Path) -> None:
    say = spec(
        bundle, ["sh", "-c", "echo one; echo two; sleep 0.3; echo three"], log_path=str(tmp_path / "log")
    )
    async with open_supervisor() as supervisor, supervisor.run(say) as container:
        with trio.fail_after(20):
            followed = [line.data async for line in container.logs(follow=True)]
        assert followed == [b"one\n", b"two\n", b"three\n"]
        assert [line.data async for line in container.logs()] == followed
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, SLEEP)) as silent:
        with pytest.raises(SupervisorError, match="no log"):
            silent.logs()


async def test_a_pause_that_comes_as_a_program_starts(bundle: Path) -> None:
    """init waits for what it starts, and must not have to wait for a frozen one."""
    made = spec(bundle, SLEEP)

    async def build_process(container: Container, program: Program, stdio: Stdio) -> bytes:
        if program.args == ["paused"]:
            await container.confinement.pause()
        return await made.build_process(container, program, stdio)

    request = replace(made, build_process=build_process)
    async with open_supervisor() as supervisor, supervisor.run(request) as container:
        await container.confinement.pause()
        await container.confinement.unpause()  # from here on it has a cgroup, in which programs are started
        with trio.fail_after(20), pytest.raises(WrongState, match="paused"):
            await container.exec(["paused"])
        assert (await container.sandbox.run(["true"])).status == 0
        await container.confinement.unpause()
        assert (await container.exec(["true"])).status == 0


async def test_pauses_among_programs_that_start(bundle: Path) -> None:
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, SLEEP)) as container:

        async def start_some() -> None:
            for _ in range(10):
                try:
                    await container.exec(["true"])
                except WrongState:
                    await trio.sleep(0.005)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(start_some)
                for _ in range(10):
                    await container.confinement.pause()
                    assert container.observed_state is State.PAUSED
                    await container.confinement.unpause()
                    await trio.sleep(0.01)
        assert (await container.exec(["true"])).status == 0
