"""A file or a tree below a root as a tar stream on stdout: a program inside the sandbox.

The root is descriptor 9. Nothing leads out of it: its links are resolved in it, and what is met on the way is opened
without following anything, so that a container that moves things under our feet gets nowhere. Standard library only.

    argv: {"path": TEXT, "follow": BOOL}
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tarfile

from supervisor.sandbox.syscalls import open_in_root

ROOT = 9
CHUNK_BYTES = 1 << 20


def main() -> None:
    job = json.loads(sys.argv[1])
    try:
        with tarfile.open(
            fileobj=open(1, "wb", closefd=False),
            mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK_BYTES,
        ) as archive:  # fmt: skip
            Sender(archive).send(job["path"], follow=job["follow"])
    except BrokenPipeError:
        os._exit(141)
    except OSError as exc:
        sys.exit(
            f"{exc.filename or job['path']}: {exc.strerror.rpartition(': ')[2] if exc.strerror else exc}"
        )


class Sender:
    """Entries are named as docker names them: by the last part of the path, or `.` where that is the root or `/.`."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._links: dict[tuple[int, int], str] = {}

    def send(self, path: str, *, follow: bool) -> None:
        """Raises: OSError."""
        must_be_directory = path.endswith(("/", "/.")) or path in (".", "")
        name = "." if path.endswith("/.") else os.path.basename(os.path.normpath("/" + path)) or "."
        flags = os.O_PATH if follow or must_be_directory else os.O_PATH | os.O_NOFOLLOW
        top = open_in_root(ROOT, path or "/", flags | (os.O_DIRECTORY if must_be_directory else 0))
        info = os.fstat(top)
        if stat.S_ISDIR(info.st_mode):
            self._directory(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=top), name)
            return
        # not through /proc, which the sandbox may not have: by its name in its parent
        parent = open_in_root(
            ROOT, os.path.dirname(os.path.normpath("/" + path)), os.O_PATH | os.O_DIRECTORY
        )
        if follow and stat.S_ISLNK(
            os.stat(os.path.basename(path), dir_fd=parent, follow_symlinks=False).st_mode
        ):
            self._content(open_in_root(ROOT, path, os.O_RDONLY | os.O_NONBLOCK), name)
        else:
            self._entry(parent, os.path.basename(os.path.normpath(path)), name)

    def _directory(self, descriptor: int, name: str) -> None:
        try:
            self._archive.addfile(_header(os.fstat(descriptor), name, tarfile.DIRTYPE))
            for entry in sorted(os.listdir(descriptor)):
                self._entry(descriptor, entry, f"{name}/{entry}")
        finally:
            os.close(descriptor)

    def _entry(self, parent: int, entry: str, name: str) -> None:
        try:
            info = os.stat(entry, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                self._directory(os.open(entry, flags, dir_fd=parent), name)
                return
            key = (info.st_dev, info.st_ino)
            if info.st_nlink > 1 and key in self._links:
                header = _header(info, name, tarfile.LNKTYPE)
                header.linkname = self._links[key]
                self._archive.addfile(header)
                return
            self._links[key] = name
            if stat.S_ISREG(info.st_mode):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                self._content(os.open(entry, flags, dir_fd=parent), name)
            elif stat.S_ISLNK(info.st_mode):
                header = _header(info, name, tarfile.SYMTYPE)
                header.linkname = os.readlink(entry, dir_fd=parent)
                self._archive.addfile(header)
            elif stat.S_ISFIFO(info.st_mode):
                self._archive.addfile(_header(info, name, tarfile.FIFOTYPE))
            elif not stat.S_ISSOCK(info.st_mode):
                kind = tarfile.CHRTYPE if stat.S_ISCHR(info.st_mode) else tarfile.BLKTYPE
                header = _header(info, name, kind)
                header.devmajor, header.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
                self._archive.addfile(header)
        except FileNotFoundError:
            pass  # it has gone since its directory was read

    def _content(self, descriptor: int, name: str) -> None:
        """As much as its header says: files change while they are read."""
        with open(descriptor, "rb", buffering=0) as file:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                return
            header = _header(info, name, tarfile.REGTYPE)
            header.size = info.st_size
            self._archive.addfile(header, _Padded(file))  # type: ignore[arg-type]  # it has read()


class _Padded:
    """A file that ends with zeros where it has become shorter."""

    def __init__(self, file: object) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        data = self._file.read(count)  # type: ignore[attr-defined]
        while len(data) < count and (more := self._file.read(count - len(data))):  # type: ignore[attr-defined]
            data += more
        return bytes(data.ljust(count, b"\0"))


def _header(info: os.stat_result, name: str, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.mode = kind, stat.S_IMODE(info.st_mode)
    header.uid, header.gid, header.mtime = info.st_uid, info.st_gid, int(info.st_mtime)
    return header


if __name__ == "__main__":
    main()
