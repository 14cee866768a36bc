"""Limits, pause and update on the command line: real containers in real cgroups, of root and of an ordinary user."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.world import cgroups
from tests.world.people import Person

SLEEPER = ("demo", "sleep", "1000")
EATS_50_MB = "dd if=/dev/zero of=/dev/null bs=50M count=1"


@pytest.fixture
def root(me: Person) -> Person:
    if me.uid:
        pytest.skip("an ordinary user without delegation: see the tests of refusals and of delegation")
    return me


def detail(person: Person, name: str, template: str) -> str:
    return person.ctnr("inspect", name, "--format", template).ok.stdout.strip()


def group_of(person: Person, name: str) -> dict[str, Path]:
    """The container's cgroup by tree, as the kernel tells it of its first process."""
    pid = detail(person, name, "{{.State.Pid}}")
    tops = cgroups.current()
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    its = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    return {
        tree: Path(f"{tops[tree]}{path.removeprefix(own[tree])}")
        for tree, path in its.items()
        if tree in tops and path != own[tree]
    }


def test_no_cgroup_without_a_wish(me: Person, names: list[str]) -> None:
    me.ctnr("run", "-d", "--name=plain", "--network=none", *SLEEPER).ok  # noqa: B018
    names.append("plain")
    assert group_of(me, "plain") == {}


def test_limits_are_the_kernels(root: Person, names: list[str]) -> None:
    flags = (
        "-m 64m --memory-reservation 32m --cpus 0.5 -c 512 --cpuset-cpus 0 --cpuset-mems 0 --pids-limit 20"
    )
    root.ctnr("run", "-d", "--name=tight", "--network=none", *flags.split(), *SLEEPER).ok  # noqa: B018
    names.append("tight")
    group = group_of(root, "tight")
    expected = {
        ("memory", "memory.limit_in_bytes"): 64 << 20,
        ("memory", "memory.memsw.limit_in_bytes"): 128 << 20,
        ("memory", "memory.soft_limit_in_bytes"): 32 << 20,
        ("cpu", "cpu.cfs_quota_us"): 50_000,
        ("cpu", "cpu.cfs_period_us"): 100_000,
        ("cpu", "cpu.shares"): 512,
        ("cpuset", "cpuset.cpus"): 0,
        ("cpuset", "cpuset.mems"): 0,
        ("pids", "pids.max"): 20,
    }
    assert {key: int((group[key[0]] / key[1]).read_text()) for key in expected} == expected
    first = Path(f"/proc/{detail(root, 'tight', '{{.State.Pid}}')}/cgroup").read_text()
    assert root.ctnr("exec", "tight", "cat", "/proc/self/cgroup").ok.stdout == first


def test_out_of_memory_is_told(root: Person, names: list[str]) -> None:
    run = ["run", "-d", "--name=eater", "--network=none", "-m", "32m", "demo", "sh", "-c"]
    root.ctnr(*run, f"exec {EATS_50_MB}").ok  # noqa: B018
    names.append("eater")
    assert root.ctnr("wait", "eater").ok.stdout == "137\n"
    assert detail(root, "eater", "{{.State.OOMKilled}} {{.State.ExitCode}}") == "true 137"
    root.ctnr("update", "-m", "128m", "eater").ok  # noqa: B018 -- kept for the next start
    root.ctnr("start", "eater").ok  # noqa: B018
    assert root.ctnr("wait", "eater").ok.stdout == "0\n"
    assert detail(root, "eater", "{{.State.OOMKilled}}") == "false"


def test_processes_are_counted(root: Person) -> None:
    script = "sleep 0.2; sleep 0.1 & sleep 0.1 & sleep 0.1 & wait"
    full = root.ctnr("run", "--rm", "--network=none", "--pids-limit=2", "demo", "sh", "-c", script)
    assert "can't fork" in full.stderr
    assert (
        root.ctnr("run", "--rm", "--network=none", "--pids-limit=4", "demo", "sh", "-c", script).ok.stderr
        == ""
    )


def test_cpu_time_is_shared_out(root: Person) -> None:
    script = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done; times"
    start = time.monotonic()
    done = root.ctnr("run", "--rm", "--network=none", "--cpus=0.1", "demo", "sh", "-c", script).ok
    elapsed = time.monotonic() - start
    used = sum(_seconds(word) for word in done.stdout.split()[:2])
    assert used > 0.01
    assert used <= 0.1 * elapsed + 0.05


