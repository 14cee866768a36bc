"""The supervisor: one nursery, a sandbox or two, and the table of containers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog
import trio

from netconf import NetworkList
from supervisor.container import Container
from supervisor.errors import NameInUse, NotFound, SandboxError
from supervisor.events import EventLog, EventReader
from supervisor.exec import run_captured
from supervisor.groups import bare_errors, single_error
from supervisor.network.garbage import Collected
from supervisor.realm import Realm, open_realm
from supervisor.run_dir import own_run_dir
from supervisor.runtime.stdio import Stdio
from supervisor.sandbox.process import Completed
from supervisor.spec import ContainerSpec
from supervisor.teardown import Shielding

log = structlog.get_logger()

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21


class Supervisor:
    """Runs containers. Made by `open_supervisor`; leaving that block ends them all."""

    def __init__(self, run_dir: str, nursery: trio.Nursery, runtime: str | None) -> None:
        self.run_dir = run_dir
        self.containers: dict[str, Container] = {}
        self.event_log = EventLog()
        self.privileged = is_privileged()
        self._nursery = nursery
        self._runtime = runtime
        self._starting: set[str] = set()
        self._realms: dict[bool, Realm] = {}
        self._opening = {True: trio.Lock(), False: trio.Lock()}

    async def realm(self, *, rootless: bool = False) -> Realm:
        """The sandbox to run in, opened at first need; `rootless` asks for a user namespace also where root needs none.

        Raises: SandboxError, RuntimeFailed.
        """
        kind = rootless or not self.privileged
        async with self._opening[kind]:
            realm = self._realms.get(kind)
            if realm is None or realm.sandbox.gone:
                with bare_errors():
                    realm = self._realms[kind] = await self._nursery.start(self._run_realm, kind)
            assert realm is not None
        return realm

    async def _run_realm(self, rootless: bool, *, task_status: trio.TaskStatus[Realm]) -> None:
        """A realm as long as the supervisor, and until the last of its containers is gone."""
        scope = trio.CancelScope()
        ended = trio.Event()

        async def hold(*, task_status: trio.TaskStatus[Realm]) -> None:
            try:
                with scope:
                    async with open_realm(
                        self.run_dir, self.event_log, rootless=rootless, runtime=self._runtime
                    ) as realm:
                        Shielding(scope, task_status).started(realm)
                        await realm.sandbox.wait_gone()
                        log.error("sandbox_ended", rootless=rootless)
            except Exception as exc:
                if not scope.shield:
                    raise
                log.error("sandbox_failed", rootless=rootless, error=str(single_error(exc)))
            finally:
                ended.set()

        async with trio.open_nursery() as nursery:
            realm: Realm = await nursery.start(hold)
            task_status.started(realm)
            try:
                await ended.wait()
            finally:
                with trio.CancelScope(shield=True):
                    await realm.wait_unused()
                scope.shield = False
                scope.cancel()

    @asynccontextmanager
    async def run(self, spec: ContainerSpec, *, rootless: bool = False) -> AsyncIterator[Container]:
        """A container for as long as the block lasts: leaving it, in whatever way, kills it and waits until it is gone.

        Raises: NameInUse, SandboxError, RuntimeFailed (CommandNotFound, …), AttachmentError, NetconfError, OSError.
        """
        async with ending(await self.start(spec, rootless=rootless)) as container:
            yield container

    async def run_process(
        self, spec: ContainerSpec, *, stdin: bytes = b"", rootless: bool = False
    ) -> Completed:
        """Run a container to its end: its `status` (shell style), `stdout` and `stderr`. Cancelled, it is killed.

        Raises: as `run`.
        """

        async def start(stdio: Stdio) -> Container:
            return await self.start(replace(spec, stdio=stdio, log_path=None), rootless=rootless)

        return await run_captured(start, stdin)

    async def start(
        self, spec: ContainerSpec, *, rootless: bool = False, resumed: bool = False
    ) -> Container:
        """Start a container that lives until it ends, is stopped, or the supervisor goes. Raises: as `run`.

        With `resumed` (it ran under a supervisor before this one) a start that fails is one to be restarted after.
        """
        if spec.name in self._starting or any(one.name == spec.name for one in self.containers.values()):
            raise NameInUse(
                f"the name {spec.name} is in use by a running container",
                cure=f"choose another --name, or: ctnr rm -f {spec.name}",
            )
        self._starting.add(spec.name)
        try:
            realm = await self.realm(rootless=rootless)
            container = Container(spec, realm, partial(self.realm, rootless=rootless))
            await self._nursery.start(partial(self._run_container, container, resumed=resumed))
            return container
        finally:
            self._starting.discard(spec.name)

    async def _run_container(
        self, container: Container, *, resumed: bool, task_status: trio.TaskStatus[Container]
    ) -> None:
        self.containers[container.id] = container
        try:
            await container.run(resumed=resumed, task_status=task_status)
        finally:
            del self.containers[container.id]

    def find(self, name_or_id: str) -> Container | None:
        """A running container by its name, its id or a prefix of its id that no other has."""
        for container in self.containers.values():
            if name_or_id in (container.name, container.id):
                return container
        found = (
            [one for one in self.containers.values() if one.id.startswith(name_or_id)] if name_or_id else []
        )
        return found[0] if len(found) == 1 else None

    def get(self, name_or_id: str) -> Container:
        """As `find`. Raises: NotFound."""
        container = self.find(name_or_id)
        if container is None:
            raise NotFound(
                f"no running container has the name or id {name_or_id}", cure="ctnr ps -a lists them"
            )
        return container

    def events(self, since: float | None = None) -> EventReader:
        """What happens from now on (`async for event in supervisor.events()`), after what is kept from `since` on."""
        return self.event_log.read(since)

    async def forget_network(self, network: NetworkList) -> None:
        """A network has been removed: so is what is left of it. Raises: SandboxError, NetlinkFailed, OSError."""
        for realm in list(self._realms.values()):
            if not realm.sandbox.gone:
                await realm.networks.plugins.forget_network(network)

    async def collect_garbage(
        self, known: Sequence[NetworkList], cni_path: Sequence[str]
    ) -> list[Collected]:
        """Release what attachments have left whose containers are gone, also those of supervisors that died.

        `known` are the networks whose plugins are asked for CNI's GC. Raises: SandboxError.
        """
        await self.realm()  # what a crash left is swept when it opens
        return [
            one
            for realm in list(self._realms.values())
            if not realm.sandbox.gone
            for one in await realm.networks.collect_garbage(known, cni_path)
        ]

    async def stop_all(self, grace_seconds: float | None = None) -> None:
        """Stop every container, all at the same time."""
        async with trio.open_nursery() as nursery:
            for container in list(self.containers.values()):
                nursery.start_soon(container.stop, grace_seconds)


@asynccontextmanager
async def ending(container: Container) -> AsyncIterator[Container]:
    """A container that ends with this block, and is gone after it."""
    try:
        yield container
    finally:
        container.cancel()
        with trio.CancelScope(shield=True):
            await container.wait_gone()


def is_privileged() -> bool:
    """Whether the process may make mounts and networks where it is, without a user namespace of its own."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapEff:"):
                effective = int(line.split()[1], 16)
                return (
                    os.geteuid() == 0
                    and bool(effective >> CAP_NET_ADMIN & 1)
                    and bool(effective >> CAP_SYS_ADMIN & 1)
                )
    return False


@asynccontextmanager
async def open_supervisor(
    run_dir: str | None = None, *, runtime: str | None = None
) -> AsyncIterator[Supervisor]:
    """A supervisor for as long as the block lasts; leaving it ends every container and leaves nothing behind.

    `run_dir` is an empty directory of the caller's own (default: a temporary one). `runtime` is a name or path of an
    OCI runtime (default: crun, else runc). Nothing is started before the first container needs it.
    """
    async with AsyncExitStack() as stack:
        if run_dir is None:
            run_dir = stack.enter_context(own_run_dir())
        if not os.path.isdir(run_dir):
            raise SandboxError(f"run directory {run_dir}: not a directory")
        stack.enter_context(bare_errors())
        nursery = await stack.enter_async_context(trio.open_nursery())
        yield Supervisor(run_dir, nursery, runtime)
        nursery.cancel_scope.cancel()
