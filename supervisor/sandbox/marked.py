"""Processes known by a mark: a resource limit that no two programs of ours share. Standard library only: init's.

It is what a process can't shake off by setsid, by a double fork or with its environment, and what costs no cgroup:
limits are inherited and kept by execve(2). The limit is RLIMIT_RTTIME, processor time of real-time scheduling in
microseconds, at values of 146 000 years and more.
"""

from __future__ import annotations

import _signal as signal  # what `signal` itself imports costs milliseconds
import os

LIMIT = "RLIMIT_RTTIME"
LOWEST = 1 << 62
ROUNDS = 100  # of killing what was forked meanwhile

_LINE = "Max realtime timeout"


def kill_marked(mark: int) -> None:
    """SIGKILL to every process with this mark that /proc shows, until there is none."""
    for _ in range(ROUNDS):
        if not [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _kill(pid, mark)]:
            return


def _kill(pid: int, mark: int) -> bool:
    """Whether it had the mark, and lived."""
    try:
        if pid == os.getpid() or _mark_of(pid) != mark or _is_dead(pid):
            return False
        os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        return False
    return True


def _mark_of(pid: int) -> int:
    with open(f"/proc/{pid}/limits") as file:
        for line in file:
            if line.startswith(_LINE):
                value = line[len(_LINE) :].split()[0]
                return 0 if value == "unlimited" else int(value)
    return 0


def _is_dead(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1] in b"ZX"