def _seconds(word: str) -> float:
    minutes, _, seconds = word.rstrip("s").partition("m")
    return int(minutes) * 60 + float(seconds)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("-m 1m", "memory 1048576 bytes: below the least"),
        ("-m 64m --memory-swap 32m", "memory-swap: less than memory"),
        ("--memory-swap 32m", "memory-swap: it is memory and swap together"),
        ("-m 64m --memory-reservation 65m", "memory-reservation: more than memory"),
        ("--cpus 4096", "cpus 4096: there are"),
        ("--cpus 1 --cpu-quota 5000", "cpus: it sets quota and period itself"),
        ("--cpu-quota 5", "cpu-quota 5: out of range"),
        ("--cpu-period 5", "cpu-period 5: out of range"),
        ("--cpu-shares 1", "cpu-shares 1: out of range"),
        ("--cpuset-cpus 0-4095", "cpuset-cpus 0-4095: there are"),
        ("--cpuset-mems x", "cpuset-mems x: there are"),
        ("--pids-limit -2", "pids-limit -2: out of range"),
        ("-m many", "a size such as 64m, or -1 for no limit is expected"),
    ],
)
def test_impossible_limits(me: Person, flags: str, why: str) -> None:
    done = me.ctnr("run", "--rm", "--network=none", *flags.split(), "demo", "true")
    assert done.status == 125
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    assert me.ctnr("ps", "-aq").ok.stdout == ""


def test_a_user_without_delegation_is_told(me: Person) -> None:
    if not me.uid:
        pytest.skip("root needs no delegation")
    for flags in (["-m", "64m"], ["--cpus=1"], ["--pids-limit=5"]):
        done = me.ctnr("run", "--rm", "--network=none", *flags, "demo", "true")
        assert done.status == 125
        assert "can't be written; run it as root" in done.stderr
        assert done.stderr.count("\n") == 1
    info = json.loads(me.ctnr("info", "--format=json").ok.stdout)
    limits = next(check for check in info["checks"] if check["name"] == "limits")
    assert not limits["ok"]
    assert "root's" in limits["detail"]


def test_a_user_cannot_pause_without_delegation(me: Person, names: list[str]) -> None:
    if not me.uid:
        pytest.skip("root needs no delegation")
    me.ctnr("run", "-d", "--name=free", "--network=none", *SLEEPER).ok  # noqa: B018
    names.append("free")
    done = me.ctnr("pause", "free")
    assert done.status == 125
    assert "pause: cgroup" in done.stderr
    assert "Delegate=yes" in done.stderr
    assert detail(me, "free", "{{.State.Status}}") == "running"


def test_info_names_the_controllers(root: Person) -> None:
    info = json.loads(root.ctnr("info", "--format=json").ok.stdout)
    assert info["facts"]["cgroups"]["version"] in ("v1", "v2", "hybrid")
    assert {"memory", "cpu", "pids"} <= set(info["facts"]["cgroups"]["controllers"])
    assert next(check for check in info["checks"] if check["name"] == "limits")["ok"]


# Pause


def ticking(person: Person, name: str, *flags: str) -> Callable[[], int]:
    """A container that counts in its log; how far it has come."""
    script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
    person.ctnr("run", "-d", f"--name={name}", "--network=none", *flags, "demo", "sh", "-c", script).ok  # noqa: B018
    return lambda: len(person.ctnr("logs", name).ok.stdout.split())


def check_pause(person: Person, count: Callable[[], int], name: str) -> None:
    person.ctnr("pause", name).ok  # noqa: B018
    assert detail(person, name, "{{.State.Status}}") == "paused"
    assert "(paused)" in person.ctnr("ps", "--filter", f"name={name}").ok.stdout
    first = count()
    time.sleep(0.2)
    assert count() == first
    for refused in (["pause", name], ["exec", name, "true"]):
        done = person.ctnr(*refused)
        assert done.status == 125
        assert "is paused; ctnr unpause" in done.stderr
    person.ctnr("unpause", name).ok  # noqa: B018
    deadline = time.monotonic() + 5
    while count() == first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count() > first
    assert "is not paused" in person.ctnr("unpause", name).stderr
    person.ctnr("exec", name, "true").ok  # noqa: B018


def test_pause_and_unpause(root: Person, names: list[str]) -> None:
    names.append("tick")
    check_pause(root, ticking(root, "tick"), "tick")


