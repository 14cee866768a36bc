"""`ctnr top`: the processes of a container, in columns that ps and podman know. Read from /proc."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Sequence
from functools import cached_property

from ctnr.bundles.users import UserFiles, list_names
from supervisor.errors import SupervisorError
from supervisor.processes import list_members, read_ns_pids, read_status

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
DEFAULT = ("user", "pid", "ppid", "pcpu", "etime", "tty", "time", "args")
FULL = ("user", "pid", "ppid", "c", "stime", "tty", "time", "args")
AUX = ("user", "pid", "pcpu", "pmem", "vsz", "rss", "tty", "state", "stime", "time", "args")
_PTS_MAJORS = range(136, 144)


class Container:
    """What the columns need to know of the container as a whole."""

    def __init__(self, first: int, files: UserFiles) -> None:
        self.depth = len(read_ns_pids(first))  # its processes have that many numbers, or more
        self.users, self.groups = list_names(files)
        self.uid_map, self.gid_map = _read_map(first, "uid_map"), _read_map(first, "gid_map")
        self.inner = {pid: numbers[self.depth - 1] for pid in list_members([first])[first]
                      if len(numbers := read_ns_pids(pid)) >= self.depth}  # fmt: skip
        with open("/proc/uptime") as file:
            self.uptime = float(file.read().split()[0])


class Process:
    """One process; each file of its is read at the first need."""

    def __init__(self, pid: int, container: Container) -> None:
        self.pid, self.container = pid, container

    @cached_property
    def stat(self) -> list[str]:
        """Fields of /proc/PID/stat from the state on: field n of proc(5) is at n - 3."""
        return (_read(self.pid, "stat") or "x (x) X" + " 0" * 50).rpartition(")")[2].split()

    @cached_property
    def status(self) -> dict[str, str]:
        return read_status(self.pid)

    @property
    def args(self) -> str:
        words = _read(self.pid, "cmdline").rstrip("\0").split("\0")
        text = " ".join(words)
        return (
            "".join(one if one.isprintable() else "?" for one in text) or f"[{self.status.get('Name', '')}]"
        )

    @property
    def cpu_seconds(self) -> float:
        return (int(self.stat[11]) + int(self.stat[12])) / TICKS

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return max(self.container.uptime - int(self.stat[19]) / TICKS, 0)

    @property
    def cpu_percent(self) -> float:
        return 100 * self.cpu_seconds / self.age if self.age else 0.0

    @property
    def uid(self) -> int:
        return _inside(self.container.uid_map, int(self.status.get("Uid", "0 0").split()[1]))

    @property
    def gid(self) -> int:
        return _inside(self.container.gid_map, int(self.status.get("Gid", "0 0").split()[1]))

    @property
    def terminal(self) -> str:
        number = int(self.stat[4])
        major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
        return f"pts/{minor + 256 * (major - 136)}" if major in _PTS_MAJORS else "?"

    @property
    def memory_bytes(self) -> int:
        return int(self.stat[21]) * PAGE


Column = tuple[str, Callable[[Process], str]]

COLUMNS: dict[str, Column] = {
    "args": ("COMMAND", lambda one: one.args),
    "c": ("C", lambda one: f"{one.cpu_percent:.0f}"),
    "comm": ("COMMAND", lambda one: one.status.get("Name", "")),
    "etime": ("ELAPSED", lambda one: _clock(one.age, short=True)),
    "group": ("GROUP", lambda one: one.container.groups.get(one.gid, str(one.gid))),
    "hpid": ("HPID", lambda one: str(one.pid)),
    "huser": ("HUSER", lambda one: _host_user(int(one.status.get("Uid", "0 0").split()[1]))),
    "nice": ("NI", lambda one: one.stat[16]),
    "pcpu": ("%CPU", lambda one: f"{one.cpu_percent:.1f}"),
    "pgid": ("PGID", lambda one: str(_number_in(one, "NSpgid"))),
    "pid": ("PID", lambda one: str(one.container.inner.get(one.pid, 0))),
    "pmem": ("%MEM", lambda one: f"{100 * one.memory_bytes / (os.sysconf('SC_PHYS_PAGES') * PAGE):.1f}"),
    "ppid": ("PPID", lambda one: str(one.container.inner.get(int(one.stat[1]), 0))),
    "rss": ("RSS", lambda one: str(one.memory_bytes >> 10)),
    "state": ("S", lambda one: one.stat[0]),
    "stime": ("STIME", lambda one: time.strftime("%H:%M", time.localtime(time.time() - one.age))),
    "threads": ("THREADS", lambda one: one.status.get("Threads", "0")),
    "time": ("TIME", lambda one: _clock(one.cpu_seconds)),
    "tty": ("TTY", lambda one: one.terminal),
    "uid": ("UID", lambda one: str(one.uid)),
    "user": ("USER", lambda one: one.container.users.get(one.uid, str(one.uid))),
    "vsz": ("VSZ", lambda one: str(int(one.stat[20]) >> 10)),
}
_SYNONYMS = {
    "%cpu": "pcpu", "%mem": "pmem", "cmd": "args", "command": "args", "ucmd": "comm", "start": "stime",
    "start_time": "stime", "s": "state", "stat": "state", "ni": "nice", "tt": "tty", "tname": "tty", "cputime": "time",
    "elapsed": "etime", "ruser": "user", "euser": "user", "nlwp": "threads", "rssize": "rss", "vsize": "vsz",
}  # fmt: skip


def choose_columns(words: Sequence[str]) -> tuple[str, ...]:
    """From names (podman's, ps's), or from the few ways in which ps is called. Raises: SupervisorError."""
    if not words:
        return DEFAULT
    if words[0].lstrip("-") in ("ef", "fe", "e", "f") or tuple(words) == ("-e", "-f"):
        return FULL
    if words[0].lstrip("-") in ("aux", "uax", "u"):
        return AUX
    if words[0] in ("-o", "-eo", "-Ao", "o", "eo") and len(words) > 1:
        words = words[1:]
    elif words[0].startswith(("-o", "-eo")):
        words = [words[0].partition("o")[2], *words[1:]]
    chosen = [
        _SYNONYMS.get(name.lower(), name.lower()) for word in words for name in word.split(",") if name
    ]
    for name in chosen:
        if name not in COLUMNS:
            raise SupervisorError(
                f"top: no column {name!r}",
                cure=f"there are: {', '.join(COLUMNS)}; or as ps: -ef, aux, -o COLUMNS",
            )
    return tuple(chosen) or DEFAULT


def list_processes(
    first: int, files: UserFiles, columns: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, by process id; `first` is the container's first process."""
    container = Container(first, files)
    order = sorted(container.inner, key=container.inner.__getitem__)
    rows = [[COLUMNS[name][1](Process(pid, container)) for name in columns] for pid in order]
    return [COLUMNS[name][0] for name in columns], rows


def _number_in(one: Process, key: str) -> int:
    numbers = one.status.get(key, "").split()
    depth = one.container.depth
    return int(numbers[depth - 1]) if len(numbers) >= depth else 0


def _clock(seconds: float, *, short: bool = False) -> str:
    """`short` as ps has an elapsed time: [[DD-]hh:]mm:ss; else hh:mm:ss."""
    whole = int(seconds)
    days, hours, rest = whole // 86400, whole % 86400 // 3600, f"{whole % 3600 // 60:02}:{whole % 60:02}"
    if days:
        return f"{days}-{hours:02}:{rest}"
    return rest if short and not hours else f"{hours:02}:{rest}"


def _host_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read_map(pid: int, name: str) -> list[tuple[int, int, int]]:
    lines = _read(pid, name).splitlines()
    return [(int(inside), int(outside), int(count)) for inside, outside, count in map(str.split, lines)]


def _inside(mapping: list[tuple[int, int, int]], number: int) -> int:
    for inside, outside, count in mapping:
        if outside <= number < outside + count:
            return inside + number - outside
    return 65534  # what the kernel shows in there for ids that are not mapped


def _read(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/{name}", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
