"""One container = one task with an error wall of its own. This file reads in the order in which a container lives."""

from __future__ import annotations

import os
import signal as signals
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import trio

from netconf import NetworkList
from supervisor.errors import AttachmentError, WrongState
from supervisor.groups import single_error
from supervisor.network.attach import Attachment, NetworkRequest, uses_slirp_first
from supervisor.network.netlink import Netlink, open_socket_in
from supervisor.network.netns import open_netns
from supervisor.network.ports import PortMapping
from supervisor.runtime.logs import LogWriter
from supervisor.runtime.oci import Started
from supervisor.runtime.output import Output
from supervisor.runtime.stdio import Stdio, set_size
from supervisor.sandbox.descriptors import close_all
from supervisor.sandbox.process import Process
from supervisor.sandbox.sandbox import Sandbox
from supervisor.teardown import Teardown

if TYPE_CHECKING:
    from supervisor.realm import Realm

log = structlog.get_logger()

NO_STDIO = Stdio()
DRAIN_SECONDS = 2  # how long output may keep coming after the end of the first process


class State(StrEnum):
    """The states of OCI's runtime specification, and what follows."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A root filesystem of layers: `lower` topmost first, changes in `upper`. Paths are absolute."""

    lower: tuple[str, ...]
    upper: str
    work: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is known once a container's root filesystem is mounted and its networks are attached."""

    rootfs: str  # path in the sandbox
    directory: str  # the container's own directory in the sandbox's tmpfs
    netns: str | None  # path in the sandbox; None with the host's network
    attachments: tuple[Attachment, ...]
    realm: Realm


@dataclass(frozen=True)
class Built:
    """config.json, and files to be written in the sandbox before the start: {path: (mode, content)}."""

    config: bytes
    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """What to run. `build` makes the OCI config when the rest is known."""

    id: str
    name: str
    rootfs: Overlay | str  # a directory is used as it is
    build: Callable[[Prepared], Awaitable[Built]]
    networks: tuple[NetworkRequest, ...] = ()
    ports: tuple[PortMapping, ...] = ()  # published by the first of the networks
    aliases: tuple[str, ...] = ()  # further names on all of the networks
    host_network: bool = False
    shares: Container | None = None  # whose network namespace it is to have
    netns_path: str | None = None  # or that of this file on the host
    stdio: Stdio = NO_STDIO
    log_path: str | None = None  # background containers: stdout and stderr go there
    keep_stdin: bool = False  # background containers: stdin stays open for `attach`
    stop_signal: int = signals.SIGTERM
    stop_seconds: float = 10
    finish: Callable[[Container], Awaitable[None]] | None = None  # called, shielded, when all of it is gone


