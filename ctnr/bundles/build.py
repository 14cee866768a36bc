"""Image configuration + Run request + facts of the machine → config.json, and the files beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from ctnr.bundles import defaults
from ctnr.bundles.devices import build_devices
from ctnr.bundles.errors import BundleError
from ctnr.bundles.etc_files import (
    ResolvConf,
    build_hostname,
    build_hosts,
    build_resolv_conf,
    read_host_resolv_conf,
    stays_outside,
)
from ctnr.bundles.image import ImageConfig
from ctnr.bundles.init_program import DESTINATION as INIT_DESTINATION
from ctnr.bundles.init_program import find_init_program
from ctnr.bundles.limits import build_sysctls, process_limits
from ctnr.bundles.mounts import MountPlan, Wish, parse_mount, parse_tmpfs, parse_volume
from ctnr.bundles.namespaces import HOST_SHM, build_namespaces, has_host_name
from ctnr.bundles.process import build_args, build_process, process_capabilities
from ctnr.bundles.seccomp import BPF_ANNOTATION, Compiled, SeccompProfiles
from ctnr.bundles.spec import (
    OCI_VERSION,
    Capabilities,
    Config,
    Linux,
    Mount,
    Resources,
    Root,
    encode,
)
from ctnr.bundles.users import ResolvedUser, check_mapped
from ctnr.requests import Run
from supervisor.network.attachment import Attachment
from supervisor.spec import NOTIFY_SOCKET, Built, Prepared

RECURSIVE_RO = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (5, 12)  # mount_setattr(2)

_TTY_GID = 5
_IMAGE_PREFIX = "org.opencontainers.image."


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine knows when a container is about to start."""

    name: str
    container_id: str
    hostname: str
    user: ResolvedUser
    plan: MountPlan
    rootless: bool
    is_crun: bool


def wishes_of(run: Run) -> list[Wish]:
    """All mounts that the request asks for, and the tmpfs that --read-only needs. Raises: BundleError."""
    wishes = [
        *map(parse_volume, run.volumes),
        *map(parse_mount, run.mounts),
        *map(parse_tmpfs, run.tmpfs),
    ]
    if run.read_only:
        taken = {wish.target for wish in wishes}
        wishes += [parse_tmpfs(f"{path}:exec") for path in defaults.READ_ONLY_TMPFS if path not in taken]
    return wishes


def build_bundle(
    image: ImageConfig, run: Run, facts: Facts, prepared: Prepared, profiles: SeccompProfiles
) -> Built:
    """config.json (OCI runtime-spec 1.0.2) and the files that it binds; nothing is written here.

    Raises: BundleError.
    """
    mapped = _mapped_ids(prepared.realm.sandbox.init_pid) if facts.rootless else None
    check_mapped(facts.user, mapped)
    files = _files(run, facts, prepared)
    capabilities = process_capabilities(
        facts.user, rootless=facts.rootless, privileged=run.privileged, add=run.cap_add, drop=run.cap_drop
    )
    binds = {at: path for at, (path, _) in files.items()}
    if prepared.notify_socket is not None:
        binds[NOTIFY_SOCKET] = prepared.notify_socket
    devices = build_devices(run.devices, rootless=facts.rootless, privileged=run.privileged)
    seccomp = _seccomp(run, capabilities, profiles)
    annotations = _annotations(image, run)
    if seccomp is not None and seccomp.bpf is not None and facts.is_crun:
        annotations.setdefault(BPF_ANNOTATION, seccomp.bpf)
    args = build_args(image.config, run.entrypoint, run.args)
    rlimits, oom_score_adj = process_limits(run.ulimits, run.oom_score_adj, rootless=facts.rootless)
    terminal = run.terminal
    config = Config(
        oci_version=OCI_VERSION,
        process=build_process(
            args=(INIT_DESTINATION, "--", *args) if run.init else args,
            env=(*run.env, *((f"NOTIFY_SOCKET={NOTIFY_SOCKET}",) if prepared.notify_socket else ())),
            image=image.config,
            user=facts.user,
            cwd=run.workdir,
            hostname=facts.hostname,
            capabilities=capabilities,
            tty=run.tty,
            term=terminal.term if terminal else None,
            rows=terminal.rows if terminal else None,
            columns=terminal.columns if terminal else None,
            no_new_privileges=run.no_new_privileges,
            rlimits=rlimits,
            oom_score_adj=oom_score_adj,
        ),
        root=Root(path=prepared.rootfs, readonly=run.read_only),
        hostname=None if has_host_name(run) else facts.hostname,
        mounts=_mounts(run, facts, prepared, binds, devices.mounts, mapped),
        linux=Linux(
            namespaces=build_namespaces(run, prepared),
            sysctl=build_sysctls(run.sysctls, private_netns=prepared.netns is not None),
            devices=devices.nodes,
            # crun runs with its cgroup manager off and ignores them; runc, as real root, holds to them
            resources=Resources(devices=devices.rules) if devices.rules and not facts.is_crun else None,
            seccomp=None if seccomp is None else seccomp.seccomp,
            rootfs_propagation=_propagation(facts.plan),
            masked_paths=() if run.privileged else _masked(facts, prepared),
            readonly_paths=() if run.privileged else defaults.READONLY_PATHS,
        ),
        annotations=annotations,
    )
    return Built(config=encode(config), files={path: (0o644, content) for path, content in files.values()})


