"""Stores and supervisor put together: containers from their record to their end, and what is asked of them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import trio

from ctnr import __version__, describe, inspection, requests
from ctnr.assembly import Assembly
from ctnr.bundles.names import check_names
from ctnr.bundles.store import Bundle, BundleStore
from ctnr.creation import create
from ctnr.images.progress import Report
from ctnr.images.store import ImageStore
from ctnr.images.view import Image
from ctnr.name_servers import rewrite_for
from ctnr.networks import Chosen, choose_networks, for_plugins, load_wished
from ctnr.order import start_dependencies
from ctnr.records import Record, Records, labels_of
from ctnr.volumes import VolumeStore
from netconf import search_path
from supervisor.container import Container
from supervisor.errors import NotFound, SupervisorError, WrongState
from supervisor.events import describe_event
from supervisor.network.attachment import Attachment
from supervisor.runtime.oci import Started
from supervisor.runtime.stdio import Stdio
from supervisor.sandbox.sandbox import Sandbox
from supervisor.spec import Program, State
from supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from supervisor.service.server import Server

log = structlog.get_logger()

RUNTIME_DIR_BYTES_MAX = 107 - len("/sandbox/notify/0123456789ab")  # the longest of its sockets; unix(7)
_OURS: Mapping[str, str] = {}


class Engine:
    """What the handlers call, and programs through `ctnr.embedded`."""

    def __init__(self, store_dir: str, supervisor: Supervisor, *, runtime_dir: str) -> None:
        self.store_dir = store_dir
        self.runtime_dir = runtime_dir
        self.supervisor = supervisor
        self.images = ImageStore(store_dir)
        self.bundles = BundleStore(f"{store_dir}/bundles")
        self.records = Records(f"{store_dir}/containers", owner=f"{os.uname().nodename}:{runtime_dir}")
        self.server: Server | None = None
        self.started_at = time.time()
        self.settled = trio.Event()  # what is to run whenever the service does has been started
        self._turns: dict[str, trio.Lock] = {}
        self.volumes = VolumeStore(f"{store_dir}/volumes", self.records, self.bundles)
        self.assembly = Assembly(store_dir, self.volumes, privileged=supervisor.privileged)

    @property
    def is_idle(self) -> bool:
        """Nothing runs, and nothing is about to be brought back."""
        return self.settled.is_set() and not self.supervisor.containers

    # From request to running container

    async def create(self, request: requests.Run, report: Report) -> Record:
        """Image, bundle and record of a container; nothing runs yet. Raises: SupervisorError, OSError."""
        return await create(self, request, report)

    async def start(
        self, record: Record, stdio: Stdio, *, background: bool | None = None, resumed: bool = False
    ) -> Container:
        """Run what `create` has prepared. Raises: SupervisorError, NetconfError, OSError; then nothing runs.

        With `resumed` (it ran under the service before this one) a start that fails is tried again.
        """
        request = record.request
        background = request.detach if background is None else background
        image = self.images.load(record.image_id)
        if image is None:
            raise NotFound(f"the image of container {record.name} is gone", cure=f"ctnr pull {record.image}")
        await start_dependencies(self, record)
        chosen = self.networks_of(request)
        shares = self.running(self.records.get(chosen.container)) if chosen.container is not None else None
        with self.images.layers.keep_in_place():
            bundle = self.bundles.open(record.bundle)
        try:
            spec = self.assembly.spec(
                record, image, bundle, stdio, chosen=chosen, shares=shares,
                log_path=self.records.log_path(record) if background else None,
                finish=partial(self._finish, record, bundle),
            )  # fmt: skip
            container = await self.supervisor.start(spec, rootless=request.rootless, resumed=resumed)
        except BaseException:
            bundle.close()
            raise
        record.started, record.finished, record.status, record.error = time.time(), None, None, None
        record.wanted = background and spec.restart.is_lasting
        self._save(record)
        return container

    def _save(self, record: Record) -> None:
        """Of one that runs: its program may have filled the disk, and at its end it is saved again."""
        try:
            self.records.save(record)
        except OSError as exc:
            log.warning("record_not_saved", container=record.name, error=str(exc))

    def unwant(self, record: Record) -> None:
        """Somebody ends it: the next service does not bring it back."""
        if record.wanted:
            record.wanted = False
            self._save(record)

    async def ensure_running(self, record: Record, *, resumed: bool = False) -> None:
        """In the background, as it was made; nothing if it runs. Raises: as `start`."""
        async with self._turn(record):
            container = self.live(record)
            if container is not None and container.has_ended:
                await container.wait_gone()
            if self.live(record) is None:
                stdio = Stdio(tty=record.request.tty)
                await self.start(record, stdio, background=True, resumed=resumed)

    async def restart(self, record: Record, grace_seconds: float | None) -> None:
        """One more round of it, or its first one. Raises: as `start`."""
        container = self.live(record)
        if container is not None and not container.is_ending:
            await container.restart(grace_seconds)
            return
        if container is not None:
            await container.stop(grace_seconds)  # a program may ignore the signal that was to end it
        await self.ensure_running(self.records.get(record.id))

    def _turn(self, record: Record) -> trio.Lock:
        return self._turns.setdefault(record.id, trio.Lock())

    async def _finish(self, record: Record, bundle: Bundle, container: Container) -> None:
        """The container is gone: say how it ended, and with --rm forget it."""
        record.finished, record.status = container.finished_at, container.status
        record.oom_killed, record.restarts = container.oom_killed, container.backoff.count
        record.error = str(container.error) if container.error is not None else None
        output = container.streams.output.log
        record.log_lost = output.lost.strerror if output is not None and output.lost is not None else None
        self.assembly.forget(record)
        bundle.close()
        if record.request.remove:
            await self.remove(record)
        elif os.path.isdir(self.records.directory(record)):
            self.records.save(record)
        if record.request.hostname is None:
            await self._forget_nested(record, record.request.rootless)

    async def _forget_nested(self, record: Record, rootless: bool) -> None:
        """Forget the containers that ran in a container on our store: no other will have its host name, and so them."""
        for nested in self.records.of_host(record.id[:12]):
            await self._forget_nested(nested, rootless)
            await self.remove(nested, rootless=rootless)

    def rename(self, record: Record, name: str) -> None:
        """Raises: NameInUse, BundleError, OSError."""
        check_names(name, None)
        self.records.rename(record, name)
        container = self.live(record)
        if container is not None:
            container.name = name
        self.tell("rename", record)

    async def forget_failed(self, record: Record) -> None:
        """A `run` that did not come to its start leaves nothing, as with podman and --rm."""
        if self.live(record) is None:
            await self.remove(record)

    async def remove(self, record: Record, *, rootless: bool | None = None, volumes: bool = True) -> None:
        """Remove a container that does not run, with what it has written unless its bundle has a name.

        Its anonymous `volumes` are part of that; left, they are there until somebody removes them.
        """
        if record.bundle == record.id:
            kind = record.request.rootless if rootless is None else rootless
            await self._remove_bundle(record.bundle, kind, volumes=volumes)
        self.forget(record)

    async def _remove_bundle(self, name: str, rootless: bool, *, volumes: bool, again: bool = True) -> None:
        """If the sandbox ends meanwhile (perhaps the container ended by that), `again` in a new one."""
        if not os.path.isdir(f"{self.bundles.root}/{name}"):
            return
        bundle = self.bundles.open(name)
        try:
            if volumes:
                await self.volumes.drop(bundle, sandbox=self.sandbox)
            if not bundle.is_written:  # also where no sandbox can be had: that may be why it did not start
                shutil.rmtree(bundle.directory)
                return
            sandbox = await self.sandbox(rootless)
            try:
                await self.bundles.remove(bundle, sandbox)
            except (SupervisorError, OSError):
                if not (again and sandbox.gone):
                    raise
                await self._remove_bundle(name, rootless, volumes=volumes, again=False)
        finally:
            bundle.close()

    def forget(self, record: Record) -> None:
        self._turns.pop(record.id, None)
        self.records.remove(record)
        self.tell("destroy", record)

    def tell(self, action: str, record: Record, error: str | None = None) -> None:
        """An event of a container that does not run."""
        told = {**labels_of(record), **({"error": error} if error is not None else {})}
        event = describe_event(action, record.id, record.name, told)
        self.supervisor.event_log.tell(event)

    def keep_in_background(self, container: Container) -> None:
        """Its client has left it alone: the terminal's output goes to the log from here."""
        record = self.records.get(container.id)
        container.streams.take_over_terminal(self.records.log_path(record))
        record.wanted = container.backoff.policy.is_lasting
        self._save(record)

    async def exec(self, request: requests.ExecIn, stdio: Stdio) -> Started:
        """One more program in a running container. Raises: NotFound, WrongState, SupervisorError."""
        container = self.running(self.records.get(request.container))
        program = Program(
            args=request.args, env=request.env, workdir=request.workdir, user=request.user,
            privileged=request.privileged, term=request.terminal.term if request.terminal else None,
        )  # fmt: skip
        return await container.start_exec(program, stdio)

    # Looking

    def summary(self, record: Record) -> dict[str, Any]:
        """A row of `ps`."""
        return describe.summary(record, self.live(record))

    def inspect(self, record: Record) -> dict[str, Any]:
        """Everything known of a container."""
        image = self.images.load(record.image_id)
        bundle = self.bundles.file(record.bundle)
        return inspection.inspect(
            record, self.live(record), log_path=self.records.log_path(record),
            config=self.assembly.config(image) if image is not None else None,
            volume_path=self.volumes.path, anonymous=bundle.volumes if bundle is not None else {},
        )  # fmt: skip

    async def tree_sizes(self, paths: Sequence[str]) -> dict[str, int]:
        """Bytes on disk of trees: there are files of subordinate ids, so the sandbox counts. Raises: SandboxError."""
        return await (await self.sandbox()).tree_sizes(paths) if paths else {}

    def live(self, record: Record) -> Container | None:
        """The container of a record, if it runs or is being started."""
        return self.supervisor.containers.get(record.id)

    def running(self, record: Record) -> Container:
        """Raises: WrongState unless it runs."""
        container = self.live(record)
        if container is None or container.state is not State.RUNNING:
            raise WrongState(f"container {record.name} is not running", cure=f"ctnr start {record.name}")
        return container

    # Images and bundles

    async def sandbox(self, rootless: bool = False) -> Sandbox:
        """The sandbox in which files of containers are touched."""
        return (await self.supervisor.realm(rootless=rootless)).sandbox

    async def pull(
        self,
        text: str,
        *,
        policy: str | None,
        mode: str,
        platform: str | None,
        environ: dict[str, str],
        report: Report,
    ) -> Image:
        """Raises: as ImageStore.pull."""
        return await self.images.pull(
            text, sandbox=self.sandbox, policy=policy, mode=mode, platform=platform,
            environ=caller_environment(environ), report=report,
        )  # fmt: skip

    # Networks

    def networks_of(self, request: requests.Run) -> Chosen:
        """What a request's networks come to. Raises: NetconfError, SupervisorError."""
        environ = caller_environment(request.environ)
        default = "default" if self.supervisor.privileged and not request.rootless else "slirp"
        return choose_networks(request, default, search_path(environ, environ.get("HOME")), environ)

    async def connect(
        self,
        container: Container,
        network: str,
        *,
        ip: str | None = None,
        mac: str | None = None,
        aliases: Sequence[str] = (),
        environ: Mapping[str, str] = _OURS,
    ) -> Attachment:
        """Attach one more network, `NAME[:OPTION=VALUE,…]`, to a container that runs.

        Raises: WrongState, AttachmentError, NetconfError, SupervisorError; nothing has changed then.
        """
        environ = caller_environment(environ)
        directories = search_path(environ, environ.get("HOME"))
        found, wishes = load_wished(network, directories, ip=ip, mac=mac)
        aliases = (*wishes.pop("aliases", ()), *aliases)
        told = for_plugins(environ)
        attachment = await container.membership.connect(found, aliases=aliases, **told, **wishes)
        await rewrite_for(container, self.supervisor, self.records)
        return attachment

    async def disconnect(self, container: Container, network: str) -> None:
        """Take a container that runs off a network. Raises: WrongState, AttachmentError."""
        await container.membership.disconnect(network)
        await rewrite_for(container, self.supervisor, self.records)

    # The service

    def image(self, text: str) -> Image:
        """Raises: NotFound."""
        return self.images.get(text)

    def service_status(self) -> dict[str, Any]:
        assert self.server is not None
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": self.started_at,
            "containers": len(self.supervisor.containers),
            "connections": self.server.connections - 1,
            "store": self.store_dir,
            "runtime_dir": self.runtime_dir,
        }


def check_runtime_dir(path: str) -> None:
    """Told at the start, not by the first terminal or slirp4netns. Raises: SupervisorError."""
    if len(os.fsencode(path)) > RUNTIME_DIR_BYTES_MAX:
        raise SupervisorError(
            f"runtime directory {path}: longer than {RUNTIME_DIR_BYTES_MAX} bytes, too long for sockets in it",
            cure="set CTNR_RUNTIME_DIR to a shorter path",
        )


def caller_environment(of_caller: Mapping[str, str]) -> dict[str, str]:
    """The service's environment with what its caller has set differently."""
    return {**os.environ, **of_caller}
