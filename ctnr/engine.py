"""One Run request from image to exit status: the way through the house on one page."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio

from ctnr import __version__, requests
from ctnr.bundles.build import RECURSIVE_RO, Facts, build_bundle, resolv_conf, wishes_of
from ctnr.bundles.command import check_command, is_below
from ctnr.bundles.errors import BundleError
from ctnr.bundles.image import ImageConfig, load_image_config
from ctnr.bundles.mounts import MountPlan, plan_mounts
from ctnr.bundles.names import check_names
from ctnr.bundles.process import (
    build_args,
    build_process,
    parse_signal,
    process_capabilities,
    resolve_workdir,
)  # fmt: skip
from ctnr.bundles.seccomp import SeccompProfiles
from ctnr.bundles.spec import encode
from ctnr.bundles.store import Bundle, BundleStore, new_file
from ctnr.bundles.users import ResolvedUser, UserFiles, read_user_files, resolve_user
from ctnr.images.progress import Report
from ctnr.images.store import Image, ImageStore
from ctnr.networks import Chosen, choose_networks
from ctnr.records import Record, Records
from netconf import search_path
from supervisor.container import Built, Container, ContainerSpec, Overlay, Prepared, State
from supervisor.errors import NotFound, SupervisorError, WrongState
from supervisor.network.plugins import default_cni_path
from supervisor.network.ports import parse_all_ports
from supervisor.runtime.oci import Started
from supervisor.runtime.stdio import Stdio
from supervisor.sandbox.sandbox import Sandbox
from supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from supervisor.service.server import Server

log = structlog.get_logger()

KERNEL_FILES = ("/dev", "/proc", "/sys")


class Engine:
    """Stores and supervisor put together; what the handlers call."""

    def __init__(self, store_dir: str, supervisor: Supervisor, *, runtime_dir: str) -> None:
        self.store_dir = store_dir
        self.runtime_dir = runtime_dir
        self.supervisor = supervisor
        self.images = ImageStore(store_dir)
        self.bundles = BundleStore(f"{store_dir}/bundles")
        self.records = Records(f"{store_dir}/containers", owner=f"{os.uname().nodename}:{runtime_dir}")
        self.server: Server | None = None
        self.started_at = time.time()
        self._profiles = SeccompProfiles(f"{store_dir}/cache/seccomp")
        self._configs: dict[str, ImageConfig] = {}
        self._user_files: dict[str, UserFiles] = {}  # by image
        self._users: dict[str, ResolvedUser] = {}  # by container that runs

    # From request to running container

    async def create(self, request: requests.Run, report: Report) -> Record:
        """Image, bundle and record of a container; nothing runs yet. Raises: SupervisorError, OSError."""
        self._networks(request)  # a wrong name is told before an image is fetched
        check_names(request.name, request.hostname)
        image = await self._image_of(request, report)
        config = self._config(image)
        process = config.config
        await self._make_room(request)
        record = self.records.new(
            request.name or request.bundle,
            image=request.image or (image.names[0] if image.names else image.id),
            image_id=image.id,
            command=(*(request.entrypoint if request.entrypoint is not None else process.entrypoint or ()),
                     *(request.args or process.cmd or ())),
            bundle=request.bundle or "",
            request=request,
        )  # fmt: skip
        if not record.bundle:
            record.bundle = record.id
        try:
            bundle = self.bundles.open(record.bundle)
            try:
                await self._fill(bundle, image, request)
            finally:
                bundle.close()
        except BaseException:
            self.records.remove(record)
            raise
        return record

    async def _make_room(self, request: requests.Run) -> None:
        """The same command can be typed again: what has the name and has ended is waited for (its clean-up goes on when
        its client has its status), and forgotten if a bundle gave the name. What it wrote stays in the bundle."""
        name = request.name or request.bundle
        last = self.records.find(name) if name else None
        if last is None or last.name != name:
            return
        container = self.live(last)
        if container is not None and container.status is not None:
            await container.wait_gone()
        ended = self.live(last) is None and not self.bundles.is_busy(last.bundle)
        if ended and last.bundle == request.bundle == name:
            self.records.remove(last)

    async def _image_of(self, request: requests.Run, report: Report) -> Image:
        if request.image is not None:
            return await self.pull(
                request.image, policy=request.image_policy, mode=request.pull, platform=request.platform,
                environ=request.environ, report=report,
            )  # fmt: skip
        file = self.bundles.all().get(request.bundle or "")
        if file is None:
            raise NotFound(
                "no image given, and no bundle that has one", cure="ctnr run [-b BUNDLE] IMAGE [COMMAND]"
            )
        return self.images.get(file.image_id)

    async def _fill(self, bundle: Bundle, image: Image, request: requests.Run) -> None:
        """A named bundle is used as it is, unless --update is given and image or configuration have changed."""
        shape = {
            "image": image.id,
            "user": request.user,
            "entrypoint": request.entrypoint,
            "env": request.env,
        }
        configuration = hashlib.sha256(msgspec.json.encode(shape)).hexdigest()
        file = bundle.file
        if file is not None and file.image_id != image.id and not request.update:
            raise SupervisorError(
                f"bundle {bundle.name} was made from another image ({file.image})",
                cure="add --update to make it anew",
            )
        if file is not None and (not request.update or file.configuration == configuration):
            return
        if file is not None:
            await self.bundles.empty(bundle, await self.sandbox(request.rootless))
        named = request.bundle is not None
        bundle.save(new_file(image.id, request.image or image.id, configuration, named=named))

    async def start(self, record: Record, stdio: Stdio, *, background: bool | None = None) -> Container:
        """Run what `create` has prepared. Raises: SupervisorError, NetconfError, OSError; then nothing runs."""
        request = record.request
        background = request.detach if background is None else background
        image = self.images.load(record.image_id)
        if image is None:
            raise NotFound(f"the image of container {record.name} is gone", cure=f"ctnr pull {record.image}")
        config = self._config(image)
        bundle = self.bundles.open(record.bundle)
        try:
            spec = self._spec(record, image, config, bundle, stdio, background=background)
            container = await self.supervisor.start(spec, rootless=request.rootless)
        except BaseException:
            bundle.close()
            raise
        record.started, record.finished, record.status, record.error = time.time(), None, None, None
        try:
            self.records.save(record)
        except OSError as exc:
            # the program runs, and may itself have filled the disk; at its end this is saved again
            log.warning("record_not_saved", container=record.name, error=str(exc))
        if background and container.terminal is not None:
            try:
                container.take_over_terminal(self.records.log_path(record))
            except BaseException:
                container.cancel()
                with trio.CancelScope(shield=True):
                    await container.wait_gone()
                raise
        return container

    def _spec(
        self,
        record: Record,
        image: Image,
        config: ImageConfig,
        bundle: Bundle,
        stdio: Stdio,
        *,
        background: bool,
    ) -> ContainerSpec:
        request = record.request
        rootless = request.rootless or not self.supervisor.privileged
        wishes = wishes_of(request)
        plan = plan_mounts(
            wishes, config.config.volumes or (), volume_root=f"{self.store_dir}/volumes", anonymous_root=bundle.volumes,
            rootless=rootless, recursive_ro=RECURSIVE_RO,
        )  # fmt: skip
        chosen = self._networks(request)
        shares = self.running(self.records.get(chosen.container)) if chosen.container is not None else None
        signal = request.stop_signal or config.config.stop_signal or "TERM"
        return ContainerSpec(
            id=record.id,
            name=record.name,
            rootfs=Overlay(lower=tuple(reversed(image.layer_paths)), upper=bundle.upper, work=bundle.work),
            build=partial(self._build, record, config, plan, fresh=not os.path.exists(bundle.upper)),
            networks=chosen.requests,
            ports=() if chosen.host else parse_all_ports(request.publish),
            aliases=(record.id[:12], *((request.hostname,) if request.hostname else ()), *request.aliases),
            host_network=chosen.host or (shares is not None and shares.netns is None),
            shares=shares if shares is not None and shares.netns is not None else None,
            netns_path=chosen.path,
            stdio=stdio,
            log_path=self.records.log_path(record) if background and not stdio.tty else None,
            keep_stdin=request.interactive,
            stop_signal=parse_signal(signal),
            stop_seconds=10 if request.stop_timeout is None else request.stop_timeout,
            finish=partial(self._finish, record, bundle),
        )

    async def _build(
        self, record: Record, config: ImageConfig, plan: MountPlan, prepared: Prepared, *, fresh: bool
    ) -> Built:
        """The bundle's configuration, once the root filesystem is there to look into."""
        request, realm = record.request, prepared.realm
        files = self._user_files.get(record.image_id) if fresh else None
        if files is None:
            files = await read_user_files(realm.sandbox, prepared.rootfs)
            if fresh:
                self._user_files[record.image_id] = files
        user = resolve_user(files, request.user or config.config.user, request.group_add)
        await self._fill_volumes(plan, prepared, user.uid, user.gid)
        workdir = request.workdir or config.config.working_dir or "/"
        if workdir.strip("/"):
            try:
                await realm.sandbox.make_dirs_in_root(prepared.rootfs, workdir)
            except NotADirectoryError:
                raise BundleError(
                    f"working directory {workdir}: not a directory in the image",
                    cure="choose another with -w",
                ) from None
        facts = Facts(
            name=record.name,
            container_id=record.id,
            hostname=request.hostname or (os.uname().nodename if prepared.netns is None else record.id[:12]),
            user=user,
            plan=plan,
            rootless=realm.sandbox.rootless,
            is_crun=realm.runtime.is_crun,
        )
        self._users[record.id] = user
        targets = [mount.destination for mount in plan.mounts]
        args = build_args(config.config, request.entrypoint, request.args)
        env = (*(config.config.env or ()), *request.env)
        await check_command(realm.sandbox, prepared.rootfs, args[0], workdir, env, targets)
        return build_bundle(config, request, facts, prepared, self._profiles)

    async def _fill_volumes(self, plan: MountPlan, prepared: Prepared, uid: int, gid: int) -> None:
        sandbox = prepared.realm.sandbox
        for directory in plan.directories:
            os.makedirs(directory, 0o755, exist_ok=True)
        for copy in plan.copies:
            if os.listdir(copy.directory):
                continue
            # opened below the root: a link in the image must not make us copy the host's files
            source = await sandbox.open_in_root(prepared.rootfs, copy.target, os.O_RDONLY | os.O_DIRECTORY)
            if source is None:
                continue
            try:
                done = await sandbox.run(
                    ["cp", "-a", "/proc/self/fd/9/.", copy.directory], pass_fds={9: source}
                )
            finally:
                os.close(source)
            if done.status:
                raise SupervisorError(f"volume at {copy.target}: {done.last_line()}")
        for path in plan.chowns:
            done = await sandbox.run(["chown", "-R", f"{uid}:{gid}", path])
            if done.status:
                raise SupervisorError(f"volume {path}: {done.last_line()}", cure="leave out the option U")

    async def _finish(self, record: Record, bundle: Bundle, container: Container) -> None:
        """The container is gone: say how it ended, and with --rm forget it."""
        record.finished, record.status = container.finished_at, container.status
        record.error = str(container.error) if container.error is not None else None
        self._users.pop(record.id, None)
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

    async def forget_failed(self, record: Record) -> None:
        """A `run` that did not come to its start leaves nothing, as with podman and --rm."""
        if self.live(record) is None:
            await self.remove(record)

    async def remove(self, record: Record, *, rootless: bool | None = None) -> None:
        """Remove a container that does not run, with what it has written unless its bundle has a name."""
        if record.bundle == record.id:
            directory = f"{self.bundles.root}/{record.bundle}"
            if os.path.isdir(directory):
                bundle = self.bundles.open(record.bundle)
                try:
                    if bundle.is_written:
                        kind = record.request.rootless if rootless is None else rootless
                        await self.bundles.remove(bundle, await self.sandbox(kind))
                    else:  # also where no sandbox can be had: that may be why it did not start
                        shutil.rmtree(bundle.directory)
                finally:
                    bundle.close()
        self.records.remove(record)

    def keep_in_background(self, container: Container) -> None:
        """Its client has detached: the terminal's output goes to the log from here."""
        container.take_over_terminal(self.records.log_path(self.records.get(container.id)))

    # Exec

    async def exec(self, request: requests.ExecIn, stdio: Stdio) -> Started:
        """One more program in a running container. Raises: NotFound, WrongState, SupervisorError."""
        record = self.records.get(request.container)
        container = self.running(record)
        run = record.request
        rootless = run.rootless or not self.supervisor.privileged
        image = self._configs[record.image_id].config
        user = self._users[record.id]
        if request.user is not None:
            user = resolve_user(await read_user_files(container.sandbox, container.rootfs), request.user)
        workdir = resolve_workdir(image, request.workdir or run.workdir)
        targets = [*(wish.target for wish in wishes_of(run)), *(image.volumes or ())]
        sandbox = container.sandbox
        env = (*(image.env or ()), *run.env, *request.env)
        targets += KERNEL_FILES
        if not is_below(workdir, targets) and workdir != "/":
            await _check_workdir(sandbox, container.rootfs, workdir)
        await check_command(sandbox, container.rootfs, request.args[0], workdir, env, targets)
        process = build_process(
            args=request.args,
            env=(*run.env, *request.env),
            image=image,
            user=user,
            cwd=request.workdir or run.workdir,
            hostname=run.hostname or record.id[:12],
            capabilities=process_capabilities(
                user,
                rootless=rootless,
                privileged=run.privileged or request.privileged,
                add=run.cap_add,
                drop=run.cap_drop,
            ),
            tty=request.tty,
            term=request.terminal.term if request.terminal else None,
            rows=stdio.rows,
            columns=stdio.columns,
            no_new_privileges=run.no_new_privileges,
        )
        return await container.exec(encode(process), stdio)

    # Looking

    def live(self, record: Record) -> Container | None:
        """The container of a record, if it runs or is being started."""
        return self.supervisor.containers.get(record.id)

    def running(self, record: Record) -> Container:
        """Raises: WrongState unless it runs."""
        container = self.live(record)
        if container is None or container.state is not State.RUNNING:
            raise WrongState(f"container {record.name} is not running", cure=f"ctnr start {record.name}")
        return container

    def summary(self, record: Record) -> dict[str, Any]:
        """A row of `ps`. What runs is the supervisor's word, not the record's."""
        container = self.live(record)
        attachments = container.attachments if container is not None else ()
        state = State.STOPPED if record.started is not None else State.CREATED
        return {
            "id": record.id,
            "name": record.name,
            "image": record.image,
            "image_id": record.image_id,
            "command": record.command,
            "created": record.created,
            "started": record.started,
            "finished": record.finished if container is None else None,
            "state": container.state if container is not None else state,
            "status": None if container is not None else record.status,
            "error": record.error,
            "pid": container.pid if container is not None else None,
            "networks": [
                {"network": one.network.name, "ifname": one.ifname, "addresses": one.addresses}
                for one in attachments
            ],
            "ports": [
                {**msgspec.to_builtins(port), "network": one.network.name}
                for one in attachments
                for port in one.ports
            ],
            "labels": dict(label.partition("=")[::2] for label in record.request.labels),
            "bundle": record.bundle,
        }

    def inspect(self, record: Record) -> dict[str, Any]:
        """Everything known of a container."""
        container = self.live(record)
        networks = [
            {"network": one.network.name, "ifname": one.ifname, "result": msgspec.Raw(bytes(one.result.raw))}
            for one in (container.attachments if container is not None else ())
        ]
        return {
            **self.summary(record),
            "networks": networks,
            "request": msgspec.to_builtins(record.request),
            "log": self.records.log_path(record),
            "config": msgspec.to_builtins(self._configs[record.image_id])
            if record.image_id in self._configs
            else None,
        }

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

    async def import_image(
        self, request: requests.ImageImport, descriptor: int | None, report: Report
    ) -> Image:
        """Raises: as ImageStore.import_rootfs."""
        source = request.source if request.source is not None else descriptor
        if source is None:
            raise SupervisorError("nothing to import", cure="give a directory, a tar file, or - for stdin")
        config: dict[str, Any] = {"Env": list(request.env) or None, "Cmd": list(request.cmd) or None}
        config |= {
            "Entrypoint": list(request.entrypoint) or None,
            "WorkingDir": request.workdir,
            "User": request.user,
        }
        config["Labels"] = dict(label.partition("=")[::2] for label in request.labels) or None
        return await self.images.import_rootfs(
            source, request.name, sandbox=self.sandbox, report=report,
            config={key: value for key, value in config.items() if value is not None},
        )  # fmt: skip

    def used_images(self) -> set[str]:
        """Ids of images that a container or bundle was made from."""
        of_records = {record.image_id for record in self.records.all()}
        return of_records | {file.image_id for file in self.bundles.all().values()}

    async def remove_images(self, request: requests.ImageRemove) -> list[str]:
        told: list[str] = []
        for text in request.images:
            told += await self.images.remove(text, force=request.force, used=self.used_images())
        await self.images.gc(
            sandbox=self.sandbox, used={*self.used_images(), *(row.id for row in self.images.list())}
        )
        return told

    async def collect_images(self, request: requests.ImageGc) -> dict[str, int]:
        return await self.images.gc(sandbox=self.sandbox, used=self.used_images(), every=request.all)

    async def delete_bundles(self, request: requests.BundleDelete) -> list[str]:
        sandbox = await self.sandbox()
        for name in request.names:
            users = [record for record in self.records.all() if record.bundle == name]
            for record in users:
                container = self.live(record)
                if container is not None and request.force:
                    container.cancel()
                    await container.wait_gone()
            await self.bundles.remove(self.bundles.get(name), sandbox)
            for record in users:
                self.records.remove(record)
        return list(request.names)

    async def collect_bundles(self) -> list[str]:
        """Remove bundles of containers that nobody knows any more."""
        known = {record.bundle for record in self.records.all()}
        stale = [name for name, file in self.bundles.all().items() if not file.named and name not in known]
        removed = []
        for name in stale:
            if not self.bundles.is_busy(name):
                sandbox = await self.sandbox()
                await self.bundles.remove(self.bundles.get(name), sandbox)
                removed.append(name)
        return removed

    # Networks

    def _networks(self, request: requests.Run) -> Chosen:
        """What a request's networks come to. Raises: NetconfError, SupervisorError."""
        environ = caller_environment(request.environ)
        default = "default" if self.supervisor.privileged and not request.rootless else "slirp"
        return choose_networks(
            request, default, search_path(environ, environ.get("HOME")), cni_path=default_cni_path(environ)
        )

    async def rewrite_name_servers(self, record: Record, container: Container) -> None:
        """Its networks have changed: its resolv.conf, a file that is mounted, gets another content."""
        content = resolv_conf(record.request, container.attachments, private=True)
        if content is not None:
            path = f"{container.directory}/resolv.conf"
            await container.sandbox.write_files({path: (0o644, content)})

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

    def _config(self, image: Image) -> ImageConfig:
        config = self._configs.get(image.id)
        if config is None:
            config = self._configs[image.id] = load_image_config(image.config_bytes)
        return config


async def _check_workdir(sandbox: Sandbox, rootfs: str, workdir: str) -> None:
    """Tell that a directory is not there before the runtime does, into the program's stderr. Raises: BundleError."""
    why = "not there in the container"
    try:
        found = await sandbox.open_in_root(rootfs, workdir, os.O_PATH | os.O_DIRECTORY)
    except NotADirectoryError:
        found, why = None, "not a directory in the container"
    if found is None:
        raise BundleError(f"working directory {workdir}: {why}", cure="choose another with -w")
    os.close(found)


def caller_environment(of_caller: dict[str, str]) -> dict[str, str]:
    """The service's environment with what its caller has set differently."""
    return {**os.environ, **of_caller}
