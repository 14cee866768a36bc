"""The terminal that a runtime sends over its console socket, and what else may come."""

from __future__ import annotations

import os
import pty
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from supervisor.errors import RuntimeFailed
from supervisor.runtime.stdio import receive_terminal
from supervisor.sandbox.process import Process
from supervisor.sandbox.sandbox import Sandbox

RUNNER = Process(cast(Sandbox, None), 7)  # it never ends


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "tty"))
        made.listen(1)
        yield made


async def test_the_terminal_comes(listener: socket.socket) -> None:
    master, slave = pty.openpty()
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.connect(listener.getsockname())
        socket.send_fds(runtime, [b"terminal"], [master])
        received = await receive_terminal(listener, RUNNER)
    assert received is not None
    assert os.fstat(received).st_rdev == os.fstat(master).st_rdev
    for descriptor in (received, master, slave):
        os.close(descriptor)


async def test_what_is_no_terminal_is_told_as_the_runtimes_failure(listener: socket.socket) -> None:
    """Not as a group of errors: who embeds us has `except RuntimeFailed`."""
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.connect(listener.getsockname())
        runtime.sendall(b"nothing")
        with pytest.raises(RuntimeFailed, match="sent no terminal"):
            await receive_terminal(listener, RUNNER)