class Container:
    """A container of a supervisor. Its task ends when it has ended and everything of it is gone."""

    def __init__(self, spec: ContainerSpec, realm: Realm) -> None:
        self.spec = spec
        self.id, self.name = spec.id, spec.name
        self.state = State.CREATED
        self.created_at = time.time()
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.status: int | None = None
        self.error: Exception | None = None
        self.attachments: tuple[Attachment, ...] = ()
        self.netns: str | None = None
        self.directory = f"{realm.sandbox.run_dir}/containers/{spec.id}"
        self.rootfs = f"{self.directory}/rootfs" if isinstance(spec.rootfs, Overlay) else spec.rootfs
        self.terminal: int | None = None
        self.stdin: int | None = None
        self.output = Output(LogWriter(spec.log_path) if spec.log_path else None)
        self.stopping = False
        self._realm = realm
        self._scope = trio.CancelScope()
        self._process: Process | None = None
        self._gone = trio.Event()
        self._exited = trio.Event()
        self._exec_numbers = 0
        self._drains: list[trio.Event] = []
        self._nursery: trio.Nursery | None = None
        self._changing = trio.Lock()  # of its networks
        self._no_more_changes = False
        self._connected: list[Teardown] = []  # what came while it ran

    # The task

    async def run(self, *, task_status: trio.TaskStatus[Container] = trio.TASK_STATUS_IGNORED) -> None:
        """Live from set-up to the last trace. `started` when the program runs.

        Raises before `started`: SupervisorError, OSError, NetconfError; all is undone then. After it nothing: see
        `error`.
        """
        structlog.contextvars.bind_contextvars(container=self.name)
        with self._realm.use():
            await self._run(task_status)

    async def _run(self, task_status: trio.TaskStatus[Container]) -> None:
        announced = False
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    teardown, failure = Teardown(), None
                    try:
                        started = await self._set_up(teardown)
                        announced = True
                        task_status.started(self)
                        await self._live(started)
                    except Exception as exc:
                        failure = exc
                        raise
                    finally:
                        await self._take_down(teardown, failure)
                    self._nursery.cancel_scope.cancel()
        except Exception as exc:
            if not announced:
                raise single_error(exc) from None
            self.error = single_error(exc)
            log.warning("container_failed", error=str(self.error))
        finally:
            self.state = State.STOPPED
            self.finished_at = self.finished_at or time.time()
            if self.status is None:
                self.status = 137
            await self._close_output()
            if announced and self.spec.finish is not None:
                await self._finish(self.spec.finish)
            self._exited.set()
            self._gone.set()
            if announced:
                seconds = round(self.finished_at - (self.started_at or self.finished_at), 3)
                log.info("container_ended", id=self.id, status=self.status, seconds=seconds)

    async def _set_up(self, teardown: Teardown) -> Started:
        spec, realm, sandbox = self.spec, self._realm, self._realm.sandbox
        assert self._nursery is not None
        teardown.push("remove the container's directory", partial(sandbox.remove_tree, self.directory))
        await sandbox.call("make_dirs", paths=[self.directory], mode=0o700)
        if isinstance(spec.rootfs, Overlay):
            teardown.push("unmount the root filesystem", partial(sandbox.unmount, self.rootfs))
            await sandbox.mount_overlay(spec.rootfs.lower, spec.rootfs.upper, spec.rootfs.work, self.rootfs)
        if not spec.host_network:
            await self._set_up_networks(teardown)
        prepared = Prepared(
            rootfs=self.rootfs,
            directory=self.directory,
            netns=self.netns,
            attachments=self.attachments if spec.shares is None else spec.shares.attachments,
            realm=realm,
        )
        built = await spec.build(prepared)
        await sandbox.write_files({**built.files, f"{self.directory}/config.json": (0o600, built.config)})
        teardown.push("delete the container from the runtime", partial(realm.runtime.delete, self.id))
        with self._stdio() as stdio:
            started = await realm.runtime.run(self.id, self.directory, stdio)
        self._process, self.terminal = started.process, started.terminal
        teardown.push("kill the container", self._kill_first)
        if self.terminal is not None:
            set_size(self.terminal, spec.stdio.rows, spec.stdio.columns)
        self.started_at, self.state = time.time(), State.RUNNING
        return started

    async def _set_up_networks(self, teardown: Teardown) -> None:
        spec, realm, sandbox = self.spec, self._realm, self._realm.sandbox
        assert self._nursery is not None
        if spec.shares is not None:
            self.netns = spec.shares.netns_for(realm)
            return
        if spec.netns_path is not None:
            self.netns = f"{sandbox.run_dir}/netns/of-{self.id[:12]}"
            with open_netns(spec.netns_path) as descriptor:
                teardown.push("let go of the network namespace", partial(sandbox.delete_netns, self.netns))
                await sandbox.pin_netns(descriptor, self.netns)
            return
        self.netns = await realm.netns_pool.take(tap=uses_slirp_first(spec.networks))
        teardown.push("remove the network namespace", partial(sandbox.delete_netns, self.netns))
        self.attachments = await realm.networks.attach(
            self, spec.networks, spec.ports, teardown, self._nursery
        )
        teardown.push("end its changes of networks", self._end_changes)

    async def _live(self, started: Started) -> None:
        """Until its first process ends."""
        self.status = await started.process.wait()
        self.finished_at, self.state = time.time(), State.STOPPED
        self._exited.set()

    async def _take_down(self, teardown: Teardown, failure: Exception | None) -> None:
        """After a `failure` that one is told: that a plugin refuses DEL as well is no news after its ADD."""
        with trio.CancelScope(shield=True):
            try:
                await teardown.run()
            except ExceptionGroup as group:
                if failure is not None:
                    log.warning("teardown_failed", id=self.id, error=str(single_error(group)))
                elif not self._realm.sandbox.gone:
                    raise  # else the kernel has cleaned up, or the journal's next sweep will
            finally:
                with trio.move_on_after(DRAIN_SECONDS):
                    for drained in self._drains:
                        await drained.wait()

    async def _finish(self, finish: Callable[[Container], Awaitable[None]]) -> None:
        with trio.CancelScope(shield=True):
            try:
                await finish(self)
            except Exception as exc:
                log.warning("finish_failed", error=str(single_error(exc)))

    async def _kill_first(self) -> None:
        assert self._process is not None
        await self._process.kill_and_wait()
        if self.status is None:
            self.status = self._process.status

    # Descriptors

    def _stdio(self) -> _BackgroundStdio | _ForegroundStdio:
        if self.spec.log_path is None or self.spec.stdio.tty:
            return _ForegroundStdio(self.spec.stdio)
        return _BackgroundStdio(self)

    def start_pump(self, descriptor: int, stream: str) -> None:
        """Read this output (owned from here) until it ends, as part of the container's task."""
        assert self._nursery is not None
        self._nursery.start_soon(self._pump, descriptor, stream)

    async def _pump(self, descriptor: int, stream: str) -> None:
        self._drains.append(drained := trio.Event())
        try:
            await self.output.pump(descriptor, stream)
        finally:
            drained.set()

    def take_over_terminal(self, log_path: str) -> None:
        """The terminal's output goes to a log from here: its client has detached, or there never was one."""
        assert self.terminal is not None
        self.output.log = LogWriter(log_path)
        self.start_pump(os.dup(self.terminal), "stdout")

    async def _close_output(self) -> None:
        with trio.CancelScope(shield=True):
            await self.output.close()
        for descriptor in (self.terminal, self.stdin):
            if descriptor is not None:
                os.close(descriptor)
        self.terminal = self.stdin = None

    # Networks while it runs

    def netns_for(self, realm: Realm) -> str:
        """Its network namespace for another container. Raises: WrongState, AttachmentError."""
        if self.state is not State.RUNNING:
            raise WrongState(f"container {self.name} is not running", cure=f"ctnr start {self.name}")
        if self.netns is None or realm is not self._realm:
            raise AttachmentError(
                f"the network namespace of container {self.name} belongs to another user namespace",
                cure="run both with --rootless, or both without",
            )
        return self.netns

    async def connect(self, network: NetworkList, **wishes: Any) -> Attachment:
        """Attach one more network, as the next cniN; `wishes` are fields of NetworkRequest.

        Raises: WrongState, AttachmentError, NetconfError; nothing has changed then.
        """
        async with self._changing:
            self._check_changeable()
            if any(one.network.name == network.name for one in self.attachments):
                raise AttachmentError(f"container {self.name} is on network {network.name} already")
            taken = [int(one.ifname.removeprefix("cni")) for one in self.attachments]
            request = NetworkRequest(network=network, ifname=f"cni{max(taken, default=-1) + 1}", **wishes)
            added = Teardown()
            self._connected.append(added)
            assert self._nursery is not None
            try:
                attached = await self._realm.networks.attach(self, (request,), (), added, self._nursery)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await added.run()
                raise
            self.attachments += attached
            return attached[0]

    async def disconnect(self, network: str) -> None:
        """Take one of its networks away, with the ports that it publishes. Raises: WrongState, AttachmentError."""
        async with self._changing:
            self._check_changeable()
            found = next((one for one in self.attachments if one.network.name == network), None)
            if found is None:
                raise AttachmentError(
                    f"container {self.name} is not on network {network}",
                    cure=f"it is on: {', '.join(one.network.name for one in self.attachments) or 'none'}",
                )
            with trio.CancelScope(shield=True):
                self.attachments = tuple(one for one in self.attachments if one is not found)
                await found.teardown.run()
                if found.slirp is not None:
                    await self._realm.networks.remove_tap(self.netns, found.ifname)

    async def check(self, attachment: Attachment) -> None:
        """CNI's CHECK, or whether slirp4netns runs. Raises: AttachmentError (PluginError)."""
        await self._realm.networks.check(self.id, attachment)

    async def count_bytes(self) -> dict[str, tuple[int, int]]:
        """Received and sent, by interface of its network namespace. Raises: NetlinkFailed, OSError."""
        with Netlink(await open_socket_in(self.sandbox, self.netns)) as netlink:
            return {link.name: (link.received_bytes, link.sent_bytes) for link in await netlink.links()}

    def _check_changeable(self) -> None:
        if self.state is not State.RUNNING or self._no_more_changes:
            raise WrongState(f"container {self.name} is not running", cure=f"ctnr start {self.name}")
        if self.netns is None or self.spec.shares is not None or self.spec.netns_path is not None:
            raise AttachmentError(
                f"container {self.name} has no network namespace of its own",
                cure="choose its networks when it is started",
            )

    async def _end_changes(self) -> None:
        """Wait for a change under way, allow none after it, and undo those that were made."""
        self._no_more_changes = True
        async with self._changing:
            while self._connected:
                await self._connected.pop().run()

    # What others ask of it

    async def wait(self) -> int:
        """Its exit status (shell style) once its program has ended; `wait_gone` waits for the clean-up too."""
        await self._exited.wait()
        assert self.status is not None
        return self.status

    async def wait_gone(self) -> None:
        """Until nothing of it is left."""
        await self._gone.wait()

    @property
    def sandbox(self) -> Sandbox:
        """Where it runs."""
        return self._realm.sandbox

    @property
    def pid(self) -> int | None:
        """Its first process, as the sandbox counts; None unless it runs."""
        return self._process.pid if self._process is not None and self.state is State.RUNNING else None

    async def signal(self, number: int) -> None:
        """Send a signal to its first process. Raises: WrongState unless it runs."""
        if self._process is None or self.state is not State.RUNNING:
            raise WrongState(f"container {self.name} is not running")
        await self._process.signal(number)

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Stop signal, grace, SIGKILL; returns when it is gone. Nothing if it has stopped already."""
        self.stopping = True
        seconds = self.spec.stop_seconds if grace_seconds is None else grace_seconds
        if seconds > 0 and self.state is State.RUNNING:
            with suppress(WrongState):
                await self.signal(self.spec.stop_signal)
            with trio.move_on_after(seconds):
                await self._exited.wait()
        self.cancel()
        await self.wait_gone()

    def cancel(self) -> None:
        """End it at once: SIGKILL, then the clean-up. Synchronous, so that it can be called when cancelled."""
        self._scope.cancel()

    async def exec(self, process: bytes, stdio: Stdio) -> Started:
        """Run one more program in it: an OCI `process` object as JSON.

        The caller waits for `Started.process` and closes `Started.terminal`; the program ends with the container.
        Raises: WrongState, CommandNotFound, CommandNotExecutable, RuntimeFailed.
        """
        if self.state is not State.RUNNING:
            raise WrongState(f"container {self.name} is not running", cure=f"ctnr start {self.name}")
        self._exec_numbers += 1
        directory = f"{self.directory}/exec-{self._exec_numbers}"
        sandbox = self._realm.sandbox
        await sandbox.call("make_dirs", paths=[directory], mode=0o700)
        try:
            started = await self._realm.runtime.exec(self.id, directory, process, stdio)
        finally:
            with trio.CancelScope(shield=True):
                await sandbox.remove_tree(directory)
        if started.terminal is not None:
            set_size(started.terminal, stdio.rows, stdio.columns)
        return started


class _ForegroundStdio:
    """The giver's descriptors, untouched: no Python in the way of the data."""

    def __init__(self, stdio: Stdio) -> None:
        self._stdio = stdio

    def __enter__(self) -> Stdio:
        return self._stdio

    def __exit__(self, *exc: object) -> None:
        pass


class _BackgroundStdio:
    """Pipes to the log, and from `attach`."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._ends: list[int] = []

    def __enter__(self) -> Stdio:
        stdin = None
        if self._container.spec.keep_stdin:
            stdin, self._container.stdin = os.pipe()
            self._ends.append(stdin)
        writers = []
        for stream in ("stdout", "stderr"):
            read_end, write_end = os.pipe()
            self._ends.append(write_end)
            writers.append(write_end)
            self._container.start_pump(read_end, stream)
        return Stdio(stdin=stdin, stdout=writers[0], stderr=writers[1])

    def __exit__(self, *exc: object) -> None:
        close_all(self._ends)
