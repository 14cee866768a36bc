"""What is written where. v2's files are plain ones here: no machine of the tests has its memory controller there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.cgroups import bpf, tree
from supervisor.cgroups.group import Group
from supervisor.cgroups.layout import Hierarchy, Layout, read_layout
from supervisor.cgroups.limits import Limits
from supervisor.cgroups.tree import Cgroups
from supervisor.errors import LimitError

V2_FILES = (
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "cpu.max",
    "cpu.weight",
    "cpuset.cpus",
    "cpuset.mems",
    "pids.max",
)
ALL = Limits(
    memory=64 << 20, memory_reservation=1 << 20, cpu_quota=50_000, cpu_shares=1024, cpuset_cpus="0-1", cpuset_mems="0",
    pids=9,
)  # fmt: skip


def group_at(folder: Path, version: int, files: tuple[str, ...]) -> Group:
    group = Group()
    for name in files:
        (folder / name).touch()
    group.places = dict.fromkeys(("memory", "cpu", "cpuset", "pids"), (version, str(folder)))
    return group


def test_v2(tmp_path: Path) -> None:
    group_at(tmp_path, 2, V2_FILES).apply(ALL, spare_pids=4)
    assert {name: (tmp_path / name).read_text() for name in V2_FILES} == {
        "memory.max": "67108864", "memory.swap.max": "67108864", "memory.low": "1048576", "cpu.max": "50000 100000",
        "cpu.weight": "39", "cpuset.cpus": "0-1", "cpuset.mems": "0", "pids.max": "13",
    }  # fmt: skip


def test_v2_without_limits_again(tmp_path: Path) -> None:
    group_at(tmp_path, 2, V2_FILES).apply(Limits(memory=-1, cpu_quota=-1, pids=-1))
    found = [
        (tmp_path / name).read_text() for name in ("memory.max", "memory.swap.max", "cpu.max", "pids.max")
    ]
    assert found == ["max", "max", "max 100000", "max"]


def test_swap_that_is_not_counted(tmp_path: Path) -> None:
    """Left out where it is a default; told where it was asked for."""
    group = group_at(tmp_path, 2, ("memory.max",))
    group.apply(Limits(memory=64 << 20))
    with pytest.raises(LimitError, match="does not count swap"):
        group.apply(Limits(memory=64 << 20, memory_swap=80 << 20))


@pytest.mark.parametrize(("shares", "weight"), [(2, "1"), (1024, "39"), (262144, "10000")])
def test_weights(tmp_path: Path, shares: int, weight: str) -> None:
    group_at(tmp_path, 2, ("cpu.weight",)).apply(Limits(cpu_shares=shares))
    assert (tmp_path / "cpu.weight").read_text() == weight


def test_going_back() -> None:
    before = Limits(memory=64 << 20)
    assert before.without(Limits(pids=3, cpu_quota=5000)) == Limits(memory=64 << 20, pids=-1, cpu_quota=-1)


def machine(tmp_path: Path, cgroup: str, mountinfo: str, folders: dict[str, str]) -> str:
    """A /proc/self, and cgroup folders with the controllers that are handed on to them."""
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(mountinfo.replace("TOP", str(tmp_path / "top")))
    for folder, controllers in folders.items():
        path = tmp_path / "top" / folder
        path.mkdir(parents=True, exist_ok=True)
        for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.events"):
            (path / name).touch()
        (path / "cgroup.controllers").write_text(controllers)
    return str(tmp_path)


V2_MOUNT = "30 24 0:26 / TOP rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
SLICE = "user.slice/user@7.service"


def test_a_delegated_group_above_ours(tmp_path: Path) -> None:
    """Where others have processes beside ours, the nearest group without any is used; its controllers count."""
    own = f"{SLICE}/app.slice/shell.scope"
    proc = machine(
        tmp_path, f"0::/{own}\n", V2_MOUNT, {SLICE: "memory pids cpu", f"{SLICE}/app.slice": "pids", own: ""}
    )
    (tmp_path / "top" / own / "cgroup.procs").write_text("1\n")
    layout = read_layout(proc)
    assert layout.kind == "v2"
    cgroups = Cgroups(layout)
    assert layout.v2 is not None
    for controller, where in (("pids", f"{SLICE}/app.slice"), ("memory", SLICE), ("io", None)):
        base = cgroups._base(layout.v2, controller)
        assert base == (None if where is None else str(tmp_path / "top" / where))


def test_the_sweep_takes_what_dead_supervisors_left_and_nothing_of_a_scope(tmp_path: Path) -> None:
    """A scope is of a supervisor that lives: systemd removes it with its last process. It holds no lock on it."""
    proc = machine(tmp_path, "0::/unit\n", V2_MOUNT, {"unit": "memory"})
    own = tmp_path / "top/unit"
    for group in ("ctnr-dead/container", "ctnr-0123.scope/ctnr-living/container", "ctnr-supervisor"):
        (own / group).mkdir(parents=True)
    Cgroups(read_layout(proc)).sweep()
    left = sorted(str(path.relative_to(own)) for path in own.rglob("*") if path.is_dir())
    assert left == [
        "ctnr-0123.scope", "ctnr-0123.scope/ctnr-living", "ctnr-0123.scope/ctnr-living/container", "ctnr-supervisor",
    ]  # fmt: skip


def test_a_hybrid_machine(tmp_path: Path) -> None:
    mounts = (
        "31 24 0:27 / TOP/unified rw - cgroup2 cgroup2 rw\n"
        "32 24 0:28 / TOP/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "33 24 0:29 /docker/1 TOP/pids rw - cgroup cgroup rw,pids\n"
        "34 24 0:30 / TOP/systemd rw - cgroup cgroup rw,name=systemd\n"
    )
    paths = "4:cpu,cpuacct:/a\n3:pids:/docker/1/b\n2:name=systemd:/\n0::/c\n"
    proc = machine(
        tmp_path, paths, mounts,
        {"unified/c": "hugetlb", "cpu,cpuacct/a": "", "pids/b": "", "systemd": ""},
    )  # fmt: skip
    layout = read_layout(proc)
    assert layout.kind == "hybrid"
    found = {name: layout.of(name) for name in ("cpuacct", "pids", "freeze", "hugetlb", "devices", "memory")}
    assert {name: one.own.removeprefix(f"{tmp_path}/top/") if one else None for name, one in found.items()} == {
        "cpuacct": "cpu,cpuacct/a", "pids": "pids/b", "freeze": "unified/c", "hugetlb": "unified/c",
        "devices": "unified/c", "memory": None,
    }  # fmt: skip
    refusal = Cgroups(layout).refusal(("memory",))
    assert refusal is not None
    assert "the controller memory is not there (hybrid)" in refusal.why


def test_a_machine_that_shows_nothing(tmp_path: Path) -> None:
    """As in a container: the kernel tells of groups, but none of the trees is mounted."""
    layout = read_layout(machine(tmp_path, "0::/x\n", "1 0 0:1 / / rw - overlay overlay rw\n", {}))
    assert layout.kind == "none"
    refusal = Cgroups(layout).refusal(("pids",))
    assert refusal is not None
    assert refusal.why == "no cgroup file system is mounted here"


def test_the_device_program_has_a_way_out_of_every_rule() -> None:
    rules = [("c", 1, 3, "rwm"), ("b", None, None, "m"), ("c", 136, None, "rw")]
    program = bpf.assemble(rules)
    codes = [program[at] for at in range(0, len(program), 8)]
    assert codes.count(0x95) == len(rules) + 1
    assert codes[-2:] == [0xB7, 0x95]


def test_joining_a_leaf(tmp_path: Path) -> None:
    """For runc, which makes cgroups beside the one that it runs in."""
    group = group_at(tmp_path, 2, V2_FILES)
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime/cgroup.procs").touch()
    for leaf in ("", "runtime"):
        with group.joins(leaf) as descriptors:
            assert [os.readlink(f"/proc/self/fd/{one}") for one in descriptors] == [
                str(tmp_path / leaf / "cgroup.procs")
            ]


async def test_a_process_that_ends_before_systemd_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again without that one; what it refuses for another reason is told."""
    own = Hierarchy(2, frozenset(), str(tmp_path), str(tmp_path))
    ended, asked = 1 << 30, []
    listed = iter([[os.getpid(), ended], [os.getpid()], [os.getpid()]])

    async def enter_scope(pids: list[int], uid: int) -> None:
        asked.append(pids)
        if len(asked) != 2:
            raise LimitError("refused")

    monkeypatch.setattr(tree, "offered", lambda mount, uid: frozenset({"memory"}))
    monkeypatch.setattr(tree, "_ours_in", lambda directory: next(listed))
    monkeypatch.setattr(tree, "enter_scope", enter_scope)
    monkeypatch.delenv("SYSTEMD_EXEC_PID", raising=False)
    await Cgroups(Layout((own,))).claim(["memory"])
    assert asked == [[os.getpid(), ended], [os.getpid()]]
    with pytest.raises(LimitError, match="refused"):
        await Cgroups(Layout((own,))).claim(["memory"])
