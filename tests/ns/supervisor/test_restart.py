"""Containers that are started again: by their policy, by hand, and with everything that lasts over it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from netconf import load_builtin
from supervisor import Container, ContainerSpec, Supervisor, open_supervisor
from supervisor.errors import WrongState
from supervisor.restart import Restart, RestartPolicy
from supervisor.runtime.log_reader import read_log
from supervisor.spec import Built, Prepared, State
from tests.ns.supervisor.helpers import KINDS, Outlet, spec

QUICK = RestartPolicy(when=Restart.ALWAYS, first_seconds=0.01, last_seconds=0.05)


def restarting(bundle: Path, script: str, policy: RestartPolicy = QUICK, **more: Any) -> ContainerSpec:
    return dataclasses.replace(spec(bundle, ["sh", "-c", script], **more), restart=policy)


async def seen(supervisor: Supervisor, action: str, count: int = 1) -> None:
    reader = supervisor.events(since=0)
    with trio.fail_after(20):
        while count:
            count -= (await anext(reader)).action == action


async def actions(supervisor: Supervisor) -> list[str]:
    reader, told = supervisor.events(since=0), []
    with trio.move_on_after(0.01):
        while True:
            told.append((await anext(reader)).action)
    return told


@KINDS
async def test_on_failure_runs_as_often_as_it_says(bundle: Path, tmp_path: Path, rootless: bool) -> None:
    policy = dataclasses.replace(QUICK, when=Restart.ON_FAILURE, retries=2)
    log = str(tmp_path / "log")
    async with open_supervisor() as supervisor:
        failing = restarting(
            bundle, "echo hi; exit 3", policy, log_path=log, networks=[load_builtin("slirp")]
        )
        async with supervisor.run(failing, rootless=rootless) as container:
            with trio.fail_after(30):
                assert await container.wait() == 3
                await container.wait_gone()
            assert (container.backoff.count, container.state) == (2, State.STOPPED)
        told = await actions(supervisor)
    one = ["start", "connect", "die", "disconnect"]
    assert told == [*one, "restarting", *one, "restarting", *one]
    assert [line.data for line in read_log(log)] == [b"hi\n"] * 3


@KINDS
async def test_stop_ends_a_back_off_at_once(bundle: Path, rootless: bool) -> None:
    policy = RestartPolicy(when=Restart.ALWAYS, first_seconds=1000, last_seconds=1000)
    async with open_supervisor() as supervisor:
        container = await supervisor.start(restarting(bundle, "exit 4", policy), rootless=rootless)
        await seen(supervisor, "restarting")
        assert (container.state, container.pid, container.status) == (State.RESTARTING, None, 4)
        with pytest.raises(WrongState):
            await container.signal(15)
        with trio.fail_after(10):
            await container.stop()
        assert (container.state, container.status) == (State.STOPPED, 4)
        assert not supervisor.containers


async def test_stop_is_for_good_whatever_the_policy(bundle: Path) -> None:
    async with open_supervisor() as supervisor:
        script = "trap 'exit 0' TERM; while :; do sleep 0.02; done"
        container = await supervisor.start(restarting(bundle, script))
        with trio.fail_after(20):
            await container.stop(10)
        assert not supervisor.containers
        assert (await actions(supervisor))[-1] == "stop"


@KINDS
async def test_restart_by_hand_keeps_log_and_descriptors(
    bundle: Path, tmp_path: Path, rootless: bool
) -> None:
    outlet = Outlet()
    async with open_supervisor() as supervisor:
        script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done"
        foreground = spec(bundle, ["sh", "-c", script], stdio=outlet.stdio)
        async with supervisor.run(foreground, rootless=rootless) as container:
            first = container.pid
            assert await trio.to_thread.run_sync(os.read, outlet.reader, 9) == b"up\n"
            with trio.fail_after(20):
                await container.restart(10)
            assert container.state is State.RUNNING
            assert container.pid not in (None, first)
            assert container.backoff.count == 0
            assert await trio.to_thread.run_sync(os.read, outlet.reader, 9) == b"up\n"
        with pytest.raises(WrongState, match="has ended"):
            await container.restart()
    assert outlet.close() == b""


async def test_restart_by_hand_does_not_wait_for_the_back_off(bundle: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    policy = RestartPolicy(when=Restart.ALWAYS, first_seconds=1000, last_seconds=1000)
    async with open_supervisor() as supervisor:
        failing = restarting(bundle, "exit 1", policy)
        rounds = 0

        async def build(prepared: Prepared) -> Built:
            nonlocal rounds
            rounds += 1
            return await failing.build(prepared)

        container = await supervisor.start(dataclasses.replace(failing, build=build))
        await seen(supervisor, "restarting")
        with trio.fail_after(10):
            await container.restart()
        await seen(supervisor, "restarting", 2)
        assert (rounds, container.backoff.count, flag.exists()) == (2, 1, False)


async def test_a_later_set_up_that_fails_is_one_more_failure(bundle: Path) -> None:
    async with open_supervisor() as supervisor:
        plain = restarting(bundle, "exit 0")
        rounds = 0

        async def build(prepared: Prepared) -> Built:
            nonlocal rounds
            rounds += 1
            if rounds in (2, 3):
                raise OSError(28, "No space left on device")
            return await plain.build(prepared)

        container = await supervisor.start(dataclasses.replace(plain, build=build))
        await seen(supervisor, "start", 2)
        await container.stop()
        told = await actions(supervisor)
    assert told[:8] == [
        "start", "die", "restarting", "failed", "restarting", "failed", "restarting", "start",
    ]  # fmt: skip


async def test_a_first_set_up_that_fails_is_raised(bundle: Path) -> None:
    async with open_supervisor() as supervisor:
        broken = dataclasses.replace(spec(bundle, ["no-such-program"]), restart=QUICK)
        with pytest.raises(Exception, match="not found"):
            await supervisor.start(broken)
        assert not supervisor.containers


async def test_what_is_resumed_is_tried_until_it_starts(bundle: Path) -> None:
    async with open_supervisor() as supervisor:
        broken = dataclasses.replace(spec(bundle, ["no-such-program"]), restart=QUICK)
        container = await supervisor.start(broken, resumed=True)
        await seen(supervisor, "failed", 3)
        assert (container.state, container.status) == (State.RESTARTING, 127)
        await container.stop()


async def test_one_that_is_ended_while_it_starts_says_so(bundle: Path) -> None:
    async with open_supervisor() as supervisor:
        plain = spec(bundle, ["sleep", "1000"])

        async def build(prepared: Prepared) -> Built:
            supervisor.get(plain.id).cancel()
            return await plain.build(prepared)

        with pytest.raises(WrongState, match="while it was being started"):
            await supervisor.start(dataclasses.replace(plain, build=build))


@KINDS
async def test_the_end_of_the_sandbox_is_survived(bundle: Path, rootless: bool) -> None:
    async with open_supervisor() as supervisor:
        container: Container = await supervisor.start(restarting(bundle, "sleep 1000"), rootless=rootless)
        os.kill(container.sandbox.init_pid, 9)
        await seen(supervisor, "start", 2)
        assert container.state is State.RUNNING
        await container.stop(0)
