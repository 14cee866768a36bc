"""Where a supervisor may make cgroups, and those that it has made: one directory of its own per tree, locked.

The kernel frees the lock when the supervisor dies, by whatever death: what lies in an unlocked directory is nobody's,
and the next supervisor that comes by removes it. (An empty cgroup is a directory: nothing but an rmdir ends it.)
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog
import trio

from supervisor.cgroups.group import Group
from supervisor.cgroups.layout import V2_CORE, Hierarchy, Layout, read_layout
from supervisor.cgroups.scope import enter_scope, offered
from supervisor.errors import LimitError
from supervisor.lock import try_lock

log = structlog.get_logger()

PREFIX = "ctnr-"
LEAF = f"{PREFIX}supervisor"  # where a supervisor moves out of the way of its own groups
SCOPE_SUFFIX = ".scope"  # systemd's: what lies in one has locks of its own, the scope itself has none


@dataclass(frozen=True)
class Refusal:
    """Why a controller can't be used here, and what cures it."""

    why: str
    cure: str


class Cgroups:
    """Made by `open_cgroups`. Nothing is made before `extend`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._name = f"{PREFIX}{secrets.token_hex(6)}"
        self._homes: dict[
            str, str
        ] = {}  # by the tree's mount: our directory there, as long as a group is in it
        self._locks: dict[str, int] = {}
        self._claiming = trio.Lock()

    def refusal(self, controllers: Iterable[str]) -> Refusal | None:
        """None if groups with these controllers can be made, else the first reason why not."""
        on_offer = self._on_offer()
        for controller in controllers:
            if controller not in on_offer and (refusal := self._refusal(controller)) is not None:
                return refusal
        return None

    def _refusal(self, controller: str) -> Refusal | None:
        """As it is where we are."""
        hierarchy = self.layout.of(controller)
        if hierarchy is None:
            return self._missing(controller)
        if hierarchy.mount not in self._homes and self._base(hierarchy, controller) is None:
            return self._not_delegated(hierarchy)
        return None

    def _on_offer(self) -> frozenset[str]:
        """What a scope of systemd's would have, where we could still go to one: a unit's main process stays in it."""
        v2 = self.layout.v2
        if v2 is None or v2.mount in self._homes or os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
            return frozenset()
        return offered(v2.mount, os.geteuid())

    async def claim(self, controllers: Iterable[str]) -> None:
        """Before `extend`: go to a scope of systemd's if that has what can't be had here. Raises: LimitError."""
        async with self._claiming:
            wanted = {one for one in controllers if self._refusal(one) is not None}
            if wanted and wanted <= self._on_offer():
                v2 = self.layout.v2
                assert v2 is not None
                while True:
                    pids = _ours_in(v2.own)
                    try:
                        await enter_scope(pids, os.geteuid())
                        break
                    except LimitError:  # it refuses all when one has just ended: init's forks do
                        if all(os.path.exists(f"/proc/{pid}") for pid in pids):
                            raise
                self.layout = read_layout()

    def extend(self, group: Group, container: str, controllers: Iterable[str]) -> None:
        """Give the group of the container with that id more controllers, and directories where it has none.

        Where that fails it has those that came before. Raises: LimitError.
        """
        for controller in controllers:
            if controller in group.places:
                continue
            hierarchy = self.layout.of(controller)
            if hierarchy is None:
                raise _error(controller, self._missing(controller))
            home = self._home(hierarchy, controller)
            directory = f"{home}/{container[:12]}"
            group.places[controller] = (
                hierarchy.version,
                directory,
            )  # first: a half-made one is removed, too
            try:
                _make(directory, hierarchy)
            except OSError as exc:
                raise LimitError(f"make cgroup {directory}: {exc.strerror}") from None

    async def remove(self, group: Group) -> None:
        """Remove a group, and what was made for it. Raises: OSError."""
        try:
            await group.remove()
        finally:
            self._drop_unused()

    def _drop_unused(self) -> None:
        for mount, home in list(self._homes.items()):
            try:
                os.rmdir(home)
            except FileNotFoundError:
                pass
            except OSError:
                continue  # another container's group is in it
            del self._homes[mount]
            if (lock := self._locks.pop(mount, None)) is not None:
                os.close(lock)

    def _home(self, hierarchy: Hierarchy, controller: str) -> str:
        """Our own directory in a tree, with the controller handed on to what is below it."""
        base = self._base(hierarchy, controller)
        home = self._homes.get(hierarchy.mount) or (f"{base}/{self._name}" if base else None)
        if home is None or base is None:
            raise _error(controller, self._not_delegated(hierarchy))
        try:
            if hierarchy.version == 2 and controller not in V2_CORE:
                if base == hierarchy.own and not hierarchy.is_root:
                    if not _is_ours(base, hierarchy.mount):  # a home for pauses, among others' processes
                        raise _error(controller, self._not_delegated(hierarchy))
                    _move_out_of_the_way(base)
                _hand_on(base, controller)
            if hierarchy.mount not in self._homes:
                self._homes[hierarchy.mount] = home
                self._locks[hierarchy.mount] = _make_locked(home, hierarchy)
            if hierarchy.version == 2 and controller not in V2_CORE:
                _hand_on(home, controller)
        except OSError as exc:
            raise LimitError(
                f"cgroup {home}: {controller}: {exc.strerror}", cure=self._not_delegated(hierarchy).cure
            ) from None
        return home

    def _base(self, hierarchy: Hierarchy, controller: str) -> str | None:
        """The cgroup to make ours in, or None.

        v1: our own one. v2 hands controllers on only from a cgroup without processes (but for the root): so the nearest
        one above us that is ours to write and has none, or our own if all its processes are ours to move: because they
        come from us, because systemd says so of the unit (Delegate=yes), or because we are root of a container that
        sees no more of the tree.
        """
        if hierarchy.mount in self._homes:
            return os.path.dirname(self._homes[hierarchy.mount])
        own = hierarchy.own
        if hierarchy.version == 1 or hierarchy.is_root:
            return own if _may_write(own) else None
        if not _may_write(own) and not _may_write(os.path.dirname(own)):
            return None
        core = controller in V2_CORE
        if _may_write(own) and (core or _has(own, controller)) and _is_ours(own, hierarchy.mount):
            return own
        above = os.path.dirname(own)
        while len(above) >= len(hierarchy.mount) and _may_write(above):
            if (core or _has(above, controller)) and not _read(f"{above}/cgroup.procs"):
                return above
            above = os.path.dirname(above)
        return own if core and _may_write(own) else None

    def _missing(self, controller: str) -> Refusal:
        if not self.layout.hierarchies:
            return Refusal(
                "no cgroup file system is mounted here", "in a container: run the outer one with one"
            )
        if (v2 := self.layout.v2) is not None and _has(v2.mount, controller):  # only not where we are
            return self._not_delegated(v2, controller)
        return Refusal(
            f"the controller {controller} is not there ({self.layout.kind})",
            "see /proc/cgroups: the kernel's command line may have switched it off, or the host does not hand it on",
        )

    def _not_delegated(self, hierarchy: Hierarchy, controller: str = "") -> Refusal:
        if hierarchy.version == 1:
            return Refusal(
                f"cgroup v1 at {hierarchy.mount} is root's: {hierarchy.own} can't be written",
                "run it as root, or boot the host with systemd.unified_cgroup_hierarchy=1 and have it delegated",
            )
        if controller:
            return Refusal(
                f"the controller {controller} is not delegated to this user",
                "sudo systemctl edit user@.service, [Service] Delegate=yes, and log in anew"
                if os.geteuid()
                else f"hand it on to {hierarchy.own}, by the cgroup.subtree_control of those above it",
            )
        return Refusal(
            f"cgroup {hierarchy.own} is not delegated to this user",
            "end the service (ctnr supervisor stop), then start it where it is: systemd-run --user --scope "
            "-p Delegate=yes ctnr …",
        )

    # Leftovers

    def sweep(self) -> None:
        """Remove what supervisors that died have left beside where ours would be."""
        for hierarchy in self.layout.hierarchies:
            base = hierarchy.own
            while len(base) >= len(hierarchy.mount) and _may_write(base):
                with suppress(OSError):
                    for name in os.listdir(base):
                        if name.startswith(PREFIX) and name != LEAF and not name.endswith(SCOPE_SUFFIX):
                            _sweep(f"{base}/{name}", hierarchy)
                base = os.path.dirname(base)

    def close(self) -> None:
        """What is still there is left to the next sweep, and logged."""
        self._drop_unused()
        for home in self._homes.values():
            log.warning("cgroup_left", cgroup=home)
        for lock in self._locks.values():
            os.close(lock)


@contextmanager
def open_cgroups() -> Iterator[Cgroups]:
    """For as long as the block lasts; leaving it removes what was made. Sweeps what others have left."""
    try:
        layout = read_layout()
    except OSError:
        layout = Layout(())
    cgroups = Cgroups(layout)
    cgroups.sweep()
    try:
        yield cgroups
    finally:
        cgroups.close()


def _error(controller: str, refusal: Refusal) -> LimitError:
    return LimitError(f"{_WANTED.get(controller, controller)}: {refusal.why}", cure=refusal.cure)


_WANTED = {"freeze": "pause", "memory": "limit memory", "cpu": "limit cpu", "cpuset": "limit cpuset",
           "pids": "limit pids", "devices": "limit devices"}  # fmt: skip


def _make_locked(directory: str, hierarchy: Hierarchy) -> int:
    """Make a directory and lock it, before somebody's sweep takes it for a dead supervisor's. Raises: OSError."""
    for _ in range(10):
        _make(directory, hierarchy)
        lock = try_lock(directory)
        if lock is not None:
            if os.path.exists(directory):
                return lock
            os.close(lock)
    raise OSError(errno.EAGAIN, "swept away again and again", directory)


def _make(directory: str, hierarchy: Hierarchy) -> None:
    with suppress(FileExistsError):
        os.mkdir(directory, 0o755)
    if "cpuset" in hierarchy.controllers and hierarchy.version == 1:
        for name in ("cpuset.cpus", "cpuset.mems"):  # a new one has none, and takes no process then
            if not _read(f"{directory}/{name}").strip():
                _write(f"{directory}/{name}", _read(f"{os.path.dirname(directory)}/{name}").strip())


def _hand_on(directory: str, controller: str) -> None:
    if controller not in _read(f"{directory}/cgroup.subtree_control").split():
        _write(f"{directory}/cgroup.subtree_control", f"+{controller}")


def _move_out_of_the_way(own: str) -> None:
    """All processes of `own`, which are ours to move, go to a leaf below it: then it may hand controllers on."""
    leaf = f"{own}/{LEAF}"
    while pids := _read(f"{own}/cgroup.procs").split():
        if "0" in pids:
            raise OSError(errno.EBUSY, "processes of another pid namespace are in it", own)
        with suppress(FileExistsError):
            os.mkdir(leaf, 0o755)
        for pid in pids:
            with suppress(ProcessLookupError):
                _write(f"{leaf}/cgroup.procs", pid)


def _is_ours(own: str, mount: str) -> bool:
    return _is_delegated(own) or _only_ours(own) or (own == mount and os.geteuid() == 0)


def _is_delegated(directory: str) -> bool:
    """Whether systemd has handed all below to this user: so it marks units with Delegate=yes (251 and newer)."""
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def _only_ours(directory: str) -> bool:
    """Whether every process in it is this one or comes from it."""
    return all(_comes_from_us(int(pid)) for pid in _read(f"{directory}/cgroup.procs").split())


def _comes_from_us(pid: int) -> bool:
    own, above = os.getpid(), pid
    while above not in (own, 0, 1):
        try:
            above = int(_read(f"/proc/{above}/stat").rpartition(")")[2].split()[1])
        except OSError:
            break
    return above == own


def _ours_in(own: str) -> list[int]:
    """This process, and what of this user's comes from it in the same cgroup."""
    found = [os.getpid()]
    for pid in map(int, _read(f"{own}/cgroup.procs").split()):
        with suppress(OSError):
            if pid != found[0] and os.stat(f"/proc/{pid}").st_uid == os.geteuid() and _comes_from_us(pid):
                found.append(pid)
    return found