def _files(run: Run, facts: Facts, prepared: Prepared) -> dict[str, tuple[str, bytes]]:
    """Path in the container → (path in the sandbox, content)."""
    attachments = prepared.attachments
    private = prepared.netns is not None
    gateway = next((a.host_address for a in attachments if a.host_address), None if private else "127.0.0.1")
    contents: dict[str, bytes | None] = {
        "/etc/hostname": build_hostname(facts.hostname),
        "/etc/hosts": build_hosts(
            names=(facts.hostname, facts.name),
            address=next((address for a in attachments for address in a.addresses), None),
            entries=run.hosts_entries,
            gateway=gateway,
            host_alias=gateway,
            base=None if private else _host_file("/etc/hosts"),
        ),
        "/etc/resolv.conf": resolv_conf(run, attachments, private=private),
        "/run/.containerenv": f'engine="ctnr"\nname="{facts.name}"\nid="{facts.container_id}"\n'.encode(),
    }
    return {
        at: (f"{prepared.directory}/{at.rpartition('/')[2].lstrip('.')}", content)
        for at, content in contents.items()
        if content is not None
    }


def resolv_conf(
    run: Run, attachments: Sequence[Attachment], *, private: bool, host: ResolvConf | None = None
) -> bytes | None:
    """/etc/resolv.conf; None where the image's own is to stay. `host` is the host's (default: as it is now)."""
    host, servers = _name_servers(attachments, read_host_resolv_conf() if host is None else host)
    return build_resolv_conf(
        host,
        network_servers=servers,
        network_search=[domain for a in attachments for domain in a.result.dns.search],
        network_options=[option for a in attachments for option in a.result.dns.options],
        private_netns=private,
        dns=run.dns,
        search=run.dns_search,
        options=run.dns_options,
    )


def _name_servers(attachments: Sequence[Attachment], host: ResolvConf) -> tuple[ResolvConf, list[str]]:
    """Those of the host and of the networks. Where one knows the containers' names and all others, it is asked alone.

    musl asks all at the same time and takes the first answer, also a no; the others ask them in order.
    """
    attachments = [one for one in attachments if not _is_outdated(one, host)]
    knowing = [one for one in attachments if one.knows_names]
    if any(one.forwards_names for one in knowing):
        host = msgspec.structs.replace(host, nameservers=())
        return host, [server for one in knowing if one.forwards_names for server in one.nameservers]
    rest = [one for one in attachments if not one.knows_names]
    return host, [server for one in (*knowing, *rest) for server in one.nameservers]


def _is_outdated(attachment: Attachment, host: ResolvConf) -> bool:
    """pasta goes on to ask the server that the host had at its start; the host's own ones are in its reach, too."""
    asked = attachment.asks()
    if asked is None or (
        asked and stays_outside(asked)
    ):  # a local resolver, which has followed the host itself
        return False
    return asked not in host.nameservers and not all(map(stays_outside, host.nameservers))


