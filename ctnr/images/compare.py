"""Two directories of one layer, as a program inside the sandbox: are they the same to whoever looks through overlayfs?

Not compared is what differs without harm: times of directories (those that no entry describes have the time they were
made) and of whiteouts, and device nodes, which a sandbox without privileges does not make. Standard library only.

    argv: the directory that is looked at, and how it should be
    stdout: JSON {"difference": "PATH: WHAT" | null}
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator

from ctnr.images.tarstream import printable

CHUNK_BYTES = 1 << 20


def main() -> None:
    first, second = (os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in sys.argv[1:3])
    try:
        difference = compare(first, second)
    except OSError as exc:
        difference = f"{printable(os.fsdecode(exc.filename or '.'))}: {exc.strerror}"
    print(json.dumps({"difference": difference}))  # noqa: T201 -- this is a program


def compare(first: int, second: int) -> str | None:
    """The first difference below two directories (descriptors); no link is followed.

    Not recursive, and by names from the top: a layer may be deeper than the stack, or than descriptors go.
    """
    links: dict[int, int] = {}  # inodes of files: first to second
    pending = ["."]
    while pending:
        path = pending.pop()
        below = []
        with _opened(path, first, second) as (one, other):
            if (what := _attributes(one, other, os.fstat(one), os.fstat(other))) is not None:
                return f"{printable(path)}: {what}"
            names, expected = _names(one), _names(other)
            for name in sorted(names ^ expected):
                why = "not there" if name in expected else "does not belong there"
                return f"{printable(_join(path, name))}: {why}"
            for name in sorted(names):
                if stat.S_ISDIR(os.lstat(name, dir_fd=one).st_mode):
                    below.append(_join(path, name))
                if (what := _entries(one, other, name, links)) is not None:
                    return f"{printable(_join(path, name))}: {what}"
        pending.extend(reversed(below))
    return None


def _entries(first: int, second: int, name: str, links: dict[int, int]) -> str | None:
    """How two entries of one name differ; what is in directories is left to later."""
    one, other = os.lstat(name, dir_fd=first), os.lstat(name, dir_fd=second)
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return "of another kind"
    if stat.S_ISREG(one.st_mode):
        with _opened(name, first, second) as (file, expected):
            return _files(file, expected, one, other, links)
    if stat.S_ISLNK(one.st_mode) and os.readlink(name, dir_fd=first) != os.readlink(name, dir_fd=second):
        return "target differs"
    return None if stat.S_ISDIR(one.st_mode) or stat.S_ISCHR(one.st_mode) else _owners(one, other)


@contextlib.contextmanager
def _opened(path: str, first: int, second: int) -> Iterator[tuple[int, int]]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    one = os.open(path, flags, dir_fd=first)
    try:
        other = os.open(path, flags, dir_fd=second)
        try:
            yield one, other
        finally:
            os.close(other)
    finally:
        os.close(one)


def _join(path: str, name: str) -> str:
    return name if path == "." else f"{path}/{name}"


def _names(directory: int) -> set[str]:
    """What is in it, but for device nodes; whiteouts count."""
    infos = {name: os.lstat(name, dir_fd=directory) for name in os.listdir(directory)}
    return {
        name
        for name, info in infos.items()
        if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)) or info.st_rdev == 0
    }


def _files(
    first: int, second: int, one: os.stat_result, other: os.stat_result, links: dict[int, int]
) -> str | None:
    if one.st_nlink != other.st_nlink or links.setdefault(one.st_ino, other.st_ino) != other.st_ino:
        return "hard links differ"
    if one.st_size != other.st_size:
        return "size differs"
    if one.st_mtime_ns != other.st_mtime_ns:
        return "time differs"
    if (what := _attributes(first, second, one, other)) is not None:
        return what
    while data := os.read(first, CHUNK_BYTES):
        if data != os.read(second, len(data)):
            return "content differs"
    return None


def _attributes(first: int, second: int, one: os.stat_result, other: os.stat_result) -> str | None:
    return _owners(one, other) or ("attributes differ" if _xattrs(first) != _xattrs(second) else None)


def _owners(one: os.stat_result, other: os.stat_result) -> str | None:
    if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid):
        return "owner differs"
    return "mode differs" if one.st_mode != other.st_mode else None


def _xattrs(descriptor: int) -> dict[str, bytes]:
    """Those that layers have; what the system adds (labels) is not of the image."""
    try:
        names = os.listxattr(descriptor)
    except OSError:
        return {}
    return {
        name: os.getxattr(descriptor, name)
        for name in names
        if name.startswith("user.") or name == "security.capability"
    }
