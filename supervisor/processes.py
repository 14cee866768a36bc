"""Processes of containers as the supervisor's own /proc shows them: which pid they have here, and whose they are."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable

NS_GET_PARENT = 0xB702  # ioctl_ns(2)


def map_children(init_pid: int) -> dict[int, int]:
    """The children of a sandbox's init: as it counts them → as we do.

    NSpid (proc(5)) has a process's numbers from our namespace inwards: the one after ours is init's.
    """
    numbers = {child: read_ns_pids(child) for child in _children(init_pid)}
    return {inner[1]: child for child, inner in numbers.items() if len(inner) > 1}


def read_ns_pids(pid: int) -> list[int]:
    """The numbers of a process, ours first, its innermost namespace's last; empty if it has gone."""
    return [int(number) for number in read_status(pid).get("NSpid", "").split()]


def read_status(pid: int) -> dict[str, str]:
    """/proc/PID/status; empty if it has gone."""
    try:
        with open(f"/proc/{pid}/status", errors="replace") as file:
            return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
    except OSError:
        return {}


def list_members(first_pids: Iterable[int]) -> dict[int, list[int]]:
    """For each container's first process, all processes of its pid namespace and of those made in it.

    Also what was started in it from outside (exec), which is no child of the first one. One walk for all containers.
    """
    namespaces = {inode: pid for pid in first_pids if (inode := _pid_namespace(pid))}
    found: dict[int, list[int]] = {pid: [] for pid in namespaces.values()}
    owners: dict[int, int | None] = dict(namespaces)  # namespace → whose; None: no container's
    for name in os.listdir("/proc"):
        if name.isdigit():
            inode = _pid_namespace(int(name))
            if inode is None:
                continue
            if inode not in owners:
                owners[inode] = _owner_above(int(name), namespaces)
            owner = owners[inode]
            if owner is not None:
                found[owner].append(int(name))
    return found


def _owner_above(pid: int, namespaces: dict[int, int]) -> int | None:
    """The container in whose namespace the one of `pid` was made, however deep."""
    try:
        descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        while True:
            try:
                above = fcntl.ioctl(descriptor, NS_GET_PARENT)
            except OSError:  # EPERM: above ours
                return None
            os.close(descriptor)
            descriptor = above
            inode = os.fstat(descriptor).st_ino
            if inode in namespaces:
                return namespaces[inode]
    finally:
        os.close(descriptor)


def _pid_namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(int(name)) == pid]


def _parent(pid: int) -> int:
    return int(read_status(pid).get("PPid", 0))
