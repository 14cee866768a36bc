"""What an image has at the place of a new volume, copied into that: a program inside the sandbox.

Descriptor 9 is the image's directory. A container that has the volume already may put links there meanwhile, and we
write with more rights than it has: so directories are opened by their parents, nothing is followed, and what is there
stays. Standard library only.

    argv: the volume's directory
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress

from ctnr.images.attributes import NEW_FILE, set_xattrs
from ctnr.images.tarstream import printable

IMAGE = 9
CHUNK_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def main() -> None:
    os.umask(0)
    filler = Filler(os.open(sys.argv[1], _DIRECTORY))
    try:
        filler.fill()
    except OSError as exc:
        sys.exit(f"{printable(filler.current)}: {exc.strerror}")


class Filler:
    """`volume` is a descriptor, `current` what is being copied, a path in it."""

    def __init__(self, volume: int) -> None:
        self.current = "."
        self._volume = volume
        self._links: dict[
            tuple[int, int], str
        ] = {}  # files with several names, by device and inode: the first of them

    def fill(self) -> None:
        """Raises: OSError."""
        self._directory(IMAGE, self._volume, ".")

    def _directory(self, source: int, target: int, path: str) -> None:
        for name in sorted(os.listdir(source)):
            self.current = f"{path}/{name}"
            self._entry(source, target, name, self.current)
        self.current = path
        _attributes(source, target)  # last: what is made in it changes its time

    def _entry(self, source: int, target: int, name: str, path: str) -> None:
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            self._below(source, target, name, path)
            return
        first = self._links.get((info.st_dev, info.st_ino))
        try:
            if first is not None:
                self._link(first, target, name)
            elif stat.S_ISREG(info.st_mode):
                self._file(source, target, name)
            elif not stat.S_ISSOCK(info.st_mode):
                _other(source, target, name, info)
        except FileExistsError:
            return
        if info.st_nlink > 1:
            self._links.setdefault((info.st_dev, info.st_ino), path)

    def _below(self, source: int, target: int, name: str, path: str) -> None:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=target)
        inner = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            made = os.open(name, _DIRECTORY, dir_fd=target)
        except OSError as exc:
            os.close(inner)
            if exc.errno not in (
                errno.ENOTDIR,
                errno.ELOOP,
            ):  # else it is a link, or another thing of somebody's
                raise
            return
        self._directory(inner, made, path)
        os.close(made)
        os.close(inner)

    def _file(self, source: int, target: int, name: str) -> None:
        made = os.open(name, NEW_FILE, 0o600, dir_fd=target)
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        while os.sendfile(made, opened, None, CHUNK_BYTES):
            pass
        _attributes(opened, made)
        os.close(opened)
        os.close(made)

    def _link(self, first: str, target: int, name: str) -> None:
        from supervisor.sandbox.syscalls import open_in_root  # few have hard links: ctypes costs 10 ms

        above, last = os.path.split(first)
        beside = open_in_root(self._volume, above, os.O_PATH | os.O_DIRECTORY)
        os.link(last, name, src_dir_fd=beside, dst_dir_fd=target, follow_symlinks=False)
        os.close(beside)


def _other(source: int, target: int, name: str, info: os.stat_result) -> None:
    """A symbolic link, a FIFO, a device."""
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
    os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _attributes(source: int, target: int) -> None:
    """Owner before mode before capabilities, for chown(2) clears set-uid bits and capabilities."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    set_xattrs(target, {name: os.getxattr(source, name) for name in os.listxattr(source)})
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


if __name__ == "__main__":
    main()
