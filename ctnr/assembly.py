"""From a container's record to what the supervisor runs: mounts, networks, user, command, configuration."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count

from ctnr.bundles.build import RECURSIVE_RO, Facts, build_bundle, wishes_of
from ctnr.bundles.command import Place, check_command, check_workdir, make_workdir
from ctnr.bundles.devices import device_filter, device_places
from ctnr.bundles.health import build_health
from ctnr.bundles.image import ImageConfig, load_image_config
from ctnr.bundles.limits import process_limits, try_sysctls
from ctnr.bundles.log_options import build_log_options
from ctnr.bundles.mount_points import check_mount_points
from ctnr.bundles.mounts import MountPlan, plan_mounts, unnamed_places, with_image_volumes
from ctnr.bundles.process import (
    build_args,
    build_process,
    parse_signal,
    process_capabilities,
    resolve_workdir,
)  # fmt: skip
from ctnr.bundles.resources import build_limits
from ctnr.bundles.seccomp import SeccompProfiles
from ctnr.bundles.spec import Mount, encode
from ctnr.bundles.store import Bundle
from ctnr.bundles.users import ResolvedUser, UserFiles, read_user_files, resolve_user
from ctnr.files import fill
from ctnr.images.view import Image
from ctnr.networks import Chosen
from ctnr.ports import choose_ports
from ctnr.records import Record, labels_of
from ctnr.volumes import VolumeStore
from supervisor.container import Container
from supervisor.errors import SupervisorError
from supervisor.readiness import check_ready, parse_ready
from supervisor.restart import parse_restart_policy
from supervisor.runtime.stdio import Stdio
from supervisor.sandbox.sandbox import Ids, python_argv
from supervisor.spec import Built, ContainerSpec, Overlay, Prepared, Program

KERNEL_FILES = tuple(Mount(destination=path, type="none", source="") for path in ("/dev", "/proc", "/sys"))


class Assembly:
    """Remembers what containers of one image have in common, and who a running container's user is."""

    def __init__(self, store_dir: str, volumes: VolumeStore, *, privileged: bool) -> None:
        self._volumes = volumes
        self._privileged = privileged
        self._profiles = SeccompProfiles(f"{store_dir}/cache/seccomp")
        self._configs: dict[str, ImageConfig] = {}
        self._user_files: dict[str, UserFiles] = {}  # by image
        self._users: dict[str, ResolvedUser] = {}  # by container that runs
        self._mounts: dict[str, tuple[Mount, ...]] = {}  # by container that runs

    def config(self, image: Image) -> ImageConfig:
        """What the image says of its containers. Raises: BundleError."""
        config = self._configs.get(image.id)
        if config is None:
            config = self._configs[image.id] = load_image_config(image.config_bytes)
        return config

    def forget(self, record: Record) -> None:
        """The container has ended."""
        self._users.pop(record.id, None)
        self._mounts.pop(record.id, None)

    def spec(
        self,
        record: Record,
        image: Image,
        bundle: Bundle,
        stdio: Stdio,
        *,
        chosen: Chosen,
        shares: Container | None,
        log_path: str | None,
        finish: Callable[[Container], Awaitable[None]],
    ) -> ContainerSpec:
        """What the supervisor is to run. `shares` is whose network namespace it is to have, where `chosen` names one.

        Raises: SupervisorError (BundleError, …).
        """
        request, config = record.request, self.config(image)
        rootless = request.rootless or not self._privileged
        wishes = with_image_volumes(wishes_of(request), config.config.volumes or ())
        plan = plan_mounts(
            wishes, bundle.name_volumes(unnamed_places(wishes)), volume_root=self._volumes.root, rootless=rootless,
            recursive_ro=RECURSIVE_RO,
        )  # fmt: skip
        limits = build_limits(request.limits)
        rules = device_filter(
            request.devices, request.cap_add, rootless=rootless, privileged=request.privileged
        )
        health = build_health(request.health, config.config)
        ready = parse_ready(request.ready) if request.ready is not None else None
        check_ready(ready, health, piped=log_path is not None)
        signal = request.stop_signal or config.config.stop_signal or "TERM"
        return ContainerSpec(
            id=record.id,
            name=record.name,
            rootfs=Overlay(lower=tuple(reversed(image.layer_paths)), upper=bundle.upper, work=bundle.work),
            build=partial(
                self._build, record, config, plan, rounds=count(int(os.path.exists(bundle.upper)))
            ),
            build_process=partial(self._build_process, record),
            networks=chosen.requests,
            ports=choose_ports(
                request, chosen, rootless=rootless, exposed=config.config.exposed_ports or ()
            ),
            aliases=(record.id[:12], *((request.hostname,) if request.hostname else ()), *request.aliases),
            host_network=chosen.host or (shares is not None and shares.netns is None),
            shares=shares if shares is not None and shares.netns is not None else None,
            netns_path=chosen.path,
            limits=limits,
            device_rules=rules,
            stdio=stdio,
            log_path=log_path,
            log_options=build_log_options(request, record.id, record.name),
            keep_stdin=request.interactive,
            stop_signal=parse_signal(signal),
            stop_seconds=10 if request.stop_timeout is None else request.stop_timeout,
            labels=labels_of(record),
            restart=parse_restart_policy(request.restart),
            health=health,
            ready=ready,
            finish=finish,
        )

    async def _build(
        self,
        record: Record,
        config: ImageConfig,
        plan: MountPlan,
        prepared: Prepared,
        *,
        rounds: Iterator[int],
    ) -> Built:
        """The bundle's configuration, once the root filesystem is there to look into; called in every round."""
        request, realm = record.request, prepared.realm
        fresh = next(rounds) == 0
        files = self._user_files.get(record.image_id) if fresh else None
        if files is None:
            files = await read_user_files(realm.sandbox, prepared.rootfs)
            if fresh:
                self._user_files[record.image_id] = files
        user = resolve_user(files, request.user or config.config.user, request.group_add)
        place = Place(sandbox=realm.sandbox, rootfs=prepared.rootfs, mounts=plan.mounts, ids=_ids(user))
        if plan.mounts or request.devices:
            for name, anonymous in plan.volumes.items():
                self._volumes.ensure(name, anonymous=anonymous)
            await check_mount_points(
                place, device_places(request.devices), prepared.directory, is_crun=realm.runtime.is_crun
            )
            await self._fill_volumes(plan, prepared, user.uid, user.gid)
        if request.sysctls:
            await try_sysctls(realm.sandbox, prepared.netns, request.sysctls)
        workdir = request.workdir or config.config.working_dir or "/"
        if workdir.strip("/"):
            await make_workdir(realm.sandbox, prepared.rootfs, workdir, plan.mounts)
        facts = Facts(
            name=record.name,
            container_id=record.id,
            hostname=request.hostname or (os.uname().nodename if prepared.netns is None else record.id[:12]),
            user=user,
            plan=plan,
            rootless=realm.sandbox.rootless,
            is_crun=realm.runtime.is_crun,
        )
        self._users[record.id], self._mounts[record.id] = user, plan.mounts
        args = build_args(config.config, request.entrypoint, request.args)
        env = (*(config.config.env or ()), *request.env)
        await check_command(place, args[0], workdir, env)
        return build_bundle(config, request, facts, prepared, self._profiles)

    async def _fill_volumes(self, plan: MountPlan, prepared: Prepared, uid: int, gid: int) -> None:
        sandbox = prepared.realm.sandbox
        for copy in plan.copies:
            if not _is_new(copy.directory):
                continue
            # opened below the root: a link in the image must not make us copy the host's files
            source = await sandbox.open_in_root(prepared.rootfs, copy.target, os.O_RDONLY | os.O_DIRECTORY)
            if source is None:  # as podman: who runs in it can write there
                if uid or gid:
                    await sandbox.run(["chown", f"{uid}:{gid}", copy.directory])
                continue
            try:
                done = await sandbox.run(
                    python_argv("ctnr.files.fill", copy.directory), pass_fds={fill.IMAGE: source}
                )
            finally:
                os.close(source)
            if done.status:
                raise SupervisorError(f"volume at {copy.target}: {done.last_line()}")
        for path in plan.chowns:
            done = await sandbox.run(["chown", "-R", f"{uid}:{gid}", path])
            if done.status:
                raise SupervisorError(f"volume {path}: {done.last_line()}", cure="leave out the option U")

    async def _build_process(
        self, record: Record, container: Container, program: Program, stdio: Stdio
    ) -> bytes:
        """The OCI `process` of one more program. Raises: CommandNotFound, BundleError."""
        run = record.request
        rootless = run.rootless or not self._privileged
        image = self._configs[record.image_id].config
        user = self._users[record.id]
        if program.user is not None:
            user = resolve_user(await read_user_files(container.sandbox, container.rootfs), program.user)
        workdir = resolve_workdir(image, program.workdir or run.workdir)
        sandbox = container.sandbox
        env = (*(image.env or ()), *run.env, *program.env)
        mounts = (*self._mounts[record.id], *KERNEL_FILES)
        if workdir != "/":
            await check_workdir(sandbox, container.rootfs, workdir, mounts)
        place = Place(sandbox=sandbox, rootfs=container.rootfs, mounts=mounts, ids=_ids(user))
        await check_command(place, program.args[0], workdir, env)
        rlimits, oom_score_adj = process_limits(run.ulimits, run.oom_score_adj, rootless=rootless)
        process = build_process(
            args=program.args,
            env=(*run.env, *program.env),
            image=image,
            user=user,
            cwd=program.workdir or run.workdir,
            hostname=run.hostname or record.id[:12],
            capabilities=process_capabilities(
                user,
                rootless=rootless,
                privileged=run.privileged or program.privileged,
                add=run.cap_add,
                drop=run.cap_drop,
            ),
            tty=stdio.tty,
            term=program.term,
            rows=stdio.rows,
            columns=stdio.columns,
            no_new_privileges=run.no_new_privileges,
            rlimits=rlimits,
            oom_score_adj=oom_score_adj,
        )
        return encode(process)


def _is_new(directory: str) -> bool:
    """Whether a volume is as it was made: empty, and ours. Containers may give it to others, or shut us out."""
    return os.stat(directory).st_uid == os.geteuid() and not os.listdir(directory)


def _ids(user: ResolvedUser) -> Ids:
    return user.uid, user.gid, user.additional_gids
