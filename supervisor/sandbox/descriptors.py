"""Descriptors in and out of SCM_RIGHTS messages, owned from the first moment."""

from __future__ import annotations

import array
import errno
import os
import socket

MAX_DESCRIPTORS = 16
ANCILLARY_BYTES = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


def take_descriptors(ancillary: list[tuple[int, int, bytes]], flags: int) -> list[int]:
    """The descriptors of one received message (recvmsg with MSG_CMSG_CLOEXEC); the caller's from here.

    Raises: OSError if the kernel dropped some (MSG_CTRUNC); those that came are closed then.
    """
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            descriptors.extend(numbers)
    if flags & socket.MSG_CTRUNC:
        close_all(descriptors)
        raise OSError(
            errno.EMFILE, "more descriptors in a message than it may carry, or than this process may have"
        )
    return descriptors


def rights(descriptors: list[int] | tuple[int, ...]) -> list[tuple[int, int, bytes]]:
    """The ancillary data that carries `descriptors`; they stay the sender's to close."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]