def test_what_exec_has_started_is_paused_too(root: Person, names: list[str]) -> None:
    names.append("two")
    ticking(root, "two")
    root.ctnr("exec", "-d", "two", "sleep", "500").ok  # noqa: B018
    root.ctnr("pause", "two").ok  # noqa: B018
    frozen = (group_of(root, "two")[""] / "cgroup.procs").read_text().split()
    programs = {Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip() for pid in frozen}
    assert b"sleep 500" in programs
    assert "frozen 1" in (group_of(root, "two")[""] / "cgroup.events").read_text()


@pytest.mark.parametrize("command", ["stop -t 5", "kill", "rm -f"])
def test_a_paused_one_can_be_ended(root: Person, names: list[str], command: str) -> None:
    script = "trap 'exit 3' TERM; while :; do sleep 0.05; done"
    root.ctnr("run", "-d", "--name=stiff", "--network=none", "demo", "sh", "-c", script).ok  # noqa: B018
    names.append("stiff")
    root.ctnr("pause", "stiff").ok  # noqa: B018
    root.ctnr(*command.split(), "stiff").ok  # noqa: B018
    if command == "rm -f":
        names.remove("stiff")
    else:
        assert root.ctnr("wait", "stiff").ok.stdout == ("3\n" if "stop" in command else "137\n")


def test_only_a_running_one_can_be_paused(me: Person, names: list[str]) -> None:
    me.ctnr("create", "--name=still", *SLEEPER).ok  # noqa: B018
    names.append("still")
    for command in ("pause", "unpause"):
        done = me.ctnr(command, "still")
        assert done.status == 125
        assert "container still is not running; ctnr start still" in done.stderr


def test_pausing_is_an_event(root: Person, names: list[str]) -> None:
    root.ctnr("run", "-d", "--name=seen", "--network=none", *SLEEPER).ok  # noqa: B018
    names.append("seen")
    for command in (["pause"], ["unpause"], ["update", "--pids-limit=9"]):
        root.ctnr(*command, "seen").ok  # noqa: B018
    told = root.ctnr(
        "events", "--stream=false", "--filter", "container=seen", "--format", "{{.Action}}"
    ).ok.stdout.split()
    assert [one for one in told if "pause" in one or one == "update"] == ["pause", "unpause", "update"]


# Update


def test_update_while_it_runs_and_for_the_next_start(root: Person, names: list[str]) -> None:
    root.ctnr("run", "-d", "--name=grow", "--network=none", "--cpus=1", "-m", "64m", *SLEEPER).ok  # noqa: B018
    names.append("grow")
    root.ctnr("update", "--memory", "256m", "--cpu-quota", "30000", "--pids-limit", "7", "grow").ok  # noqa: B018

    def held() -> list[str]:
        group = group_of(root, "grow")
        files = (
            "memory/memory.limit_in_bytes",
            "memory/memory.memsw.limit_in_bytes",
            "cpu/cpu.cfs_quota_us",
            "pids/pids.max",
        )
        return [
            (group[file.partition("/")[0]] / file.partition("/")[2]).read_text().strip() for file in files
        ]

    expected = [str(256 << 20), str(512 << 20), "30000", "7"]
    assert held() == expected
    root.ctnr("stop", "-t0", "grow").ok  # noqa: B018
    root.ctnr("start", "grow").ok  # noqa: B018
    assert held() == expected
    root.ctnr("update", "--memory=-1", "--pids-limit=-1", "grow").ok  # noqa: B018
    assert int(held()[0]) > 1 << 60
    assert held()[3] == "max"


def test_update_of_one_that_had_no_limits(root: Person, names: list[str]) -> None:
    root.ctnr("run", "-d", "--name=late", "--network=none", "demo", "sh", "-c", "sleep 1000 & wait").ok  # noqa: B018
    names.append("late")
    root.ctnr("update", "--pids-limit=5", "late").ok  # noqa: B018
    group = group_of(root, "late")["pids"]
    assert len((group / "cgroup.procs").read_text().split()) == 2
    assert (group / "pids.max").read_text() == "5\n"


