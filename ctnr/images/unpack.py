"""The extractor: one uncompressed layer from stdin into a directory, as a program inside the sandbox.

It changes its root to that directory before it reads the first byte, so no name, link or device in a hostile layer can
reach anything else. Standard library only. Rules: OCI image-spec 1.1, layer.md ("Whiteouts", "Representing Changes").

A layer may refer to what lies below it: hard links to files of lower layers, and files whose directories only a lower
layer describes. Layers are unpacked side by side, so the first run writes such references down, and a second run
(`finish.py`), once the lower layers are there, copies what is meant.

    argv: one JSON object, `Job`
    stdout: JSON {"entries": N, "bytes": N, "skipped": N, "pending": BOOL} or {"error": TEXT, "errno": N | null}
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import stat
import sys
from typing import Any

from ctnr.images.attributes import NEW_FILE, OPAQUE_XATTR, LayerError, set_xattrs, write_all
from ctnr.images.finish import Finisher
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

MAX_ENTRIES = 1_000_000
MAX_BYTES = 256 << 30
MAX_MEMORY_BYTES = 1 << 30
MAX_PENDING = 100_000
NODES = 1000  # skipped device nodes that are told of
CHUNK_BYTES = 1 << 20
NO_ID = (1 << 32) - 1  # chown(2) reads it as "leave it as it is"

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


def main() -> None:
    job: dict[str, Any] = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    os.umask(0)
    current: Extractor | Finisher | None = None
    try:
        pending = os.open(job["pending"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        lower = [os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in job["lower"]]
        os.chdir(job["directory"])
        os.chroot(
            "."
        )  # everything is imported, and every descriptor open: from here the layer is all there is
        if job["finish"]:
            current = Finisher(pending, lower)
            current.finish()
            told: dict[str, object] = {}
        else:
            current = Extractor(rootless=job["rootless"])
            current.extract(pending, is_lowest=job["lowest"])
            told = {
                "entries": current.entries, "bytes": current.bytes, "skipped": current.skipped,
                "pending": current.is_pending, "nodes": current.nodes,
            }  # fmt: skip
    except (LayerError, BadTar) as exc:
        told = {"error": str(exc)}
    except MemoryError:
        told = {"error": "it needs more memory than a layer may"}
    except OSError as exc:
        told = {
            "error": f"{printable(current.current) if current else ''}: {exc.strerror}",
            "errno": exc.errno,
        }
    except RecursionError:
        told = {"error": f"{printable(current.current) if current else ''}: too deep"}
    except (ValueError, OverflowError) as exc:
        told = {"error": f"it is broken: {exc}"}
    print(json.dumps(told))  # noqa: T201 -- this is a program


class Extractor:
    """One layer; paths are relative to the root, which is the layer's directory."""

    def __init__(self, *, rootless: bool) -> None:
        self._rootless = rootless
        self._directories: dict[str, Entry | None] = {}  # None: no entry of its own so far
        self._whiteouts: set[str] = set()
        self._links: list[tuple[str, str]] = []
        self.entries = self.bytes = self.skipped = 0
        self.nodes: list[tuple[str, int, int, int, int]] = []  # skipped ones: path, mode, rdev, uid, gid
        self.is_pending = False
        self.current = ""
        self._make = {
            DIRECTORY: self._directory, REGULAR: self._regular, SYMLINK: self._symlink, HARD_LINK: self._hard_link,
            FIFO: self._fifo, CHARACTER: self._device, BLOCK_DEVICE: self._device,
        }  # fmt: skip

    def extract(self, pending: int, *, is_lowest: bool) -> None:
        """Unpack stdin; what needs the lower layers (if there are any) is written to `pending` as JSON."""
        self._tar = tar = TarStream(open(0, "rb", buffering=CHUNK_BYTES, closefd=False))  # noqa: SIM115 -- stdin
        while (entry := tar.next()) is not None:
            self.entries += 1
            self.bytes += entry.size
            if self.entries > MAX_ENTRIES or self.bytes > MAX_BYTES:
                raise LayerError(
                    f"larger than a layer may be ({MAX_ENTRIES} entries, {MAX_BYTES >> 30} GiB)"
                )
            self.current = path = entry.path
            parent, _, name = path.rpartition("/")
            if name.startswith(WHITEOUT):
                self._whiteout(parent, name)
            elif path.startswith(".wh..wh."):
                pass  # aufs's own bookkeeping
            elif path:
                self._make[entry.kind](entry)
            elif entry.kind == DIRECTORY:
                self._directories[""] = entry
        links = [(path, target) for path, target in self._links if not self._link_late(path, target)]
        self._finish_directories()
        implied = [path for path, entry in self._directories.items() if path and entry is None]
        if links and is_lowest:
            path, target = links[0]
            raise LayerError(f"{printable(path)}: a hard link to {printable(target)}, which is not there")
        if (links or implied) and not is_lowest:
            self.is_pending = True
            write_all(pending, json.dumps({"links": links, "directories": implied}).encode())

    # Kinds of entries. Each tries the common case first and looks at what is in the way only when that fails.

    def _directory(self, entry: Entry) -> None:
        path = entry.path
        if path not in self._directories:
            self._create(path, lambda: os.mkdir(path, 0o700), keep_directory=True)
            if path in self._whiteouts:
                os.setxattr(path, OPAQUE_XATTR, b"y")
        self._directories[path] = entry  # its attributes come last: writing into it would change its time

    def _regular(self, entry: Entry) -> None:
        path, mode, left = entry.path, entry.mode, entry.size
        try:
            descriptor = os.open(path, NEW_FILE, mode)
        except OSError:
            opened: list[int] = []
            self._create(path, lambda: opened.append(os.open(path, NEW_FILE, mode)))
            descriptor = opened[0]
        try:
            while left:
                data = self._tar.read(min(left, CHUNK_BYTES))
                left -= len(data)
                write_all(descriptor, data)
            if entry.uid or entry.gid:
                self._own(descriptor, entry)
                os.fchmod(descriptor, mode)
            elif mode & 0o7000:
                os.fchmod(descriptor, mode)  # writing may have cleared them
            if entry.xattrs:
                set_xattrs(descriptor, entry.xattrs)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _symlink(self, entry: Entry) -> None:
        path = entry.path
        if not entry.link:
            raise LayerError(f"{printable(path)}: a symbolic link to nothing")
        self._create(path, lambda: os.symlink(entry.link, path))
        self._attributes(entry)

    def _hard_link(self, entry: Entry) -> None:
        path, target = entry.path, clean(entry.link)
        if target == path or not target:
            raise LayerError(f"{printable(path)}: a hard link to itself or to nothing")
        self._create(path, lambda: self._link(target, path))

    def _link(self, target: str, path: str) -> None:
        if target in self._whiteouts:
            raise LayerError(
                f"{printable(path)}: a hard link to {printable(target)}, which the layer takes away"
            )
        try:
            os.link(target, path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.isdir(os.path.dirname(path) or "."):
                raise  # the link's own directory is not there yet
            if len(self._links) >= MAX_PENDING:
                raise LayerError(f"more than {MAX_PENDING} hard links to files that are not in it") from None
            self._links.append((path, target))
        except PermissionError:
            raise LayerError(
                f"{printable(path)}: a hard link to the directory {printable(target)}"
            ) from None

    def _link_late(self, path: str, target: str) -> bool:
        """True if the target has come after its link, or if something else has taken the link's place."""
        self.current = path
        if os.path.lexists(path):
            return True
        try:
            os.link(target, path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _fifo(self, entry: Entry) -> None:
        path = entry.path
        self._create(path, lambda: os.mkfifo(path, 0o600))
        self._attributes(entry)

    def _device(self, entry: Entry) -> None:
        # rootless there are no device nodes, and 0:0 would be a whiteout
        path, kind = entry.path, stat.S_IFCHR if entry.kind == CHARACTER else stat.S_IFBLK
        if self._rootless or entry.device == (0, 0):
            self.skipped += 1
            if entry.device != (0, 0) and len(self.nodes) < NODES:
                said = (kind | entry.mode & 0o7777, os.makedev(*entry.device), entry.uid, entry.gid)
                self.nodes.append((path, *said))
            return
        self._create(path, lambda: os.mknod(path, kind | 0o600, os.makedev(*entry.device)))
        self._attributes(entry)

    def _whiteout(self, parent: str, name: str) -> None:
        if name == OPAQUE:
            self._make_parents(f"{parent}/x" if parent else "x")
            os.setxattr(parent or ".", OPAQUE_XATTR, b"y")
            return
        if name.startswith(".wh..wh."):
            return  # aufs's own bookkeeping
        name = name[len(WHITEOUT) :]
        if name in ("", ".", ".."):
            raise LayerError(f"{printable(self.current)}: a whiteout of nothing")
        path = f"{parent}/{name}" if parent else name
        self._make_parents(path)
        try:
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
        except (
            FileExistsError
        ):  # this layer's own entry stays, whichever came first; nothing may shine through it
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.setxattr(path, OPAQUE_XATTR, b"y")
            return
        self._whiteouts.add(path)

    # What stands in the way

    def _create(self, path: str, make: Any, *, keep_directory: bool = False) -> None:
        """Call `make`; where something is in the way remove it and call again, where a parent is missing make that."""
        for _ in range(3):
            try:
                make()
            except FileExistsError:
                if self._clear(path, keep_directory=keep_directory):
                    return
            except (FileNotFoundError, NotADirectoryError):
                self._make_parents(path)
            else:
                if self._whiteouts and not keep_directory:
                    self._whiteouts.discard(path)  # it was a whiteout until now, and its file replaces it
                return
        raise LayerError(f"{printable(path)}: can't be made in the place of what stands there")

    def _clear(self, path: str, *, keep_directory: bool) -> bool:
        """Remove what stands at `path`, whatever it is, never following it; True if it is a directory that may stay."""
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
        elif keep_directory:
            return True
        else:
            shutil.rmtree(path)
            below = f"{path}/"
            for known in [one for one in self._directories if one == path or one.startswith(below)]:
                del self._directories[known]
        self._whiteouts.add(path)  # a directory that comes here next must not show the lower one's files
        return False

    def _make_parents(self, path: str) -> None:
        position = 0
        while (position := path.find("/", position) + 1) > 0:
            parent = path[: position - 1]
            if parent in self._directories:
                continue
            try:
                os.mkdir(parent, 0o755)
            except FileExistsError:
                mode = os.lstat(parent).st_mode
                if stat.S_ISCHR(mode) and parent in self._whiteouts:
                    os.unlink(parent)
                    os.mkdir(parent, 0o755)
                elif os.path.isdir(parent):
                    continue  # a link to a directory; it stays inside, this root has no outside
                else:
                    raise LayerError(f"{printable(path)}: {printable(parent)} is not a directory") from None
            if parent in self._whiteouts:
                os.setxattr(parent, OPAQUE_XATTR, b"y")
            self._directories[parent] = None

    # Attributes: owner before mode before capabilities, for chown(2) clears set-uid bits and capabilities

    def _finish_directories(self) -> None:
        for path, entry in reversed(self._directories.items()):
            if entry is not None:
                self.current = path
                entry.path = path or "."
                with contextlib.suppress(FileNotFoundError):  # reached through a link that has gone since
                    self._attributes(entry)

    def _attributes(self, entry: Entry) -> None:
        path = entry.path
        if entry.uid or entry.gid:
            self._own(path, entry)
        if entry.kind != SYMLINK:
            os.chmod(path, entry.mode)
        if entry.xattrs:
            set_xattrs(path, entry.xattrs)
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _own(self, file: str | int, entry: Entry) -> None:
        try:
            if max(entry.uid, entry.gid) >= NO_ID:
                raise OSError(errno.EINVAL, "not an id")
            if isinstance(file, int):
                os.fchown(file, entry.uid, entry.gid)
            else:
                os.lchown(file, entry.uid, entry.gid)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            raise LayerError(
                f"{printable(self.current)}: belongs to {entry.uid}:{entry.gid}, which is outside of the range of "
                "subordinate ids"
            ) from None


if __name__ == "__main__":
    main()
