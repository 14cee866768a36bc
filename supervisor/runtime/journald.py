"""A container's output in the systemd journal, by its native protocol (systemd's "Native Journal Protocol")."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog
import trio

from supervisor.errors import SupervisorError

SOCKET = "/run/systemd/journal/socket"
MAX_LINE_BYTES = 16384
SEND_BUFFER_BYTES = 8 << 20
PRIORITIES = {"stdout": 6, "stderr": 3}  # as docker's and podman's drivers have it

log = structlog.get_logger()


class JournalWriter:
    """One message for each line, with `fields` such as CONTAINER_NAME. Never waits for the journal."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        """Raises: SupervisorError where there is no journal."""
        self.lost: OSError | None = None
        self.closed = False
        self.changed = trio.Event()
        self._pending = {"stdout": b"", "stderr": b""}
        self._fields = b"".join(_field(key, value.encode()) for key, value in fields.items())
        self._socket = _connect()

    def write(self, stream: str, data: bytes) -> None:
        """A line is sent when it is whole, or longer than 16 KiB."""
        lines = (self._pending[stream] + data).split(b"\n")
        last = lines.pop()
        if len(last) >= MAX_LINE_BYTES:
            lines, last = [*lines, last], b""
        self._pending[stream] = last
        for line in lines:
            for at in range(0, len(line) or 1, MAX_LINE_BYTES):
                self._send(stream, line[at : at + MAX_LINE_BYTES])

    def close(self) -> None:
        for stream, rest in self._pending.items():
            if rest:
                self._send(stream, rest)
        self._socket.close()
        self.closed = True
        self.changed.set()

    def _send(self, stream: str, line: bytes) -> None:
        message = _field("MESSAGE", line) + _field("PRIORITY", b"%d" % PRIORITIES[stream]) + self._fields
        try:
            self._socket.send(message)
        except OSError as exc:
            if self.lost is None:
                self.lost = exc
                log.warning("log_lines_lost", path=SOCKET, error=exc.strerror)


def check_journal() -> None:
    """Raises: SupervisorError where there is no journal."""
    _connect().close()


def _connect() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        made.connect(SOCKET)
    except OSError as exc:
        made.close()
        raise SupervisorError(
            f"log driver journald: there is no journal here ({SOCKET}: {os.strerror(exc.errno or 0)})",
            cure="--log-driver=k8s-file keeps the output in a file: ctnr logs shows it",
        ) from None
    return made


def _field(key: str, value: bytes) -> bytes:
    """A value with newlines is preceded by its length."""
    if b"\n" in value:
        return b"%s\n%s%s\n" % (key.encode(), len(value).to_bytes(8, "little"), value)
    return b"%s=%s\n" % (key.encode(), value)
