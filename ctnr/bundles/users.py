"""Who a container's process is: USER resolved in the image's own passwd and group files, never in the host's.

Rules: OCI image-spec 1.0, config.md "User" and conversion.md; podman where these say nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Protocol

import msgspec

from ctnr.bundles.errors import BundleError

_FILE_LIMIT_BYTES = 4 << 20  # a hostile image can't make us read more
_ID_LIMIT = (1 << 31) - 1  # what crun and runc take


class OpensInRoot(Protocol):
    """What `supervisor.sandbox.Sandbox` does for us: opening below a root that no link can leave."""

    async def open_in_root(self, root: str, path: str, flags: int = ..., /) -> int | None: ...


class UserFiles(msgspec.Struct, frozen=True):
    """/etc/passwd and /etc/group of a root file system; empty where missing."""

    passwd: bytes = b""
    group: bytes = b""


class ResolvedUser(msgspec.Struct, frozen=True, kw_only=True):
    """A process's ids. `home` is passwd's, `/` for a uid that has no line there."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    home: str = "/root"


async def read_user_files(sandbox: OpensInRoot, root: str) -> UserFiles:
    """Read both files below `root` (a path in the sandbox).

    Raises: BundleError if one is no regular file, or longer than 4 MiB.
    """
    return UserFiles(await _read(sandbox, root, "/etc/passwd"), await _read(sandbox, root, "/etc/group"))


def resolve_user(files: UserFiles, user: str | None, group_add: Sequence[str] = ()) -> ResolvedUser:
    """`user` is `name`, `uid`, `name:group`, `uid:gid` or a mix; None and "" are root.

    The primary group is among the additional ones, so that a file's "not this group" holds after setgid(2) too
    (CVE-2022-2989). A user given by name without a group also gets the groups that list it as a member.
    A number need not be in the files; a name must. Raises: BundleError.
    """
    name, colon, group = (user or "0").partition(":")
    if not name or (colon and not group):
        raise BundleError(
            f"user {user!r}: empty user or group", cure="give NAME, UID, NAME:GROUP or UID:GID"
        )
    line = _find_user(files.passwd, name)
    number = _number(name)
    if line is None and number is None:
        raise BundleError(
            f"user {name!r}: not in /etc/passwd of the image",
            cure="give a name that is in it, or a number (-u UID)",
        )
    if line is not None:
        uid, gid, home = line.uid, line.gid, line.home or "/"
    else:
        assert number is not None
        uid, gid, home = number, 0, "/"
    groups: list[int] = []
    if group:
        gid = _resolve_group(files.group, group)
    elif line is not None:  # by number as well as by name: the OCI image specification, "User"
        groups = _groups_of(files.group, line.name)
    groups += [_resolve_group(files.group, added) for added in group_add]
    return ResolvedUser(uid=uid, gid=gid, additional_gids=tuple(dict.fromkeys((gid, *groups))), home=home)


def list_names(files: UserFiles) -> tuple[dict[int, str], dict[int, str]]:
    """The names of uids and of gids; of several for one id the first, as libc has it."""
    users: dict[int, str] = {}
    groups: dict[int, str] = {}
    for names, content, fields in ((users, files.passwd, 7), (groups, files.group, 4)):
        for line in _lines(content, fields):
            if (number := _number(line[2])) is not None:
                names.setdefault(number, line[0])
    return users, groups


def check_mapped(user: ResolvedUser, mapped_ids: int | None) -> None:
    """Raise BundleError for an id that the sandbox's user namespace does not have (None: it has all)."""
    if mapped_ids is None:
        return
    for number in (user.uid, user.gid, *user.additional_gids):
        if number >= mapped_ids:
            raise BundleError(
                f"id {number}: not mapped, this user has {mapped_ids} ids",
                cure="add a larger range to /etc/subuid and /etc/subgid (usermod --add-subuids, --add-subgids), "
                "then `ctnr supervisor stop`",
            )


class _UserLine(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


def _find_user(passwd: bytes, wanted: str) -> _UserLine | None:
    """The line whose name is `wanted`, else the first whose uid it is. Broken lines are skipped, as by libc."""
    number = _number(wanted)
    by_number: _UserLine | None = None
    for fields in _lines(passwd, 7):
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is None or gid is None:
            continue
        if fields[0] == wanted:
            return _UserLine(fields[0], uid, gid, fields[5])
        if number is not None and uid == number and by_number is None:
            by_number = _UserLine(fields[0], uid, gid, fields[5])
    return by_number


def _resolve_group(group: bytes, wanted: str) -> int:
    for fields in _lines(group, 4):
        gid = _number(fields[2])
        if fields[0] == wanted and gid is not None:
            return gid
    number = _number(wanted)
    if number is None:
        raise BundleError(
            f"group {wanted!r}: not in /etc/group of the image",
            cure="give a name that is in it, or a number",
        )
    return number


def _groups_of(group: bytes, user: str) -> list[int]:
    found = []
    for fields in _lines(group, 4):
        gid = _number(fields[2])
        if gid is not None and user in fields[3].split(","):
            found.append(gid)
    return found


def _lines(data: bytes, count: int) -> list[list[str]]:
    lines = [line.split(":") for line in data.decode("utf-8", "surrogateescape").split("\n")]
    return [fields for fields in lines if len(fields) >= count and fields[0]]


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    return number if (number := int(text)) <= _ID_LIMIT else None


async def _read(sandbox: OpensInRoot, root: str, path: str) -> bytes:
    # Non-blocking: a FIFO in the image must not hold us.
    descriptor = await sandbox.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor is None:
        return b""
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{path} of the image: not a regular file", cure="use another image")
        data = file.read(_FILE_LIMIT_BYTES + 1)
    if len(data) > _FILE_LIMIT_BYTES:
        raise BundleError(
            f"{path} of the image: longer than {_FILE_LIMIT_BYTES >> 20} MiB", cure="use another image"
        )
    return data
