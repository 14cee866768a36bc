"""The OCI runtime configuration, as far as ctnr sets it (OCI runtime-spec 1.0.2, config.md and config-linux.md)."""

from __future__ import annotations

import msgspec

OCI_VERSION = "1.0.2"


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Fields at their default are left out: the runtime's default is the same, and the file stays small."""


class User(_Object, omit_defaults=False):
    uid: int
    gid: int
    umask: int = 0o022
    additional_gids: tuple[int, ...] = ()


class Capabilities(_Object, omit_defaults=False):
    """Every set is written out: an absent one means "what the runtime has" to crun."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(_Object):
    type: str  # RLIMIT_NOFILE, …
    soft: int
    hard: int


class ConsoleSize(_Object):
    height: int
    width: int


class Process(_Object):
    args: tuple[str, ...]
    cwd: str
    user: User
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None


class Root(_Object):
    path: str
    readonly: bool = False


class Mount(_Object):
    destination: str
    type: str
    source: str
    options: tuple[str, ...] = ()


class Namespace(_Object):
    type: str
    path: str | None = None


class Device(_Object):
    type: str  # c, b, p
    path: str
    major: int
    minor: int
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(_Object, omit_defaults=False):
    """One line of the devices cgroup."""

    allow: bool
    access: str
    type: str | msgspec.UnsetType = msgspec.UNSET
    major: int | msgspec.UnsetType = msgspec.UNSET
    minor: int | msgspec.UnsetType = msgspec.UNSET


class Resources(_Object):
    devices: tuple[DeviceRule, ...] = ()


class Linux(_Object):
    namespaces: tuple[Namespace, ...]
    sysctl: dict[str, str] = {}
    devices: tuple[Device, ...] = ()
    resources: Resources | None = None
    cgroups_path: str | None = None
    seccomp: msgspec.Raw | None = None  # pre-encoded: 400 syscalls are not walked at each run
    rootfs_propagation: str | None = None
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()


class Config(_Object):
    """config.json."""

    oci_version: str = msgspec.field(name="ociVersion")
    process: Process
    root: Root
    mounts: tuple[Mount, ...]
    linux: Linux
    hostname: str | None = None
    annotations: dict[str, str] = {}


_encoder = msgspec.json.Encoder()


def encode(config: Config | Process) -> bytes:
    """The bytes of config.json, or of a process file for `exec`."""
    return _encoder.encode(config)
