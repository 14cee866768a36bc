"""One container's cgroup: a directory in every tree that it needs. What is asked of it is asked of the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import trio

from supervisor.cgroups.devices import DEFAULT_RULES, DeviceRule, attach_device_filter
from supervisor.cgroups.limits import Limits, Setting, settings_v1, settings_v2
from supervisor.errors import LimitError
from supervisor.sandbox.descriptors import close_all
from supervisor.watch import wait_modified

FREEZE_SECONDS = 10  # a process in an uninterruptible sleep freezes when that ends
POLL_SECONDS = 0.002  # v1 tells nobody of a change


class Group:
    """`places` maps a controller to the version and the directory where it is; `Cgroups.extend` fills it."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[int, str]] = {}

    @property
    def directories(self) -> tuple[str, ...]:
        """One per tree."""
        return tuple(dict.fromkeys(directory for _, directory in self.places.values()))

    def has(self, controllers: Iterable[str]) -> bool:
        return all(one in self.places for one in controllers)

    def counts(self, controller: str) -> bool:
        """Whether it can tell what is used: v1's cpu only limits, its cpuacct counts."""
        place = self.places.get(controller)
        return place is not None and not (controller == "cpu" and place[0] == 1)

    # Who is in it

    @contextmanager
    def joins(self, leaf: str = "") -> Iterator[Sequence[int]]:
        """Descriptors of its cgroup.procs, or of a leaf's below it: a process that writes 0 to each is in.

        The kernel asks who opened them, so it can be a process of any user in any namespace. Raises: OSError.
        """
        opened: list[int] = []
        try:
            for directory in self.directories:
                if leaf:
                    with suppress(FileExistsError):
                        os.mkdir(f"{directory}/{leaf}", 0o755)
                opened.append(os.open(f"{directory}/{leaf}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
            yield opened
        finally:
            close_all(opened)

    def members(self) -> set[int]:
        """The processes that are in it in all of its trees, groups below it included, as this process counts."""
        found: set[int] | None = None
        for directory in self.directories:
            inside: set[int] = set()
            for path, _, _ in os.walk(directory):
                with suppress(FileNotFoundError):
                    inside |= {int(line) for line in _read(f"{path}/cgroup.procs").split()}
            found = inside if found is None else found & inside
        return found or set()

    def add(self, pid: int) -> None:
        """Bring a process in; nothing if it has ended. Raises: LimitError."""
        for directory in self.directories:
            try:
                _write(f"{directory}/cgroup.procs", str(pid))
            except ProcessLookupError:
                return
            except OSError as exc:
                raise LimitError(
                    f"move process {pid} to cgroup {directory}: {exc.strerror}",
                    cure="in v1 only root moves other users' processes: run ctnr as root, or have cgroup v2",
                ) from None

    # Limits

    def apply(self, limits: Limits, *, spare_pids: int = 0) -> None:
        """Write them. `spare_pids` are for processes beside the container's own. Raises: LimitError."""
        left: list[tuple[Setting, OSError]] = []
        for setting in self._settings(limits, spare_pids):
            try:
                self._write(setting)
            except OSError as exc:
                left.append((setting, exc))
        for setting, _ in left:  # v1 wants memsw first where both grow: now that has been written
            try:
                self._write(setting)
            except OSError as exc:
                raise _explain(setting, exc) from None

    def _settings(self, limits: Limits, spare_pids: int) -> list[Setting]:
        found = []
        for version, make in ((1, settings_v1), (2, settings_v2)):
            for one in make(limits):
                place = self.places.get(one.controller)
                if place is not None and place[0] == version:
                    more = one.controller == "pids" and one.value.isdigit() and spare_pids
                    value = str(int(one.value) + spare_pids) if more else one.value
                    found.append(Setting(one.controller, one.file, value, one.optional))
        return found

    def _write(self, setting: Setting) -> None:
        place = self.places.get(setting.controller)
        assert place is not None
        path = f"{place[1]}/{setting.file}"
        if setting.optional and not os.path.exists(path):
            return
        _write(path, setting.value)

    def allow_devices(self, rules: Sequence[DeviceRule]) -> None:
        """These and the default ones, no others. Raises: LimitError."""
        version, directory = self.places["devices"]
        try:
            if version == 1:
                _write(f"{directory}/devices.deny", "a")
                for rule in (*DEFAULT_RULES, *rules):
                    _write(f"{directory}/devices.allow", str(rule))
            else:
                attach_device_filter(directory, (*DEFAULT_RULES, *rules))
        except OSError as exc:
            raise LimitError(f"limit devices: {directory}: {exc.strerror}") from None

    # Freezing

    @property
    def frozen(self) -> bool:
        """Whether it is frozen or about to be."""
        place = self.places.get("freeze")
        if place is None:
            return False
        version, directory = place
        try:
            if version == 1:
                return _read(f"{directory}/freezer.state").strip() != "THAWED"
            return _read(f"{directory}/cgroup.freeze").strip() == "1"
        except OSError:
            return False

    def open_thaw(self) -> tuple[int, bytes] | None:
        """v1: a descriptor, the caller's, and what to write to it for a thaw. None where killed processes go anyway."""
        version, directory = self._freezer
        if version == 2:
            return None
        return os.open(f"{directory}/freezer.state", os.O_WRONLY | os.O_CLOEXEC), b"THAWED"

    async def freeze(self) -> None:
        """Until none of its processes runs. Raises: LimitError (it is thawed then), OSError."""
        version, directory = self._freezer
        _write(*_freezing(version, directory, "1"))
        try:
            with trio.move_on_after(FREEZE_SECONDS):
                if version == 2:
                    await _wait_event(f"{directory}/cgroup.events", "frozen 1")
                else:
                    while _read(f"{directory}/freezer.state").strip() != "FROZEN":  # v1 has no event
                        _write(
                            f"{directory}/freezer.state", "FROZEN"
                        )  # v1 tries again only when asked again
                        await trio.sleep(POLL_SECONDS)
                return
            raise LimitError(f"pause: not all processes are frozen after {FREEZE_SECONDS} s")
        except BaseException:
            self.thaw()
            raise

    def thaw(self) -> None:
        """Let its processes run again; nothing if they do. Raises: OSError."""
        if self.places.get("freeze") is not None:
            with suppress(FileNotFoundError):
                _write(*_freezing(*self._freezer, "0"))

    @property
    def _freezer(self) -> tuple[int, str]:
        place = self.places.get("freeze")
        assert place is not None
        return place

    # What it tells

    def number(self, controller: str, v1: str, v2: str) -> int | None:
        """The one number in a file; None for `max`, v1's likes of it, and where there is none."""
        place = self.places.get(controller)
        if place is None:
            return None
        try:
            text = _read(f"{place[1]}/{v1 if place[0] == 1 else v2}").strip()
        except OSError:
            return None
        return int(text) if text.lstrip("-").isdigit() and 0 <= int(text) < 1 << 60 else None

    def table(self, controller: str, v1: str, v2: str) -> dict[str, int]:
        """A file of `key number` lines; empty where there is none."""
        place = self.places.get(controller)
        if place is None:
            return {}
        try:
            lines = _read(f"{place[1]}/{v1 if place[0] == 1 else v2}").splitlines()
        except OSError:
            return {}
        pairs = (line.split() for line in lines)
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}

    def text(self, controller: str, v1: str, v2: str) -> str:
        """A whole file; empty where there is none."""
        place = self.places.get(controller)
        try:
            return "" if place is None else _read(f"{place[1]}/{v1 if place[0] == 1 else v2}")
        except OSError:
            return ""

    @property
    def memory_in_use(self) -> int | None:
        """Bytes, without the file pages that the kernel can drop at once; None where it is not counted."""
        used = self.number("memory", "memory.usage_in_bytes", "memory.current")
        if used is None:
            return None
        stat = self.table("memory", "memory.stat", "memory.stat")
        return max(used - stat.get("total_inactive_file", stat.get("inactive_file", 0)), 0)

    @property
    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        return self.table("memory", "memory.oom_control", "memory.events").get("oom_kill", 0)

    # Its end

    async def remove(self) -> None:
        """Remove its directories, those that were made below them too, when the last process has gone from them.

        Raises: OSError.
        """
        with suppress(OSError):
            self.thaw()
        for directory in self.directories:
            await remove_directory(directory)


async def remove_directory(directory: str) -> None:
    """Remove a cgroup and those below it; waits while it is busy (callers bring the deadline). Raises: OSError."""
    while True:
        try:
            _remove_tree(directory)
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
        else:
            return
        if os.path.exists(f"{directory}/cgroup.events"):
            await _wait_event(f"{directory}/cgroup.events", "populated 0")
        await trio.sleep(POLL_SECONDS)


def _remove_tree(directory: str) -> None:
    for path, _, _ in os.walk(directory, topdown=False):
        with suppress(FileNotFoundError):
            os.rmdir(path)


async def _wait_event(path: str, line: str) -> None:
    """Until a cgroup.events file has that line: the kernel tells when it changes."""
    await wait_modified(path, lambda: line in _read(path).splitlines())


def _freezing(version: int, directory: str, value: str) -> tuple[str, str]:
    if version == 2:
        return f"{directory}/cgroup.freeze", value
    return f"{directory}/freezer.state", "FROZEN" if value == "1" else "THAWED"


def _explain(setting: Setting, exc: OSError) -> LimitError:
    if exc.errno == errno.ENOENT:
        what = "count swap" if "sw" in setting.file else f"have {setting.file}"
        return LimitError(
            f"limit {setting.controller}: this kernel does not {what}", cure="leave out that limit"
        )
    if exc.errno == errno.EBUSY and setting.controller == "memory":
        return LimitError(
            f"limit memory to {setting.value} bytes: the container uses more, and can't give it back",
            cure="ask for more, or restart the container with the smaller limit",
        )
    return LimitError(
        f"limit {setting.controller}: {setting.file} = {setting.value}: {exc.strerror}",
        cure="see what the cgroup above allows: ctnr info names it",
    )


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
