"""A real cgroup2 that was handed to an ordinary user: where groups go, and what moves out of their way."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.world import cgroups
from tests.world.machine import Machine

PROGRAM = """
import json, os, subprocess, sys
from supervisor.cgroups import tree
from supervisor.cgroups.layout import read_layout
hierarchy = read_layout().v2
child = subprocess.Popen(["sleep", "100"])
own = hierarchy.own
moves = tree._is_ours(own, hierarchy.mount)
refused = None
try:
    if moves:
        tree._move_out_of_the_way(own)
except OSError as exc:
    refused = exc.strerror
left = open(f"{own}/cgroup.procs").read().split()
now = open("/proc/self/cgroup").read().splitlines()[-1]
child.kill()
child.wait()
print(json.dumps({"moves": moves, "refused": refused, "left": left, "now": now}))
"""


def play(machine: Machine, leaf: Path, *, beside: bool) -> dict[str, object]:
    """PROGRAM as the user in that cgroup, alone in it or `beside` a process that is not its own."""
    stranger = None
    with cgroups.inside({"": leaf}):
        if beside:
            stranger = subprocess.Popen(["sleep", "100"])
        program = subprocess.Popen(
            [machine.bin / "python3", "-c", PROGRAM], stdout=subprocess.PIPE, text=True, user=machine.user_id,
            group=machine.user_id, extra_groups=[], cwd="/",
        )  # fmt: skip
    try:
        out, _ = program.communicate(timeout=30)
    finally:
        if stranger is not None:
            stranger.kill()
            stranger.wait()
    assert program.returncode == 0
    result: dict[str, object] = json.loads(out)
    return result


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("marked", [False, True])
def test_who_moves_out_of_the_way(machine: Machine, beside: bool, marked: bool) -> None:
    """Alone, or where systemd's mark says that all below is the user's: not where others have their processes."""
    with cgroups.delegated(machine.user_id) as leaves:
        leaf = leaves[""]
        if marked:
            os.setxattr(leaf, "user.delegate", b"1")
        done = play(machine, leaf, beside=beside)
        assert done["moves"] == (marked or not beside)
        if done["moves"]:
            assert done["left"] == []
            assert str(done["now"]).endswith("/leaf/ctnr-supervisor")
        else:
            assert len(done["left"]) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("pid_namespace", [False, True])
def test_root_of_a_container_with_a_cgroup_namespace(machine: Machine, pid_namespace: bool) -> None:
    """All of the tree that it sees is its own, so all processes move; but not those that it can't see."""
    own = cgroups.make(cgroups.current()[""] / "contained")
    options = ["--cgroup", "--mount", *(("--pid", "--fork") if pid_namespace else ())]
    script = 'mount -t cgroup2 none /sys/fs/cgroup; mount -t proc proc /proc; "$0" -c "$1"; exit $?'
    try:
        with cgroups.inside({"": own}):
            program = subprocess.Popen(
                ["unshare", *options, "sh", "-c", script, machine.bin / "python3", PROGRAM],
                stdout=subprocess.PIPE,
                text=True,
            )
        done = json.loads(program.communicate(timeout=30)[0])
        assert done["moves"]
        if pid_namespace:
            assert done["refused"] == "processes of another pid namespace are in it"
        else:
            assert (done["left"], done["now"]) == ([], "0::/ctnr-supervisor")
    finally:
        for folder, _, _ in os.walk(own, topdown=False):
            os.rmdir(folder)
