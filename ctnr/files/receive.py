"""A tar stream from stdin to a place below a root: a program inside the sandbox, with docker's rules of `cp`.

The root is descriptor 9. No name or link, in the archive or in the root, leads out of it: directories are opened with
openat2 below it, and the last part of a name is never followed. Standard library only.

    argv: {"path": TEXT, "contents": BOOL, "archive": BOOL, "keep_ids": BOOL, "on_host": BOOL}
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import stat
import sys
from collections.abc import Callable

from ctnr.images.tarstream import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    BadTar,
    Entry,
    TarStream,
    clean,
    printable,
)  # fmt: skip
from supervisor.sandbox.syscalls import open_in_root

ROOT = 9
CHUNK_BYTES = 1 << 20
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


class Refused(Exception):
    """docker's rules have no place for it."""


def main() -> None:
    job = json.loads(sys.argv[1])
    os.umask(0)
    receiver = Receiver(keep_ids=job["keep_ids"], on_host=job["on_host"])
    try:
        receiver.receive(job["path"], contents=job["contents"], archive=job["archive"])
    except (Refused, BadTar) as exc:
        sys.exit(str(exc))
    except OSError as exc:
        what = printable(receiver.current or job["path"])
        sys.exit(f"{what}: {exc.strerror.rpartition(': ')[2] if exc.strerror else exc}")


