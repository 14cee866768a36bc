"""What a container uses: from its cgroup where it has one that counts it, else summed over its processes in /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.cgroups.group import Group
from supervisor.processes import list_members, read_status

if TYPE_CHECKING:
    from supervisor.container import Container

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Of one container at one moment; `summed` names what was summed over processes, for want of a cgroup.

    A sum leaves out what processes that have ended had used, unless a parent in the container has waited for them.
    """

    cpu_seconds: float
    memory: int  # bytes, without file pages that can be dropped at once; summed: PSS
    memory_limit: int  # bytes; the machine's memory where there is no limit
    pids: int
    received: int | None  # bytes, on all networks of its own; None on the host's
    sent: int | None
    read: int  # bytes, from and to block devices
    written: int
    summed: tuple[str, ...] = field(default=())


def measure(containers: Sequence[Container]) -> dict[str, Usage]:
    """By container id, those that run; one walk through /proc for all that need it."""
    firsts = {one.id: pid for one in containers if (pid := one.host_pid) is not None}
    needs = [one for one in containers if one.id in firsts and _missing(one.confinement.group)]
    members = list_members([firsts[one.id] for one in needs]) if needs else {}
    return {
        one.id: _measure(one, firsts[one.id], members.get(firsts[one.id], ()))
        for one in containers
        if one.id in firsts
    }


def _missing(group: Group | None) -> tuple[str, ...]:
    """What the cgroup does not count."""
    sources = {
        "cpu": ("cpuacct", "cpu"),
        "memory": ("memory",),
        "pids": ("pids",),
        "block io": ("blkio", "io"),
    }
    return tuple(
        name
        for name, controllers in sources.items()
        if group is None or not any(map(group.counts, controllers))
    )


def _measure(container: Container, first: int, members: Iterable[int]) -> Usage:
    group, missing = container.confinement.group, _missing(container.confinement.group)
    members = list(members)
    received, sent = (None, None) if container.netns is None else _traffic(first)
    read, written = _processes_io(members) if "block io" in missing else _group_io(group)
    return Usage(
        cpu_seconds=sum(map(_cpu_seconds, members)) if "cpu" in missing else _group_cpu(group),
        memory=sum(map(_memory, members)) if "memory" in missing else _group_memory(group),
        memory_limit=_memory_limit(group),
        pids=sum(map(_threads, members)) if "pids" in missing else _group_pids(group),
        received=received,
        sent=sent,
        read=read,
        written=written,
        summed=missing,
    )


# From the cgroup


def _group_cpu(group: Group | None) -> float:
    assert group is not None
    nanoseconds = group.number("cpuacct", "cpuacct.usage", "cpuacct.usage")
    if nanoseconds is not None:
        return nanoseconds / 1e9
    return group.table("cpu", "cpu.stat", "cpu.stat").get("usage_usec", 0) / 1e6


def _group_memory(group: Group | None) -> int:
    assert group is not None
    return group.memory_in_use or 0


def _group_pids(group: Group | None) -> int:
    assert group is not None
    return group.number("pids", "pids.current", "pids.current") or 0


def _group_io(group: Group | None) -> tuple[int, int]:
    """`8:0 rbytes=1 wbytes=2 …` (v2), `8:0 Read 1` (v1)."""
    assert group is not None
    read = written = 0
    for line in group.text("blkio", "blkio.throttle.io_service_bytes_recursive", "").splitlines():
        words = line.split()
        if len(words) == 3:
            read += int(words[2]) if words[1] == "Read" else 0
            written += int(words[2]) if words[1] == "Write" else 0
    for line in group.text("io", "", "io.stat").splitlines():
        counts = dict(word.partition("=")[::2] for word in line.split()[1:])
        read += int(counts.get("rbytes", 0))
        written += int(counts.get("wbytes", 0))
    return read, written


def _memory_limit(group: Group | None) -> int:
    limit = group.number("memory", "memory.limit_in_bytes", "memory.max") if group is not None else None
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine if limit is None else min(limit, machine)


# From processes


def _cpu_seconds(pid: int) -> float:
    """Its own and that of children it has waited for (proc(5), stat: utime stime cutime cstime)."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def _memory(pid: int) -> int:
    """PSS in bytes: a page that n processes share counts as 1/n for each. RSS where that can't be read."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return int(read_status(pid).get("VmRSS", "0 kB").split()[0]) << 10


def _threads(pid: int) -> int:
    return int(read_status(pid).get("Threads", 0))


def _processes_io(pids: Iterable[int]) -> tuple[int, int]:
    read = written = 0
    for pid in pids:
        counts = dict(line.partition(": ")[::2] for line in _read(f"/proc/{pid}/io").splitlines())
        read += int(counts.get("read_bytes", 0))
        written += int(counts.get("write_bytes", 0))
    return read, written


def _traffic(pid: int) -> tuple[int, int]:
    """Of all interfaces but lo in the process's network namespace."""
    received = sent = 0
    for line in _read(f"/proc/{pid}/net/dev").splitlines()[2:]:
        name, _, counts = line.partition(":")
        if name.strip() != "lo":
            numbers = counts.split()
            received, sent = received + int(numbers[0]), sent + int(numbers[8])
    return received, sent


def _read(path: str) -> str:
    """Empty if the process has gone, or is not ours to look at."""
    with suppress(OSError), open(path, errors="replace") as file:
        return file.read()
    return ""