def test_update_of_the_restart_policy(me: Person, names: list[str]) -> None:
    """It counts from the next end on; and what is not to be kept is not to come back either."""
    me.ctnr("run", "-d", "--name=phoenix", "--network=none", "demo", "sleep", "1000").ok  # noqa: B018
    names.append("phoenix")
    first = detail(me, "phoenix", "{{.State.Pid}}")
    me.ctnr("update", "--restart=on-failure:2", "phoenix").ok  # noqa: B018
    os.kill(int(first), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while detail(me, "phoenix", "{{.State.Pid}}") in (first, "0") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert detail(me, "phoenix", "{{.State.Status}} {{.RestartCount}}") == "running 1"
    assert detail(me, "phoenix", "{{.HostConfig.RestartPolicy.Name}}") == "on-failure"
    me.ctnr("update", "--restart=no", "phoenix").ok  # noqa: B018
    os.kill(int(detail(me, "phoenix", "{{.State.Pid}}")), signal.SIGKILL)
    assert me.ctnr("wait", "phoenix").ok.stdout == "137\n"
    assert "not known" in me.ctnr("update", "--restart=perhaps", "phoenix").stderr
    me.ctnr("create", "--rm", "--name=brief", *SLEEPER).ok  # noqa: B018
    names.append("brief")
    assert "can't be removed" in me.ctnr("update", "--restart=always", "brief").stderr


def test_an_update_that_fails_changes_nothing(root: Person, names: list[str]) -> None:
    script = "dd if=/dev/zero of=/dev/shm/full bs=1M count=40; sleep 1000"
    root.ctnr("run", "-d", "--name=full", "--network=none", "-m", "64m", "demo", "sh", "-c", script).ok  # noqa: B018
    names.append("full")
    group = group_of(root, "full")["memory"]
    deadline = time.monotonic() + 10
    while int((group / "memory.usage_in_bytes").read_text()) < 40 << 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    done = root.ctnr("update", "--pids-limit=9", "-m", "16m", "full")
    assert done.status == 125
    assert "container full uses" in done.stderr
    assert (group / "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
    assert json.loads(root.ctnr("inspect", "full").ok.stdout)[0]["Ctnr"]["Request"]["limits"] == {
        "memory": 64 << 20
    }


def test_update_needs_something_to_change(me: Person) -> None:
    done = me.ctnr("update", "whoever")
    assert done.status == 125
    assert "nothing to change" in done.stderr


# Devices


@pytest.mark.parametrize(("access", "works"), [("r", "head -c1 /dev/d | wc -c"), ("w", "echo x > /dev/d")])
def test_a_device_only_for_reading_or_writing(me: Person, access: str, works: str) -> None:
    other = "echo x > /dev/d" if access == "r" else "head -c1 /dev/d"
    run = ["run", "--rm", "--network=none", f"--device=/dev/net/tun:/dev/d:{access}", "demo", "sh", "-c"]
    if (
        me.uid
    ):  # a bind mount can't tell reading a device from writing it, and nothing else is an ordinary user's
        assert "takes a device cgroup, which is real root's" in me.ctnr(*run, works).stderr
        return
    assert "not permitted" not in me.ctnr(*run, works).stderr
    assert "Operation not permitted" in me.ctnr(*run, other).stderr


def test_who_may_make_nodes_may_not_open_them_all(root: Person) -> None:
    script = "mknod /tmp/kmsg c 1 11 && head -c1 /tmp/kmsg; mknod /tmp/null c 1 3 && echo x > /tmp/null && echo fine"
    done = root.ctnr(
        "run", "--rm", "--network=none", "--cap-add=MKNOD", "--tmpfs=/tmp:dev", "demo", "sh", "-c", script
    )
    assert "kmsg: Operation not permitted" in done.stderr
    assert done.stdout == "fine\n"


# Delegation, other layouts, and death


@contextmanager
def service_in(person: Person, folders: dict[str, Path], **env: str) -> Iterator[None]:
    """A fresh service of this person's that lives in these cgroups."""
    person.ctnr("supervisor", "stop").ok  # noqa: B018
    with cgroups.inside(folders):
        person.ctnr("run", "--rm", "--network=none", "demo", "true", env=env).ok  # noqa: B018
    try:
        yield
    finally:
        person.ctnr("supervisor", "stop", "--force").ok  # noqa: B018


def test_limits_with_runc(root: Person) -> None:
    """runc makes cgroups of its own: below ours, as it runs in there, so that our limits hold for them."""
    with service_in(root, {}, CTNR_RUNTIME="runc"):
        run = ["run", "--rm", "--network=none", "-m", "32m", "demo", "sh", "-c"]
        assert root.ctnr(*run, EATS_50_MB).status == 137
        check_pause(root, ticking(root, "tock", "--pids-limit=20"), "tock")
        assert root.ctnr("stats", "--no-stream", "--format={{.PIDs}}", "tock").ok.stdout.strip() in (
            "1",
            "2",
        )
        root.ctnr("rm", "-f", "tock").ok  # noqa: B018


def test_a_user_with_delegation_has_limits(me: Person) -> None:
    """v1's trees and cgroup2 given to a user: limits, pause and all else work as they do for root."""
    if not me.uid:
        pytest.skip("root needs no delegation")
    with cgroups.delegated(me.uid) as leaves, service_in(me, leaves):
        me.ctnr("run", "-d", "--name=mine", "--network=none", "-m", "64m", "--pids-limit=9", *SLEEPER).ok  # noqa: B018
        group = group_of(me, "mine")
        assert (group["memory"] / "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
        assert (group["pids"] / "pids.max").read_text() == "9\n"
        me.ctnr("update", "--pids-limit=11", "mine").ok  # noqa: B018
        assert (group["pids"] / "pids.max").read_text() == "11\n"
        names = ticking(me, "tock")
        check_pause(me, names, "tock")
        me.ctnr("rm", "-f", "mine", "tock").ok  # noqa: B018


def test_pause_on_pure_v2(me: Person) -> None:
    """The whole way on a machine that has cgroup2 alone. (This one's cgroup2 has no memory controller to limit by.)"""
    with cgroups.pure_v2(), cgroups.delegated(me.uid) as leaves, service_in(me, leaves):
        check_pause(me, ticking(me, "tock"), "tock")
        info = json.loads(me.ctnr("info", "--format=json").ok.stdout)
        assert info["facts"]["cgroups"]["version"] == "v2"
        refused = me.ctnr("run", "--rm", "--network=none", "-m", "64m", "demo", "true")
        assert "limit memory: " in refused.stderr
        me.ctnr("rm", "-f", "tock").ok  # noqa: B018


def test_devices_on_pure_v2(me: Person) -> None:
    """The BPF program, and what a container with a cgroup of its own sees of it."""
    if me.uid:
        pytest.skip("devices of real root")
    with cgroups.pure_v2(), service_in(me, {}):
        run = ["run", "--rm", "--network=none", "--device=/dev/net/tun:/dev/d:r", "demo", "sh", "-c"]
        assert "Operation not permitted" in me.ctnr(*run, "echo x > /dev/d").stderr
        assert "not permitted" not in me.ctnr(*run, "head -c1 /dev/d").stderr
        assert me.ctnr(*run, "cat /proc/self/cgroup").ok.stdout.endswith("\n0::/\n")
        assert "cgroup.procs" in me.ctnr(*run, "ls /sys/fs/cgroup").ok.stdout
        assert me.ctnr(*run, "mkdir /sys/fs/cgroup/mine").status != 0


def test_pause_on_pure_v1(root: Person) -> None:
    """v1's freezer, which does not even let killed processes go: they are thawed first."""
    with cgroups.without_v2(), service_in(root, {}):
        check_pause(root, ticking(root, "tock"), "tock")
        for command in ("kill", "rm -f"):
            root.ctnr("start", "tock").ok  # noqa: B018
            root.ctnr("pause", "tock").ok  # noqa: B018
            assert (group_of(root, "tock")["freezer"] / "freezer.state").read_text() == "FROZEN\n"
            root.ctnr(*command.split(), "tock").ok  # noqa: B018


@pytest.mark.parametrize("layout", ["hybrid", "v1"])
def test_nothing_stays_of_a_service_that_was_killed(root: Person, layout: str) -> None:
    """No process, not even a frozen one; and the empty cgroups go when the next service starts."""
    with cgroups.without_v2() if layout == "v1" else nullcontext(), service_in(root, {}):
        root.ctnr("run", "-d", "--name=a", "--network=none", "-m", "64m", *SLEEPER).ok  # noqa: B018
        root.ctnr("run", "-d", "--name=b", "--network=none", *SLEEPER).ok  # noqa: B018
        root.ctnr("pause", "b").ok  # noqa: B018
        groups = [*group_of(root, "a").values(), *group_of(root, "b").values()]
        assert groups
        pid = json.loads(root.ctnr("supervisor", "status", "--format=json").ok.stdout)["pid"]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while root.service_pids() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not root.service_pids()
        root.ctnr("run", "--rm", "--network=none", "demo", "true").ok  # noqa: B018
        assert not [group for group in groups if group.exists()]
        root.ctnr("rm", "-f", "a", "b").ok  # noqa: B018
