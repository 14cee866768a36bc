"""Whether everything can be mounted where it is to be, told before the runtime is asked.

crun and runc write their complaints into the program's stderr as well, and in words that are about their own work.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

import trio

from ctnr.bundles.command import Place, Seen, covering, look
from ctnr.bundles.errors import BundleError
from ctnr.bundles.spec import Mount
from supervisor.sandbox.places import DANGLING, DIRECTORY, FILE, LOOP, MISSING, THROUGH

_ELSEWHERE = "mount it at another path"
# What runc lets be covered in /proc, for lxcfs (its checkProcMount)
_RUNC_PROC = frozenset(
    f"/proc/{name}"
    for name in ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
                 "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled")
)  # fmt: skip
_DEVICE_FILES = frozenset(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console",
                                "fd", "stdin", "stdout", "stderr")
)  # fmt: skip
_PLAIN_TMPFS = ("size=", "mode=", "nr_inodes=", "nr_blocks=", "huge=")  # of values that were checked


async def check_mount_points(place: Place, devices: Sequence[str], scratch: str, *, is_crun: bool) -> None:
    """`devices` are paths in the container of those that are asked for; `scratch` is a directory to try mounts on.

    Raises: BundleError.
    """
    in_image: list[tuple[str, str]] = []
    for mount in place.mounts:
        kind = await _kind_of(mount)
        await _check(place, mount.destination, kind, in_image, is_crun=is_crun)
        if mount.type == "tmpfs":
            await _try_tmpfs(place, mount, scratch)
    for path in devices:
        await _check(place, path, FILE, in_image, is_crun=is_crun)
    if not in_image:
        return
    there = await place.sandbox.look_in_root(place.rootfs, [path for path, _ in in_image])
    for (path, kind), found in zip(in_image, there, strict=True):
        _compare(path, kind, found, "in the image")


async def _kind_of(mount: Mount) -> str:
    """In a thread: see `look`."""
    if mount.type != "bind":
        return DIRECTORY
    try:
        status = await trio.to_thread.run_sync(os.stat, mount.source, abandon_on_cancel=True)
    except FileNotFoundError:
        raise BundleError(
            f"mount at {mount.destination}: {mount.source} is a link that leads nowhere",
            cure="make what it leads to, or mount something else",
        ) from None
    except OSError:  # for the sandbox's root to see
        return MISSING
    return DIRECTORY if stat.S_ISDIR(status.st_mode) else FILE


async def _check(
    place: Place, path: str, kind: str, in_image: list[tuple[str, str]], *, is_crun: bool
) -> None:
    if path == "/proc" or path.startswith(("/proc/", "/sys/")):
        _check_in_kernel(path, kind, is_crun=is_crun)
    elif path in _DEVICE_FILES:
        _compare(path, kind, FILE, "in every container")
    elif (over := covering(os.path.dirname(path), place.mounts)) is not None:
        await _check_in_volume(over, path, kind)
    elif not path.startswith("/dev/"):
        in_image.append((path, kind))


def _check_in_kernel(path: str, kind: str, *, is_crun: bool) -> None:
    """/proc and /sys: the same ones here, for what is not of processes."""
    if not is_crun and path.startswith("/proc") and path not in _RUNC_PROC:
        raise BundleError(f"mount at {path}: runc mounts nothing there", cure=f"{_ELSEWHERE}, or use crun")
    if path == "/proc":
        return
    if not os.path.lexists(path):
        raise BundleError(f"mount at {path}: not there, and nothing can be made in it", cure=_ELSEWHERE)
    _compare(path, kind, DIRECTORY if os.path.isdir(path) else FILE, "in every container")


async def _check_in_volume(over: Mount, path: str, kind: str) -> None:
    if over.type != "bind":  # a tmpfs, which is empty
        return
    seen = await look(over, path)
    if seen in (Seen.PROGRAM, Seen.OTHER, Seen.DIRECTORY):
        _compare(
            path, kind, DIRECTORY if seen is Seen.DIRECTORY else FILE, f"in the mount at {over.destination}"
        )
    if seen is not Seen.MISSING:
        return
    above = path
    while seen is Seen.MISSING and above != over.destination:
        above = os.path.dirname(above)
        seen = await look(over, above)
    if seen in (Seen.PROGRAM, Seen.OTHER):
        _compare(path, kind, THROUGH, f"in the mount at {over.destination}")
    if "ro" in over.options:
        raise BundleError(
            f"mount at {path}: not there in the mount at {over.destination}, which is read-only",
            cure=f"make it in {over.source}, or leave out its option ro",
        )


def _compare(path: str, kind: str, found: str, where: str) -> None:
    if found == THROUGH:
        raise BundleError(f"mount at {path}: something above it is a file {where}", cure=_ELSEWHERE)
    if found in (LOOP, DANGLING):
        raise BundleError(f"mount at {path}: a link {where} leads nowhere", cure=_ELSEWHERE)
    if {kind, found} == {DIRECTORY, FILE}:
        raise BundleError(
            f"mount at {path}: it is a {found} {where}, and what is to be mounted is "
            f"{'no directory' if kind == FILE else 'a directory'}",
            cure=_ELSEWHERE,
        )


async def _try_tmpfs(place: Place, mount: Mount, scratch: str) -> None:
    """The kernel answers all that it does not like with "Invalid argument": ids that are not mapped, NUMA nodes."""
    data = [one for one in mount.options if "=" in one]
    if all(one.startswith(_PLAIN_TMPFS) for one in data):
        return
    try:
        await place.sandbox.mount("tmpfs", scratch, "tmpfs", 0, ",".join(data))
    except OSError as exc:
        raise BundleError(
            f"tmpfs {mount.destination}: the kernel does not take {','.join(data)}: {os.strerror(exc.errno or 0)}",
            cure="give ids that the container has, and NUMA nodes that the machine has",
        ) from None
    finally:
        with trio.CancelScope(shield=True):
            await place.sandbox.unmount(scratch)
