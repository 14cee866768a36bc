"""Containers under a supervisor: as long as their block, cancelled at will, each with an error wall of its own."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import trio

from netconf import load_builtin
from supervisor import open_supervisor
from supervisor.errors import CommandNotExecutable, CommandNotFound, NameInUse, SlirpError, WrongState
from supervisor.runtime.log_reader import read_log
from supervisor.spec import State
from tests.ns.supervisor.helpers import KINDS, said_by, spec


@KINDS
async def test_status_and_output(bundle: Path, rootless: bool) -> None:
    assert (3, "hi\n") == await said_by(bundle, ["sh", "-c", "echo hi; exit 3"], rootless=rootless)


@KINDS
async def test_slirp_gives_the_seeds_address_on_cni0(bundle: Path, rootless: bool) -> None:
    status, said = await said_by(bundle, ["ip", "addr"], rootless=rootless, networks=[load_builtin("slirp")])
    assert status == 0
    assert "inet 10.0.2.100/24 brd 10.0.2.255 scope global cni0" in said
    assert "cni0: <BROADCAST,UP,LOWER_UP> mtu 1500" in said


@KINDS
async def test_slirp_killed_is_started_again_in_the_same_netns(bundle: Path, rootless: bool) -> None:
    async with open_supervisor() as supervisor:
        request = spec(bundle, ["sleep", "1000"], networks=[load_builtin("slirp")])
        async with supervisor.run(request, rootless=rootless) as container:
            slirp = container.attachments[0].slirp
            assert slirp is not None
            first = slirp.pid
            os.kill(first, signal.SIGKILL)
            with trio.fail_after(5):
                while slirp.pid in (0, first) or not slirp.restarts:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            shown = await container.exec(["ip", "addr", "show", "cni0"])
            assert b"inet 10.0.2.100/24" in shown.stdout


@KINDS
async def test_leaving_the_block_kills(bundle: Path, rootless: bool) -> None:
    async with open_supervisor() as supervisor:
        async with supervisor.run(spec(bundle, ["sleep", "1000"]), rootless=rootless) as container:
            assert container.state is State.RUNNING
        assert (State.STOPPED, 137) == (container.state, container.status)
        assert not supervisor.containers


async def test_an_error_in_the_block_comes_out_as_itself(bundle: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_supervisor() as supervisor, supervisor.run(spec(bundle, ["sleep", "1000"])):
            raise KeyError("mine")


@KINDS
async def test_commands_that_can_not_run(bundle: Path, rootless: bool) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(CommandNotFound, match="no-such"):
            async with supervisor.run(spec(bundle, ["no-such"]), rootless=rootless):
                pass
        with pytest.raises(CommandNotFound):
            async with supervisor.run(spec(bundle, ["/no/such"]), rootless=rootless):
                pass
        with pytest.raises(CommandNotExecutable):
            async with supervisor.run(spec(bundle, ["/etc/passwd"]), rootless=rootless):
                pass


async def test_the_runtimes_copy_of_itself_stays_in_the_sandbox(bundle: Path, tmp_path: Path) -> None:
    """It mounts itself on a fresh file for some microseconds; killed then, it must not leave it on the host."""
    told, runtime = tmp_path / "told", tmp_path / "crun"
    runtime.write_text(
        f'#!/bin/sh\necho "$_LIBCONTAINER_STATEDIR" >>{told}\nexec {shutil.which("crun")} "$@"\n'
    )
    runtime.chmod(0o755)
    async with open_supervisor(runtime=str(runtime)) as supervisor:
        async with supervisor.run(spec(bundle, ["true"])) as container:
            assert await container.wait() == 0
        directory = container.sandbox.run_dir
        assert set(told.read_text().split()) == {directory}
        assert os.stat(directory).st_dev != os.stat(container.sandbox.outer_path(directory)).st_dev


async def test_stop_sends_the_signal_and_then_kills(bundle: Path) -> None:
    trapped = ["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"]
    async with open_supervisor() as supervisor:
        container = await supervisor.start(spec(bundle, trapped))
        await trio.sleep(0.3)
        await container.stop(5)
        assert container.status == 5
        stubborn = await supervisor.start(
            spec(bundle, ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])
        )
        await trio.sleep(0.3)
        await stubborn.stop(0.2)
        assert stubborn.status == 137


async def test_one_failure_leaves_its_siblings_alone(bundle: Path) -> None:
    broken = load_builtin("slirp")
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, ["sleep", "1000"])) as sibling:
        path, os.environ["PATH"] = os.environ["PATH"], "/nowhere"
        try:
            with pytest.raises(SlirpError):
                async with supervisor.run(spec(bundle, ["true"], networks=[broken])):
                    pass
        finally:
            os.environ["PATH"] = path
        assert sibling.state is State.RUNNING


async def test_several_supervisors_in_one_loop(bundle: Path) -> None:
    """Each has its names, its networks and its end; the block of one ends nothing of the other's."""
    async with open_supervisor() as one:
        networks = [load_builtin("bridge")]
        async with one.run(spec(bundle, ["sleep", "1000"], name="same", networks=networks)) as first:
            async with open_supervisor() as other:
                again = spec(bundle, ["sleep", "1000"], name="same", networks=networks)
                second = await other.start(again, rootless=True)
                assert (first.state, second.state) == (State.RUNNING, State.RUNNING)
            assert (first.state, second.status) == (State.RUNNING, 137)
            assert (await first.exec(["true"])).status == 0


