"""What files of a layer may carry, for both runs of the extractor (`unpack.py`, `finish.py`). Standard library only."""

from __future__ import annotations

import errno
import os

OPAQUE_XATTR = "user.overlay.opaque"  # overlays are mounted with `userxattr`, rootless or not
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_XATTRS = (errno.EPERM, errno.ENOTSUP)  # links and devices can't have any; some file systems have none


class LayerError(Exception):
    """The layer is broken, hostile, or can't be represented here."""


def is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, OPAQUE_XATTR) == b"y"
    except OSError:
        return False


def set_xattrs(file: str | int, xattrs: dict[str, bytes]) -> None:
    """`security.capability` and `user.*`; not `user.overlay.*`: a layer must not speak overlayfs's language."""
    for name, value in xattrs.items():
        if name == "security.capability":
            if (
                len(value) == 24 and value[3] == 3
            ):  # with the root id of another namespace (VFS_CAP_REVISION_3)
                value = value[:3] + b"\x02" + value[4:20]
        elif not name.startswith("user.") or name.startswith("user.overlay."):
            continue
        try:
            if isinstance(file, int):
                os.setxattr(file, name, value)
            else:
                os.setxattr(file, name, value, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NO_XATTRS:
                raise


def write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        data = data[written:]
        written = os.write(descriptor, data)
