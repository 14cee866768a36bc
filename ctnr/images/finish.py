"""The extractor's second run: what a layer takes from the layers below it. Standard library only, as `unpack.py`."""

from __future__ import annotations

import json
import os
import stat

from ctnr.images.attributes import NEW_FILE, LayerError, is_opaque, set_xattrs
from ctnr.images.tarstream import printable

CHUNK_BYTES = 1 << 20


class Finisher:
    """The second run: copies from the lower layers (descriptors, topmost first) what the first wrote down."""

    def __init__(self, pending: int, lower: list[int]) -> None:
        with open(pending, "rb") as file:
            told = json.loads(file.read())
        self._links: list[tuple[str, str]] = [(path, target) for path, target in told["links"]]
        self._directories: list[str] = told["directories"]
        self._lower = lower
        self.current = ""

    def finish(self) -> None:
        made: dict[str, str] = {}
        for path, target in self._links:
            self.current = path
            parent = os.stat(os.path.dirname(path) or ".")
            if target in made or os.path.lexists(target):
                os.link(made.get(target, target), path, follow_symlinks=False)
            else:
                found = self._find(target)
                if found is None or not stat.S_ISREG(os.fstat(found).st_mode):
                    raise LayerError(
                        f"{printable(path)}: a hard link to {printable(target)}, which is not there"
                    )
                with open(found, "rb") as source:
                    self._copy(source.fileno(), path)
                made[target] = path
            os.utime(os.path.dirname(path) or ".", ns=(parent.st_atime_ns, parent.st_mtime_ns))
        for path in sorted(self._directories, key=len, reverse=True):
            self.current = path
            found = self._find(path)
            if found is None:
                continue
            try:
                info = os.fstat(found)
                if stat.S_ISDIR(info.st_mode) and stat.S_ISDIR(os.lstat(path).st_mode):
                    os.lchown(path, info.st_uid, info.st_gid)
                    os.chmod(path, stat.S_IMODE(info.st_mode))
                    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
            except FileNotFoundError:
                pass
            finally:
                os.close(found)

    def _copy(self, source: int, path: str) -> None:
        info = os.fstat(source)
        descriptor = os.open(path, NEW_FILE, 0o600)
        try:
            while os.sendfile(descriptor, source, None, CHUNK_BYTES):
                pass
            os.fchown(descriptor, info.st_uid, info.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(info.st_mode))
            set_xattrs(descriptor, {name: os.getxattr(source, name) for name in os.listxattr(source)})
            os.utime(descriptor, ns=(info.st_atime_ns, info.st_mtime_ns))
        finally:
            os.close(descriptor)

    def _find(self, path: str) -> int | None:
        """Open what the lower layers show at `path`, as overlayfs would: whiteouts and opaque directories count.

        No link is followed. None if nothing is there.
        """
        parts = path.split("/")
        for layer in self._lower:
            at, is_hidden = os.dup(layer), False
            try:
                for number, part in enumerate(parts):
                    is_last = number == len(parts) - 1
                    try:
                        info = os.lstat(part, dir_fd=at)
                    except (FileNotFoundError, NotADirectoryError):
                        break
                    if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                        return None
                    if not is_last and not stat.S_ISDIR(info.st_mode):
                        return None
                    if not (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)):
                        return None
                    below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                    if is_last:
                        return below
                    os.close(at)
                    at = below
                    is_hidden = is_hidden or is_opaque(at)
                if is_hidden:
                    return None
            finally:
                os.close(at)
        return None
