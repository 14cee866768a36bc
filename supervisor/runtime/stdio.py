"""Descriptors of a container's process, and the terminal that the runtime makes for it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from dataclasses import dataclass

import trio

from supervisor.errors import RuntimeFailed
from supervisor.groups import bare_errors
from supervisor.sandbox.descriptors import ANCILLARY_BYTES, take_descriptors
from supervisor.sandbox.process import Process


@dataclass(frozen=True)
class Stdio:
    """What becomes 0, 1, 2 of the process (None: /dev/null), or a terminal of its own with `tty`.

    The descriptors stay the giver's to close; the process has copies from its start on.
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    tty: bool = False
    rows: int = 0
    columns: int = 0


async def receive_terminal(listener: socket.socket, runner: Process) -> int | None:
    """The pty master that the runtime sends over its console socket; None if it ended without sending one.

    The caller closes it. Raises: RuntimeFailed if it sends something else, OSError (EMFILE).
    """
    server = trio.socket.from_stdlib_socket(listener.dup())
    master: int | None = None

    async def give_up() -> None:
        await runner.wait()
        with trio.move_on_after(0.2):  # it may have sent it just before its end
            await received.wait()
        nursery.cancel_scope.cancel()

    received = trio.Event()
    with server, bare_errors():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            connection, _ = await server.accept()
            with connection:
                _, ancillary, flags, _ = await connection.recvmsg(
                    4096, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
                descriptors = take_descriptors(ancillary, flags)
                if len(descriptors) != 1:
                    raise RuntimeFailed("the OCI runtime sent no terminal over its console socket")
                master = descriptors[0]
            received.set()
            nursery.cancel_scope.cancel()
    return master


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Give a terminal its window size; the foreground process group gets SIGWINCH."""
    if rows > 0 and columns > 0:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def dev_null() -> int:
    """/dev/null, both ways. The caller closes it."""
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
