"""pytest's own cgroup in every tree: what the product makes lies below it, apart from other programs'."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

NAME = "world-{}"  # not ctnr-: supervisors outside sweep those


def current() -> dict[str, Path]:
    """The directory of this process's cgroup, by tree: "memory", "name=systemd", … and "" for cgroup2."""
    paths = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, target = before.split()[3:5]
        kind, _, options = after.split()[:3]
        words = set(options.split(","))
        if kind not in ("cgroup", "cgroup2"):
            continue
        names = (
            "" if kind == "cgroup2" else next((n for n in paths if n and set(n.split(",")) <= words), None)
        )
        if names is None or names not in paths:
            continue
        folder = Path(target + re.sub(f"^{re.escape(root.rstrip('/'))}", "", paths[names], count=1))
        if (folder / "cgroup.procs").exists():  # else covered by another mount
            found[names] = folder
    return found


def enter_own() -> dict[str, Path]:
    """Move this process into new cgroups; where it came from, for `leave_own`."""
    before = current()
    for folder in before.values():
        _sweep(folder)
        own = make(folder / NAME.format(os.getpid()))
        (own / "cgroup.procs").write_text(str(os.getpid()))
    return before


def _sweep(folder: Path) -> None:
    """Runs that were killed have left theirs."""
    for stale in folder.glob(NAME.format("*")):
        if not Path("/proc", stale.name.rpartition("-")[2]).exists():
            for path, _, _ in os.walk(stale, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)


def leave_own(before: dict[str, Path]) -> None:
    for folder in before.values():
        with contextlib.suppress(OSError):
            (folder / "cgroup.procs").write_text(str(os.getpid()))
            (folder / NAME.format(os.getpid())).rmdir()


def make(folder: Path) -> Path:
    """A cgroup that processes can join."""
    folder.mkdir(exist_ok=True)
    for name in ("cpuset.mems", "cpuset.cpus"):
        if (folder / name).exists() and not (folder / name).read_text().strip():
            (folder / name).write_text((folder.parent / name).read_text())
    return folder


@contextlib.contextmanager
def inside(folders: dict[str, Path]) -> Iterator[None]:
    """This process, and so what it starts, is in these cgroups for as long as the block lasts."""
    before = current()
    for folder in folders.values():
        (folder / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        for name in folders:
            (before[name] / "cgroup.procs").write_text(str(os.getpid()))


@contextlib.contextmanager
def delegated(uid: int) -> Iterator[dict[str, Path]]:
    """Cgroups that belong to a user, with a leaf each in which processes are: {tree: the leaf}.

    What systemd does with Delegate=yes. Where the block ends, all processes in them must have gone.
    """
    leaves: dict[str, Path] = {}
    try:
        for tree, folder in current().items():
            top = make(folder / f"delegated-{uid}")
            leaves[tree] = make(top / "leaf")
            for one in (top, leaves[tree]):
                os.chown(one, uid, uid)
                for name in ("cgroup.procs", "tasks", "cgroup.subtree_control", "cgroup.threads"):
                    if (one / name).exists():
                        os.chown(one / name, uid, uid)
        yield leaves
    finally:
        for leaf in leaves.values():
            for path, _, _ in os.walk(leaf.parent, topdown=False):
                os.rmdir(path)


@contextlib.contextmanager
def pure_v2() -> Iterator[Path]:
    """A machine with cgroup2 alone: it covers v1's trees, whose controllers stay where they are."""
    top = "/sys/fs/cgroup"
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", top], check=True)
    try:
        yield current()[""]
    finally:
        subprocess.run(["umount", top], check=True)


@contextlib.contextmanager
def without_v2() -> Iterator[None]:
    """A machine with v1 alone."""
    top = "/sys/fs/cgroup/unified"
    assert str(current()[""]).startswith(top)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=0", "none", top], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", top], check=True)