async def test_a_name_is_given_once(bundle: Path) -> None:
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, ["sleep", "1000"], name="web")):
        with pytest.raises(NameInUse, match="web"):
            async with supervisor.run(spec(bundle, ["true"], name="web")):
                pass


async def test_exec_after_the_end_is_refused(bundle: Path) -> None:
    async with open_supervisor() as supervisor:
        container = await supervisor.start(spec(bundle, ["true"]))
        await container.wait_gone()
        with pytest.raises(WrongState, match="not running"):
            await container.exec(["true"])


async def test_background_output_is_logged(bundle: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    async with open_supervisor() as supervisor:
        say = ["sh", "-c", "echo out; echo err >&2; printf rest"]
        container = await supervisor.start(spec(bundle, say, log_path=path))
        await container.wait_gone()
    lines = sorted((line.stream, line.data) for line in read_log(path))
    assert [("stderr", b"err\n"), ("stdout", b"out\n"), ("stdout", b"rest")] == lines


async def test_sandbox_killed_ends_its_containers_only(bundle: Path) -> None:
    async with open_supervisor() as supervisor:
        one = await supervisor.start(spec(bundle, ["sleep", "1000"]), rootless=True)
        other = await supervisor.start(spec(bundle, ["sleep", "1000"]), rootless=False)
        os.kill((await supervisor.realm(rootless=True)).sandbox.init_pid, signal.SIGKILL)
        with trio.fail_after(5):
            await one.wait_gone()
        assert (137, State.RUNNING) == (one.status, other.state)
        async with supervisor.run(spec(bundle, ["true"]), rootless=True) as again:
            assert await again.wait() == 0


async def test_who_reads_both_streams_slowly_ends_nothing(bundle: Path, tmp_path: Path) -> None:
    """Both are copied into one pipe: while one waits for room in it the other has something, too."""
    script = "while :; do head -c 100000 /dev/zero; done & while :; do head -c 100000 /dev/zero >&2; done"
    request = spec(bundle, ["sh", "-c", script], log_path=str(tmp_path / "log"))
    async with open_supervisor() as supervisor, supervisor.run(request) as container:
        async with container.streams.output.copied() as reader:
            try:
                read = 0
                async with trio.lowlevel.FdStream(os.dup(reader)) as stream:
                    while read < 2_000_000:
                        read += len(await stream.receive_some(65536))
                        await trio.sleep(0.02)
            finally:
                os.close(reader)
        assert (container.state, container.error) == (State.RUNNING, None)
