"""Whether a container's command can be executed and its working directory is there, told before the runtime is asked.

The runtime would write its complaint into the program's stderr, and call a container started whose command the kernel
refuses. What a link in a volume leads to, and what lies in file systems that the runtime makes, is left to it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import trio

from ctnr.bundles import defaults
from ctnr.bundles.errors import BundleError
from ctnr.bundles.spec import Mount
from supervisor.errors import CommandNotExecutable, CommandNotFound
from supervisor.sandbox.executable import HEAD_BYTES
from supervisor.sandbox.sandbox import Executable, Ids, Sandbox


class Seen(Enum):
    """What lies at a place that something is mounted over."""

    MISSING = auto()
    DIRECTORY = auto()
    PROGRAM = auto()
    OTHER = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where something is to be executed: the root filesystem, what is mounted over it, and uid, gid, groups of whom."""

    sandbox: Sandbox
    rootfs: str
    mounts: Sequence[Mount]
    ids: Ids = (0, 0, ())


async def check_command(place: Place, command: str, cwd: str, env: Sequence[str]) -> None:
    """Raises: CommandNotFound, CommandNotExecutable."""
    if "/" in command:
        paths = [os.path.normpath(os.path.join("/", cwd, command))]
    else:
        path = next((one[5:] for one in reversed(env) if one.startswith("PATH=")), defaults.PATH)
        paths = [os.path.normpath(os.path.join("/", cwd, part, command)) for part in path.split(":")]
    in_image, is_there = [], False
    for one in paths:
        mount = covering(one, place.mounts)
        if mount is None:
            in_image.append(one)
            continue
        seen = await look(mount, one)
        if seen is Seen.PROGRAM:
            await _check_in_volume(place, mount, one, command)
        if seen in (Seen.PROGRAM, Seen.UNKNOWN):
            return
        is_there = is_there or seen is not Seen.MISSING
    if in_image:
        found = await place.sandbox.find_executable(place.rootfs, in_image, place.ids)
        if found is not None and found.errno != errno.EACCES:
            await _check_found(place, found, command)
            return
        for one in in_image if place.mounts else ():
            if await leads_into(place.sandbox, place.rootfs, one, place.mounts):
                return
        if found is not None:
            await _check_found(place, found, command)
            return
    if is_there:
        raise _not_executable(command)
    raise CommandNotFound(
        f"{command}: not found in the container", cure="check its name, and PATH in the image"
    )


async def _check_in_volume(place: Place, mount: Mount, path: str, command: str) -> None:
    """Read in a thread: see `look`."""

    def read() -> tuple[int, bytes, int] | None:
        try:
            program = os.open(  # whoever has the volume may put a FIFO or a link there at any time
                f"{mount.source}{path.removeprefix(mount.destination)}",
                os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,
            )
        except OSError:  # not ours to look into
            return None
        try:
            return program, os.pread(program, HEAD_BYTES, 0), os.fstatvfs(program).f_flag
        except OSError:
            os.close(program)
            return None

    opened = await trio.to_thread.run_sync(read)
    if opened is None:
        return
    program, head, flags = opened
    try:
        if "noexec" in mount.options or flags & os.ST_NOEXEC:
            raise CommandNotExecutable(
                f"{command}: can't be executed in the container: its volume is mounted noexec",
                cure=f"mount {mount.destination} with the option exec, or start its interpreter with it as argument",
            )
        found = await place.sandbox.try_executable(place.rootfs, path, program, head, place.ids)
    finally:
        os.close(program)
    await _check_found(place, found, command)


async def _check_found(place: Place, found: Executable, command: str) -> None:
    """What the kernel has said of it in the image alone; an interpreter in a volume is for the runtime to find."""
    if not found.errno:
        return
    by = found.interpreter
    if by and (
        covering(os.path.normpath(by), place.mounts) is not None
        or (place.mounts and await leads_into(place.sandbox, place.rootfs, by, place.mounts))
    ):
        return
    if found.errno == errno.ENOENT and by:
        raise CommandNotFound(
            f"{command}: can't be executed: what executes it, {by}, is not in the container",
            cure="add it to the image, or run a program that is made for this image",
        )
    if found.errno == errno.ENOEXEC:
        raise CommandNotExecutable(
            f"{command}: exec format error: no program for {os.uname().machine}, and no script that begins with #!",
            cure=f"name its interpreter: sh {command}",
        )
    if found.errno == errno.EACCES:
        raise _not_executable(command, by)
    raise CommandNotExecutable(f"{command}: can't be executed in the container: {os.strerror(found.errno)}")


def _not_executable(command: str, by: str = "") -> CommandNotExecutable:
    why = f": permission denied for its interpreter {by}" if by else ""
    return CommandNotExecutable(
        f"{command}: can't be executed in the container{why}", cure="chmod +x it, or name a program"
    )


async def make_workdir(sandbox: Sandbox, rootfs: str, workdir: str, mounts: Sequence[Mount]) -> None:
    """As runtimes do it, in the image; in a volume the runtime does. Raises: BundleError if it can't be made."""
    try:
        await sandbox.make_dirs_in_root(rootfs, workdir)
    except NotADirectoryError:
        raise _no_workdir(workdir, "not a directory in the image") from None
    except FileExistsError:
        raise _no_workdir(workdir, "a link in the image leads nowhere") from None
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
