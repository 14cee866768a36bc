"""Output kept in memory files: nobody has to read a pipe, and a grandchild that keeps it open can't hold us up."""

from __future__ import annotations

import fcntl
import os

CAPTURE_BYTES = 1 << 20


def open_capture(limit: int = CAPTURE_BYTES) -> int:
    """A memory file that takes at most `limit` bytes; a writer that wants more gets EPERM. The caller closes it."""
    descriptor = os.memfd_create("capture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, limit)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return descriptor


def read_capture(descriptor: int) -> bytes:
    """What was written: the file's offset, which all its holders share, is the end of it."""
    return os.pread(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR), 0)


def open_input(content: bytes) -> int:
    """A memory file to be read from its start. The caller closes it."""
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
