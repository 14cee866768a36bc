"""--device, and what --privileged opens. Without real root nothing can be made, so devices are bind-mounted."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence

import msgspec

from ctnr.bundles.capabilities import normal_name
from ctnr.bundles.defaults import PRIVILEGED_DEVICES
from ctnr.bundles.errors import BundleError
from ctnr.bundles.spec import Device, DeviceRule, Mount
from supervisor.cgroups.devices import DEFAULT_RULES
from supervisor.cgroups.devices import DeviceRule as Filter

_DENY_ALL = DeviceRule(allow=False, access="rwm")
_ALLOW_ALL = DeviceRule(allow=True, access="rwm")
# Not devices of the host but of one session, or made by the runtime.
_SKIPPED = (
    "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx", "/dev/hugepages", "/dev/tty",
)  # fmt: skip


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """The three places of config.json that devices go to."""

    mounts: tuple[Mount, ...] = ()
    nodes: tuple[Device, ...] = ()
    rules: tuple[DeviceRule, ...] = ()


class _Wanted(msgspec.Struct, frozen=True):
    host: str
    container: str
    access: str


def parse_device(text: str) -> _Wanted:
    """`HOST[:CONTAINER][:rwm]`. Raises: BundleError."""
    parts = text.split(":")
    access = "rwm"
    if len(parts) > 1 and parts[-1] and set(parts[-1]) <= set("rwm"):
        access = parts.pop()
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise BundleError(
            f"device {text!r}: not HOST[:CONTAINER][:rwm]",
            cure="give absolute paths: --device /dev/fuse:/dev/fuse:rw",
        )
    return _Wanted(posixpath.normpath(parts[0]), posixpath.normpath(parts[-1]), access)


def build_devices(texts: Sequence[str], *, rootless: bool, privileged: bool) -> Devices:
    """What config.json needs for these devices.

    Raises: BundleError for a device that does not exist, or is none.
    """
    wanted = {one.container: one for text in texts for one in _expand(parse_device(text), text)}
    if privileged and rootless:
        for path in PRIVILEGED_DEVICES:
            if os.path.exists(path):
                wanted.setdefault(path, _Wanted(path, path, "rwm"))
    if rootless:
        return Devices(mounts=tuple(_bind(one) for one in wanted.values()))
    nodes = {one.container: _node(one) for one in wanted.values()}
    if privileged:
        for path in _host_devices("/dev"):
            nodes.setdefault(path, _node(_Wanted(path, path, "rwm")))
        return Devices(nodes=tuple(nodes.values()), rules=(_ALLOW_ALL,))
    rules = [
        DeviceRule(
            allow=True, access=wanted[path].access, type=node.type, major=node.major, minor=node.minor
        )
        for path, node in nodes.items()
    ]
    return Devices(nodes=tuple(nodes.values()), rules=(_DENY_ALL, *rules))


def device_places(texts: Sequence[str]) -> list[str]:
    """Where in the container these devices are to be. Raises: BundleError as `build_devices`."""
    return [one.container for text in texts for one in _expand(parse_device(text), text)]


def device_filter(
    texts: Sequence[str], cap_add: Sequence[str], *, rootless: bool, privileged: bool
) -> tuple[Filter, ...]:
    """What real root's container may use, where file modes and mounts can't see to it: a device cgroup is needed then.

    That is when it may make nodes itself, or is to have a node only for reading or only for writing. Without real root
    the kernel lets nobody make nodes, and a bind mount is read-only. Raises: BundleError.
    """
    if rootless or privileged:
        return ()
    wanted = [one for text in texts for one in _expand(parse_device(text), text)]
    makes_nodes = any(normal_name(name) in ("ALL", "CAP_MKNOD") for name in cap_add)
    if not makes_nodes and all({"r", "w"} <= set(one.access) for one in wanted):
        return ()
    nodes = [(one, _node(one)) for one in wanted]
    # without a device to name, one that everybody may use anyway: an empty filter would be none
    return (
        tuple(Filter(node.type, node.major, node.minor, one.access) for one, node in nodes)
        or DEFAULT_RULES[-1:]
    )


def _expand(one: _Wanted, text: str) -> Iterator[_Wanted]:
    """The device itself, or each below a directory (--device /dev/snd)."""
    try:
        mode = os.stat(one.host).st_mode
    except OSError as error:
        raise BundleError(
            f"device {text!r}: {one.host}: {error.strerror}",
            cure=f"load the driver that makes {one.host} (modprobe), or leave out the option",
        ) from error
    if stat.S_ISDIR(mode):
        for path in _host_devices(one.host):
            yield _Wanted(path, one.container + path.removeprefix(one.host), one.access)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        yield one
    else:
        raise BundleError(
            f"device {text!r}: {one.host} is not a device", cure="use -v for files and directories"
        )


def _host_devices(directory: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.path in _SKIPPED or entry.is_symlink():
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _host_devices(entry.path)
            elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                yield entry.path


def _bind(one: _Wanted) -> Mount:
    """Raises: BundleError if it is to do less than this user may: a read-only mount does not stop writing."""
    for letter, word, mode in (("r", "reading", os.R_OK), ("w", "writing", os.W_OK)):
        if letter not in one.access and os.access(one.host, mode):
            raise BundleError(
                f"device {one.host}:{one.access}: to keep it from {word} takes a device cgroup, which is real root's",
                cure="give rw, or leave out the device",
            )
    options = ("bind", "rprivate", "nosuid", "noexec", "rw" if "w" in one.access else "ro")
    return Mount(destination=one.container, type="bind", source=one.host, options=options)


def _node(one: _Wanted) -> Device:
    found = os.stat(one.host)
    return Device(
        type="b" if stat.S_ISBLK(found.st_mode) else "c",
        path=one.container,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        file_mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )
