"""A directory as a tar archive on stdout, as a program inside the sandbox: there files have the owners that a
container will see, and those of subordinate ids can be read. The same tree gives the same bytes. Standard library only.
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile
from collections.abc import Iterator

CHUNK_BYTES = 1 << 20


def main() -> None:
    try:
        pack(sys.argv[1])
    except OSError as exc:
        sys.exit(f"{exc.filename or sys.argv[1]}: {exc.strerror}")
    except tarfile.TarError as exc:
        sys.exit(f"{sys.argv[1]}: {exc}")


def pack(top: str) -> None:
    with (
        open(1, "wb", closefd=False) as output,
        tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK_BYTES) as archive,
    ):
        for path, name in _walk(top):
            info = os.lstat(path)
            if stat.S_ISSOCK(info.st_mode) or (stat.S_ISCHR(info.st_mode) and info.st_rdev == 0):
                continue
            member = archive.gettarinfo(path, name)
            member.uname = member.gname = ""
            member.mtime = int(member.mtime)
            headers = {}
            for attribute in _xattrs(path):
                value = os.getxattr(path, attribute, follow_symlinks=False)
                headers[f"SCHILY.xattr.{attribute}"] = value.decode("utf-8", "surrogateescape")
            member.pax_headers = headers
            if member.isreg():
                with open(path, "rb") as content:
                    archive.addfile(member, content)
            else:
                archive.addfile(member)


def _walk(top: str) -> Iterator[tuple[str, str]]:
    """Directories before what is in them, siblings in order of their names, the top as `.`."""
    yield top, "."
    pending = [""]
    while pending:
        parent = pending.pop()
        below = []
        for entry in sorted(os.listdir(os.path.join(top, parent))):
            name = os.path.join(parent, entry)
            yield os.path.join(top, name), name
            if stat.S_ISDIR(os.lstat(os.path.join(top, name)).st_mode):
                below.append(name)
        pending.extend(reversed(below))


def _xattrs(path: str) -> list[str]:
    try:
        found = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []
    wanted = (name for name in found if name == "security.capability" or name.startswith("user."))
    return sorted(name for name in wanted if not name.startswith("user.overlay."))


if __name__ == "__main__":
    main()
