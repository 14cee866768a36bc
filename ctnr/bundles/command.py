"""Whether a container's command and working directory are there, told before the runtime is asked.

crun would also write its complaint into the program's stderr. What a link in a volume leads to, and what lies in file
systems that the runtime makes, is left to the runtime to tell.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from enum import Enum, auto

import trio

from ctnr.bundles import defaults
from ctnr.bundles.errors import BundleError
from ctnr.bundles.spec import Mount
from supervisor.errors import CommandNotExecutable, CommandNotFound
from supervisor.sandbox.sandbox import Sandbox


class Seen(Enum):
    """What lies at a place that something is mounted over."""

    MISSING = auto()
    DIRECTORY = auto()
    PROGRAM = auto()
    OTHER = auto()
    UNKNOWN = auto()


async def check_command(
    sandbox: Sandbox,
    rootfs: str,
    command: str,
    cwd: str,
    env: Sequence[str],
    mounts: Sequence[Mount],
) -> None:
    """Raises: CommandNotFound, CommandNotExecutable."""
    if "/" in command:
        paths = [os.path.normpath(os.path.join("/", cwd, command))]
    else:
        path = next((one[5:] for one in reversed(env) if one.startswith("PATH=")), defaults.PATH)
        paths = [os.path.normpath(os.path.join("/", cwd, part, command)) for part in path.split(":")]
    in_image, is_there = [], False
    for one in paths:
        mount = covering(one, mounts)
        if mount is None:
            in_image.append(one)
            continue
        seen = await look(mount, one)
        if seen in (Seen.PROGRAM, Seen.UNKNOWN):
            return
        is_there = is_there or seen is not Seen.MISSING
    if in_image:
        found, unusable = await sandbox.find_executable(rootfs, in_image)
        if found is not None:
            return
        for one in in_image if mounts else ():
            if await leads_into(sandbox, rootfs, one, mounts):
                return
        is_there = is_there or bool(unusable)
    if is_there:
        raise CommandNotExecutable(
            f"{command}: can't be executed in the container",
            cure="chmod +x it, or name a program",
        )
    raise CommandNotFound(
        f"{command}: not found in the container", cure="check its name, and PATH in the image"
    )


async def make_workdir(sandbox: Sandbox, rootfs: str, workdir: str, mounts: Sequence[Mount]) -> None:
    """As runtimes do it, in the image; in a volume the runtime does. Raises: BundleError if it can't be made."""
    try:
        await sandbox.make_dirs_in_root(rootfs, workdir)
    except NotADirectoryError:
        raise _no_workdir(workdir, "not a directory in the image") from None
    place = os.path.normpath(os.path.join("/", workdir))
    mount = covering(place, mounts)
    if mount is None:
        return
    seen = await look(mount, place)
    if seen in (Seen.PROGRAM, Seen.OTHER):
        raise _no_workdir(workdir, "not a directory in the volume")
    if seen is Seen.MISSING and "ro" in mount.options:
        raise _no_workdir(workdir, "not there in the volume, which is read-only")


async def check_workdir(sandbox: Sandbox, rootfs: str, workdir: str, mounts: Sequence[Mount]) -> None:
    """Of a container that runs. Raises: BundleError."""
    place = os.path.normpath(os.path.join("/", workdir))
    missing, other = "not there in the container", "not a directory in the container"
    mount = covering(place, mounts)
    if mount is not None:
        seen = await look(mount, place)
        if seen not in (Seen.DIRECTORY, Seen.UNKNOWN):
            raise _no_workdir(workdir, missing if seen is Seen.MISSING else other)
        return
    try:
        found = await sandbox.open_in_root(rootfs, workdir, os.O_PATH | os.O_DIRECTORY)
    except NotADirectoryError:
        raise _no_workdir(workdir, other) from None
    if found is not None:
        os.close(found)
    elif not await leads_into(sandbox, rootfs, place, mounts):
        raise _no_workdir(workdir, missing)


def covering(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that tells what is at `path`: the deepest one there or above it."""
    above = [
        mount
        for mount in mounts
        if path == mount.destination or path.startswith(f"{mount.destination.rstrip('/')}/")
    ]
    return max(above, key=lambda mount: len(mount.destination), default=None)


async def leads_into(sandbox: Sandbox, rootfs: str, path: str, mounts: Sequence[Mount]) -> bool:
    """Whether a link in the image (/bin → usr/bin) leads `path` below a mount, so that only the runtime can tell."""
    root = await _real_path(sandbox, rootfs, "/")
    above, rest = path, ""
    while above != "/":
        above, _, name = above.rpartition("/")
        above, rest = above or "/", f"/{name}{rest}"
        found = await _real_path(sandbox, rootfs, above)
        if found is not None:
            real = found.removeprefix(root or "").rstrip("/") + rest
            return real != path and covering(real, mounts) is not None
    return False


async def _real_path(sandbox: Sandbox, rootfs: str, directory: str) -> str | None:
    """Where `directory` in the root filesystem lies in the sandbox; None if it is none."""
    try:
        found = await sandbox.open_in_root(rootfs, directory, os.O_PATH | os.O_DIRECTORY)
    except NotADirectoryError:
        return None
    if found is None:
        return None
    try:
        return os.readlink(f"/proc/self/fd/{found}")
    finally:
        os.close(found)


async def look(mount: Mount, path: str) -> Seen:
    """What `mount` has at `path`. In a thread: a volume may be a network's file system, and hang."""
    if mount.type != "bind" or not mount.source:
        return Seen.UNKNOWN
    names = [name for name in path.removeprefix(mount.destination).split("/") if name]
    return await trio.to_thread.run_sync(_look, mount.source, names, abandon_on_cancel=True)


def _look(source: str, names: Sequence[str]) -> Seen:
    try:
        mode = os.stat(source).st_mode
        for name in names:
            source = f"{source}/{name}"
            mode = os.lstat(source).st_mode
            if stat.S_ISLNK(mode):
                return Seen.UNKNOWN
    except (FileNotFoundError, NotADirectoryError):
        return Seen.MISSING
    except OSError:
        return Seen.UNKNOWN
    if stat.S_ISDIR(mode):
        return Seen.DIRECTORY
    return Seen.PROGRAM if stat.S_ISREG(mode) and mode & 0o111 else Seen.OTHER


def _no_workdir(workdir: str, why: str) -> BundleError:
    return BundleError(f"working directory {workdir}: {why}", cure="choose another with -w")
