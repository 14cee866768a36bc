"""Which cgroup trees this machine shows, and where in them we are: pure v2, v1, both, or nothing mounted."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

V2_CORE = ("freeze", "devices")  # what every cgroup2 can do, without a controller that is handed on


@dataclass(frozen=True)
class Hierarchy:
    """One mounted tree. `own` is the directory of this process's cgroup in it."""

    version: int
    controllers: frozenset[str]
    mount: str
    own: str

    @property
    def is_root(self) -> bool:
        """Whether `own` is the machine's root cgroup, the one that may hold both processes and groups in v2."""
        return not os.path.exists(f"{self.own}/cgroup.events") and self.version == 2


@dataclass(frozen=True)
class Layout:
    """All trees that can be seen here, v1's in the order in which they are mounted."""

    hierarchies: tuple[Hierarchy, ...]

    @property
    def v2(self) -> Hierarchy | None:
        return next((one for one in self.hierarchies if one.version == 2), None)

    @property
    def kind(self) -> str:
        """v2, v1, hybrid (v1 with a cgroup2 beside it) or none."""
        versions = {one.version for one in self.hierarchies if one.version == 2 or one.controllers}
        return "hybrid" if len(versions) == 2 else f"v{versions.pop()}" if versions else "none"

    def of(self, controller: str) -> Hierarchy | None:
        """Where a controller is. `freeze` is cgroup2's own, which lets killed processes go, or else v1's freezer."""
        if controller == "freeze":
            return self.v2 or self._with("freezer")
        return self._with(controller) or (self.v2 if controller in V2_CORE else None)

    def _with(self, controller: str) -> Hierarchy | None:
        return next((one for one in self.hierarchies if controller in one.controllers), None)


def read_layout(proc: str = "/proc/self") -> Layout:
    """As the kernel tells it to this process (cgroups(7), proc(5)). Raises: OSError."""
    with open(f"{proc}/cgroup") as file:
        paths = dict(line.rstrip("\n").split(":", 2)[1:] for line in file)
    with open(f"{proc}/mountinfo") as file:
        mounts = [line for line in file if " - cgroup" in line]
    found: dict[str, Hierarchy] = {}
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, target = (_unescape(text) for text in before.split()[3:5])
        kind, _, options = after.split()[:3]
        names = "" if kind == "cgroup2" else _key(options, paths)
        if names is None or names not in paths:
            continue
        own = _below(target, root, paths[names])
        if own is None or not os.path.exists(f"{own}/cgroup.procs"):
            continue  # another's, or covered by a later mount
        controllers = _read_words(f"{own}/cgroup.controllers") if kind == "cgroup2" else names.split(",")
        found.setdefault(
            names, Hierarchy(2 if kind == "cgroup2" else 1, frozenset(controllers), target, own.rstrip("/"))
        )
    return Layout(tuple(found.values()))


def _key(options: str, paths: dict[str, str]) -> str | None:
    """The name in /proc/self/cgroup of the v1 tree with these mount options."""
    words = set(options.split(","))
    return next((names for names in paths if names and set(names.split(",")) <= words), None)


def _below(target: str, root: str, path: str) -> str | None:
    """Where the cgroup `path` is, if what is mounted at `target` begins at the cgroup `root`; None if above it."""
    if path.startswith("/.."):
        return None
    if root == "/":
        return target + path
    if path == root or path.startswith(root + "/"):
        return target + path[len(root) :]
    # a container without a cgroup namespace, with its own part of the tree mounted: paths are the host's
    return None


def _read_words(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().split()
    except OSError:
        return []


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