def _may_write(directory: str) -> bool:
    return all(
        os.access(path, os.W_OK)
        for path in (directory, f"{directory}/cgroup.procs", *_subtree_control(directory))
    )


def _subtree_control(directory: str) -> tuple[str, ...]:
    path = f"{directory}/cgroup.subtree_control"
    return (path,) if os.path.exists(path) else ()


def _has(directory: str, controller: str) -> bool:
    try:
        return controller in _read(f"{directory}/cgroup.controllers").split()
    except OSError:
        return False


def _sweep(directory: str, hierarchy: Hierarchy) -> None:
    lock = try_lock(directory)
    if lock is None:
        return
    try:
        for path, _, _ in os.walk(directory, topdown=False):
            if hierarchy.version == 1 and os.path.exists(f"{path}/freezer.state"):
                _write(f"{path}/freezer.state", "THAWED")  # v1: what is frozen can't even die
            with suppress(FileNotFoundError):
                os.rmdir(path)
        log.info("cgroup_swept", cgroup=directory)
    except OSError as exc:
        if exc.errno != errno.EBUSY:  # what was killed just now is still dying: next time
            log.warning("sweep_failed", cgroup=directory, error=exc.strerror)
    finally:
        os.close(lock)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, value: str) -> None:
    with open(path, "w") as file:
        file.write(value)
