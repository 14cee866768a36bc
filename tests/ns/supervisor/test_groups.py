"""Groups of real containers: the strategies, the end of too many restarts, and nothing left of any of it."""

from __future__ import annotations

import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from netconf import load_builtin
from supervisor import GroupFailed, Member, State, SupervisorError, open_group, open_supervisor
from supervisor.restart import Restart, RestartPolicy
from tests.ns.supervisor.helpers import KINDS, spec

SLEEP = ["sleep", "1000"]


async def restarted(members: list[Member], counts: list[int]) -> None:
    with trio.fail_after(20):
        while [member.restarts for member in members] != counts:  # noqa: ASYNC110
            await trio.sleep(0.02)


@KINDS
@pytest.mark.parametrize(
    ("strategy", "counts"),
    [("one_for_one", [0, 1, 0]), ("one_for_all", [1, 1, 1]), ("rest_for_one", [0, 1, 1])],
)
async def test_a_member_that_is_killed(
    bundle: Path, rootless: bool, strategy: str, counts: list[int]
) -> None:
    """Names and networks are free when the next one starts: the spec is the same each time."""
    async with open_supervisor() as supervisor, open_group(strategy) as group:
        start = partial(supervisor.start, rootless=rootless)
        specs = [
            replace(
                spec(bundle, SLEEP, name=name, networks=[load_builtin("slirp")]), stop_signal=signal.SIGKILL
            )
            for name in ("one", "two", "three")
        ]
        members = [await group.start(start, one) for one in specs]
        before = [member.container for member in members]
        await before[1].signal(signal.SIGKILL)
        await restarted(members, counts)
        assert [old is member.container for old, member in zip(before, members, strict=True)] == [
            not count for count in counts
        ]
        assert [member.container.state for member in members] == [State.RUNNING] * 3
        assert sorted(one.name for one in supervisor.containers.values()) == ["one", "three", "two"]
        assert b"10.0.2.100" in (await members[1].container.exec(["ip", "addr"])).stdout
        await group.stop()
        assert not supervisor.containers


async def test_a_loop_of_failures_ends_the_group_and_its_siblings(bundle: Path) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(GroupFailed, match="ended with status 3"):  # noqa: PT012 -- the block waits
            async with open_group(restarts=2, seconds=60) as group:
                bystander = await group.start(supervisor.start, spec(bundle, SLEEP))
                await group.start(supervisor.start, spec(bundle, ["sh", "-c", "exit 3"]))
        assert bystander.container.status == 137
        assert not supervisor.containers


async def test_the_block_waits_for_work_that_is_retried(bundle: Path, tmp_path: Path) -> None:
    flaky = "import: exit 1 at first"
    script = f"[ -e /tmp/done ] && exit 0; touch /tmp/done; echo '{flaky}'; exit 1"
    async with open_supervisor() as supervisor:
        with trio.fail_after(20):
            async with open_group() as group:
                member = await group.start(
                    supervisor.start, spec(bundle, ["sh", "-c", script]), restart="on-failure"
                )
        assert (member.restarts, member.container.status) == (1, 0)


async def test_errors_come_out_as_themselves_and_kill(bundle: Path) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012
            async with open_group() as group:
                await group.start(supervisor.start, spec(bundle, SLEEP))
                raise KeyError("mine")
        assert not supervisor.containers
        with trio.move_on_after(0.5) as scope:
            async with open_group() as group:
                await group.start(supervisor.start, spec(bundle, SLEEP))
        assert scope.cancelled_caught
        assert not supervisor.containers


async def test_a_policy_of_its_own_is_refused(bundle: Path) -> None:

    lasting = replace(spec(bundle, SLEEP), restart=RestartPolicy(when=Restart.ALWAYS))
    async with open_supervisor() as supervisor, open_group() as group:
        with pytest.raises(SupervisorError, match="restart policy of its own"):
            await group.start(supervisor.start, lasting)
        assert not supervisor.containers
