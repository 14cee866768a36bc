"""What confines a container: its cgroup, made only when a limit, a device rule or a pause asks for one.

No cgroup costs nothing at the start, which is what `run` is measured by. One that a limit asks for is there before the
container's first process, which the runtime starts inside it; one that comes later takes the running processes in.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio

from supervisor.cgroups.group import Group
from supervisor.cgroups.limits import Limits
from supervisor.errors import LimitError, SupervisorError, WrongState
from supervisor.processes import list_members, read_status
from supervisor.teardown import Teardown

if TYPE_CHECKING:
    from supervisor.container import Container
    from supervisor.realm import Realm

ROUNDS = 50  # of taking in processes that appear meanwhile
RUNC_LEAF = "runtime"  # runc makes v2 cgroups beside its own one: from here they are below the container's
SPARE_PIDS = {"crun": 4, "runc": 32}  # the runtime's own processes and threads, beside the container's first


class Confinement:
    """Of one round of a container. `group` is None as long as it needs none."""

    def __init__(self, container: Container, realm: Realm) -> None:
        self.group: Group | None = None
        self.limits: Limits = container.limits
        self._container = container
        self._realm = realm
        self._changing = trio.Lock()
        self._starts = 0  # of further programs, under way
        self._started = trio.Event()  # the last of them has; a new one each time

    async def set_up(self, teardown: Teardown) -> None:
        """The cgroup that the spec's limits need, if any. Raises: LimitError."""
        rules = self._container.spec.device_rules
        controllers = (*self.limits.controllers, *(("devices",) if rules else ()))
        teardown.push("remove the cgroup", self._remove)
        if controllers:
            await self._realm.cgroups.claim(controllers)
            self.group = self._extended(controllers)
            self.group.apply(self.limits, spare_pids=SPARE_PIDS.get(self._realm.runtime.name, 32))
            if rules:
                self.group.allow_devices(rules)

    @property
    def cgroup_version(self) -> int | None:
        """Of its cgroup, if it has one; 2 only where there is nothing of v1 in it."""
        return None if self.group is None else min(version for version, _ in self.group.places.values())

    @property
    def directories(self) -> tuple[str, ...]:
        """Its cgroup, one directory per tree."""
        return () if self.group is None else self.group.directories

    @contextmanager
    def joins(self) -> Iterator[Sequence[int]]:
        """For `Runtime.run`. Raises: OSError."""
        if self.group is None:
            yield ()
        else:
            beside = self.cgroup_version == 2 and self._realm.runtime.name == "runc"
            with self.group.joins(RUNC_LEAF if beside else "") as descriptors:
                yield descriptors

    @asynccontextmanager
    async def joins_running(self) -> AsyncIterator[Sequence[int]]:
        """As `joins`, for `Runtime.exec`. A pause waits: what the runtime has half done would freeze, and init with it,
        which waits for that. So does a group that is made: it would not find the new program.

        Raises: WrongState, OSError.
        """
        async with self._changing:
            self.check_not_paused()
            self._starts += 1
        try:
            with self.joins() as descriptors:
                yield descriptors
        finally:
            self._starts -= 1
            if not self._starts:
                self._started.set()
                self._started = trio.Event()

    def settle(self) -> None:
        """The runtime has gone: from here the limit on processes is the container's alone."""
        if self.group is not None and self.limits.pids is not None:
            self.group.apply(Limits(pids=self.limits.pids))

    def explain(self, error: SupervisorError) -> SupervisorError:
        """Why the runtime failed, where it was the limit."""
        if self.oom_killed:
            return LimitError(
                f"start with {self.limits.memory} bytes of memory: the kernel killed it before it ran",
                cure="give it more with --memory",
            )
        return error

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel has killed processes of it for want of memory."""
        return self.group is not None and self.group.oom_kills > 0

    # While it runs

    @property
    def paused(self) -> bool:
        """As the kernel has it."""
        return self.group is not None and self.group.frozen

    def check_not_paused(self) -> None:
        """Raises: WrongState."""
        if self.paused:
            name = self._container.name
            raise WrongState(f"container {name} is paused", cure=f"ctnr unpause {name}")

    async def pause(self) -> None:
        """Freeze all of its processes. Raises: WrongState, LimitError."""
        async with self._changing:
            self._check_running()
            self.check_not_paused()
            await self._wait_no_starts()
            await self._take_in(("freeze",))
            assert self.group is not None
            at_end = self.group.open_thaw()
            if at_end is not None:  # frozen processes of v1 can't even be killed: init thaws them if we die
                try:
                    await self._realm.sandbox.at_end(self._container.id, *at_end)
                finally:
                    os.close(at_end[0])
            await self.group.freeze()
            self._container.tell("pause")

    async def unpause(self) -> None:
        """Raises: WrongState if it is not paused."""
        async with self._changing:
            self._check_running()
            if not self.paused:
                raise WrongState(f"container {self._container.name} is not paused")
            await self._thaw()
            self._container.tell("unpause")

    async def thaw(self) -> None:
        """So that a signal can be taken. Nothing if it is not paused."""
        if self.paused:
            await self._thaw()

    async def update(self, limits: Limits) -> None:
        """Change limits while it runs; where that fails the old ones hold. Raises: WrongState, LimitError."""
        async with self._changing:
            self._check_running()
            await self._take_in(limits.controllers)
            if self.group is None:  # nothing is limited, and nothing was
                return
            self._check_memory(limits)
            try:
                self.group.apply(limits)
            except LimitError:
                self.group.apply(self.limits.without(limits))
                raise
            self.limits = limits
            self._container.tell("update")

    def _check_memory(self, limits: Limits) -> None:
        """v2 kills at once where v1 refuses a limit that is exceeded already: refuse it as well."""
        assert self.group is not None
        used = self.group.memory_in_use
        if limits.memory is not None and used is not None and 0 <= limits.memory < used:
            raise LimitError(
                f"limit memory to {limits.memory} bytes: container {self._container.name} uses {used}",
                cure="ask for more, or restart it with the smaller limit",
            )

    async def _thaw(self) -> None:
        assert self.group is not None
        self.group.thaw()
        if self.group.places["freeze"][0] == 1 and not self._realm.sandbox.gone:
            await self._realm.sandbox.at_end(self._container.id, None)

    def _check_running(self) -> None:
        if self._container.pid is None:
            name = self._container.name
            raise WrongState(f"container {name} is not running", cure=f"ctnr start {name}")

    async def _wait_no_starts(self) -> None:
        """None begins as long as `_changing` is ours."""
        while self._starts:
            await self._started.wait()

    def _extended(self, controllers: Iterable[str]) -> Group:
        """The group, with these controllers too. Raises: LimitError."""
        group = self.group = self.group or Group()
        self._realm.cgroups.extend(group, self._container.id, controllers)
        return group

    async def _take_in(self, controllers: Sequence[str]) -> None:
        """A group with these controllers around all processes. Raises: WrongState, LimitError."""
        if not controllers or (self.group is not None and self.group.has(controllers)):
            return
        await self._wait_no_starts()
        await self._realm.cgroups.claim(controllers)
        self._check_running()  # its cgroup goes with it
        group, first = self._extended(controllers), self._container.host_pid
        if first is None:
            return
        for _ in range(ROUNDS):
            outside = set(list_members([first]).get(first, ())) - group.members()
            outside = {pid for pid in outside if read_status(pid).get("State", "X")[0] not in "XZ"}
            if not outside:  # what is in brings its children in
                return
            for pid in outside:
                group.add(pid)
            await trio.lowlevel.checkpoint()
        raise LimitError(
            f"cgroup: container {self._container.name} makes processes faster than they can be moved"
        )

    async def _remove(self) -> None:
        if self.group is not None:
            await self._realm.cgroups.remove(self.group)