def _mounts(
    run: Run,
    facts: Facts,
    prepared: Prepared,
    files: Mapping[str, str],
    devices: tuple[Mount, ...],
    mapped: int | None,
) -> tuple[Mount, ...]:
    """The defaults, over them our files and devices, over them what the user wants: one per destination."""
    found = {
        mount.destination: mount
        for mount in (
            defaults.MOUNT_PROC,
            defaults.MOUNT_DEV,
            defaults.mount_pts(tty_group=mapped is None or mapped > _TTY_GID),
            *_shm(run),
            defaults.MOUNT_MQUEUE,
            # the kernel refuses sysfs where the netns is not our user namespace's
            defaults.mount_sys(writable=run.privileged, from_host=prepared.netns is None and facts.rootless),
            *((defaults.mount_cgroup(writable=run.privileged),) if prepared.cgroup_version == 2 else ()),
            *devices,
        )
    }
    wanted = {mount.destination: mount for mount in facts.plan.mounts}
    covered = {destination for destination, mount in wanted.items() if mount.type == "bind"}
    for destination, source in files.items():
        # in a directory of the user's, a bind would leave an empty file behind
        if destination.rpartition("/")[0] not in covered:
            found[destination] = _bind_file(destination, source, read_only=run.read_only)
    if run.init:
        found[INIT_DESTINATION] = _bind_file(INIT_DESTINATION, find_init_program(), read_only=True)
    return tuple(sorted((found | wanted).values(), key=lambda mount: mount.destination.count("/")))


def _shm(run: Run) -> tuple[Mount, ...]:
    if run.ipc in ("host", "none"):
        return (HOST_SHM,) if run.ipc == "host" else ()
    return (defaults.mount_shm(defaults.SHM_SIZE_BYTES if run.shm_size is None else run.shm_size),)


def _bind_file(destination: str, source: str, *, read_only: bool) -> Mount:
    options = ("bind", "rprivate", "nosuid", "nodev", *(("ro",) if read_only else ()))
    return Mount(destination=destination, type="bind", source=source, options=options)


def _seccomp(run: Run, capabilities: Capabilities, profiles: SeccompProfiles) -> Compiled | None:
    if run.privileged and run.seccomp is None:
        return None
    return profiles.load(run.seccomp, capabilities.bounding)


def _masked(facts: Facts, prepared: Prepared) -> tuple[str, ...]:
    if prepared.netns is None and facts.rootless:  # the host's /sys is bound, and its cgroups with it
        return (*defaults.MASKED_PATHS, "/sys/fs/cgroup")
    return defaults.MASKED_PATHS


def _propagation(plan: MountPlan) -> str | None:
    """Shared or slave mounts need a root that propagates, as podman sets it."""
    options = {option for mount in plan.mounts for option in mount.options}
    if options & {"shared", "rshared"}:
        return "shared"
    return "rslave" if options & {"slave", "rslave"} else None


def _annotations(image: ImageConfig, run: Run) -> dict[str, str]:
    """From the image (image-spec, conversion.md), then the user's own.

    Of the image's labels only those of the OCI namespace become annotations: others would be orders to the runtime
    (`run.oci.seccomp_bpf_data` replaces the filter, `run.oci.handler` the program), and the image is not trusted.
    """
    config = image.config
    implied = {
        "os": image.os,
        "architecture": image.architecture,
        "author": image.author,
        "created": image.created,
        "stopSignal": run.stop_signal or config.stop_signal,
        "exposedPorts": ",".join(config.exposed_ports or ()),
    }
    found = {_IMAGE_PREFIX + name: value for name, value in implied.items() if value}
    found.update(item for item in (config.labels or {}).items() if item[0].startswith(_IMAGE_PREFIX))
    for text in run.annotations:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BundleError(f"annotation {text!r}: not NAME=VALUE", cure="give --annotation NAME=VALUE")
        found[name] = value
    return found


@lru_cache(maxsize=8)
def _mapped_ids(init_pid: int) -> int:
    """How many ids the sandbox's user namespace has, counted from 0."""
    with open(f"/proc/{init_pid}/uid_map") as file:
        return max(int(inside) + int(count) for inside, _, count in map(str.split, file))


def _host_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""