class Receiver:
    """`current` is the entry that is being made. Without `keep_ids` all belongs to whom we are: root, or the caller."""

    def __init__(self, *, keep_ids: bool, on_host: bool) -> None:
        self._keep_ids, self._on_host = keep_ids, on_host
        self._root, self._base = ROOT, ""  # entries lie at `base` below `root`
        self._rename: tuple[str, str] | None = None  # first part of the names → what it becomes
        self._finish: list[tuple[int, Entry]] = []
        self._parent: tuple[str, int] | None = None
        self.current = ""

    def receive(self, path: str, *, contents: bool, archive: bool) -> None:
        """Raises: Refused, BadTar, OSError."""
        self._tar = tar = TarStream(open(0, "rb", buffering=CHUNK_BYTES, closefd=False))  # noqa: SIM115 -- stdin
        entry = tar.next()
        if entry is None:
            if archive:
                self._choose(path, None, contents=True)  # an empty archive: nothing but a place is needed
                return
            raise Refused("nothing came")
        self._choose(path, entry, contents=contents or archive)
        while entry is not None:
            self.current = entry.path
            self._make(entry)
            entry = tar.next()
        for descriptor, made in reversed(self._finish):
            self._attributes(descriptor, made)
            os.close(descriptor)

    def _choose(self, path: str, first: Entry | None, *, contents: bool) -> None:
        """Where it goes, by what is there already."""
        kind = self._kind(path)
        is_directory = first is None or first.kind == DIRECTORY or contents
        name = "" if first is None else first.path
        if kind == "directory":
            self._place(path)
            return
        if kind == "file":
            if is_directory:
                raise Refused(f"{path}: not a directory")
        elif path.endswith("/") and not is_directory:
            raise Refused(f"{path}: no such directory")
        parent, last = os.path.split(path.rstrip("/"))
        if self._kind(parent or "/") != "directory":
            raise Refused(f"{parent or '/'}: no such directory")
        if is_directory:
            if first is None or (contents and first.path):
                raise Refused(f"{path}: no such directory")
            os.mkdir(last, 0o755, dir_fd=open_in_root(ROOT, parent or "/", _DIRECTORY))
            self._place(path)
            self._rename = (name, "")
            return
        self._place(parent or "/")
        self._rename = (name, last)

    def _kind(self, path: str) -> str:
        try:
            found = os.fstat(open_in_root(ROOT, path, os.O_PATH))
        except FileNotFoundError:
            return ""
        except NotADirectoryError:
            if path.endswith("/"):
                raise Refused(f"{path}: not a directory") from None
            raise
        return "directory" if stat.S_ISDIR(found.st_mode) else "file"

    def _place(self, path: str) -> None:
        # on the host nothing may leave the target itself, whatever a container has sent; in a container its links hold
        if self._on_host:
            self._root, self._base = open_in_root(ROOT, path, _DIRECTORY), ""
        else:
            self._base = path

    def _target(self, path: str) -> str:
        if self._rename is not None:
            old, new = self._rename
            if path == old:
                return new
            if old and path.startswith(f"{old}/"):
                path = path[len(old) + 1 :]
            return posixpath.join(new, path)
        return path

    def _make(self, entry: Entry) -> None:
        target = self._target(entry.path)
        if not target:  # the place itself
            if entry.kind == DIRECTORY and self._rename is not None:
                self._remember(open_in_root(self._root, self._base or "/", _DIRECTORY), ".", entry)
            return
        above, _, name = target.rpartition("/")
        parent = self._open_parent(above)
        if entry.kind == DIRECTORY:
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise Refused(
                        f"{printable(target)}: not a directory, and a directory would replace it"
                    ) from None
            self._remember(parent, name, entry)
        elif entry.kind == REGULAR:
            self._regular(parent, name, entry)
        elif entry.kind == SYMLINK:
            self._replace(parent, name, lambda: os.symlink(entry.link, name, dir_fd=parent))
            self._own(name, entry, parent)
        elif entry.kind == HARD_LINK:
            source_above, _, source = self._target(clean(entry.link)).rpartition("/")
            beside = open_in_root(self._root, self._inner(source_above), _DIRECTORY)
            link = lambda: os.link(source, name, src_dir_fd=beside, dst_dir_fd=parent, follow_symlinks=False)  # noqa: E731
            self._replace(parent, name, link)
            os.close(beside)
        elif entry.kind == FIFO:
            self._replace(parent, name, lambda: os.mkfifo(name, entry.mode & 0o777, dir_fd=parent))
            self._own(name, entry, parent)
        elif entry.kind in (CHARACTER, BLOCK_DEVICE) and not self._on_host:
            kind = stat.S_IFCHR if entry.kind == CHARACTER else stat.S_IFBLK
            device = os.makedev(*entry.device)
            self._replace(
                parent, name, lambda: os.mknod(name, kind | entry.mode & 0o777, device, dir_fd=parent)
            )

    def _remember(self, parent: int, name: str, entry: Entry) -> None:
        """Its attributes come last: writing into it would change its time, and its mode may forbid that."""
        self._finish.append(
            (os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent), entry)
        )
        if len(self._finish) > 500:  # descriptors are few; the time of so early a one may be wrong then
            descriptor, early = self._finish.pop(0)
            self._attributes(descriptor, early)
            os.close(descriptor)

    def _regular(self, parent: int, name: str, entry: Entry) -> None:
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        opened: list[int] = []

        def create() -> None:
            opened.append(os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent))

        try:
            self._replace(parent, name, create)
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            opened.append(os.open(name, flags | os.O_TRUNC, dir_fd=parent))  # something is mounted on it
        descriptor = opened[0]
        left = entry.size
        while left:
            data = self._tar.read(min(left, CHUNK_BYTES))
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        self._attributes(descriptor, entry)
        os.close(descriptor)

    def _replace(self, parent: int, name: str, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            try:
                os.unlink(name, dir_fd=parent)
            except IsADirectoryError:
                raise Refused(f"{printable(name)}: a directory, and a file would replace it") from None
            make()

    def _open_parent(self, path: str) -> int:
        if self._parent is not None:
            if self._parent[0] == path:
                return self._parent[1]
            os.close(self._parent[1])
            self._parent = None
        try:
            descriptor = open_in_root(self._root, self._inner(path), _DIRECTORY)
        except FileNotFoundError:
            descriptor = self._make_parents(path)
        self._parent = (path, descriptor)
        return descriptor

    def _make_parents(self, path: str) -> int:
        descriptor = open_in_root(self._root, self._inner(""), _DIRECTORY)
        done = ""
        for part in path.split("/"):
            done = posixpath.join(done, part)
            try:
                below = open_in_root(self._root, self._inner(done), _DIRECTORY)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=descriptor)
                below = open_in_root(self._root, self._inner(done), _DIRECTORY)
            os.close(descriptor)
            descriptor = below
        return descriptor

    def _inner(self, path: str) -> str:
        return f"{self._base}/{path}" if self._base else path or "."

    def _attributes(self, descriptor: int, entry: Entry) -> None:
        if self._keep_ids:
            os.fchown(descriptor, entry.uid, entry.gid)
        # on the host a set-uid file of the caller's is nothing to be made by chance
        os.fchmod(descriptor, entry.mode if self._keep_ids or not self._on_host else entry.mode & 0o777)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def _own(self, name: str, entry: Entry, parent: int) -> None:
        if self._keep_ids:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)


if __name__ == "__main__":
    main()
