"""When a container is ready: its health, its own word (sd_notify), a line of its output, or a port that listens."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import trio

from supervisor.errors import SupervisorError

if TYPE_CHECKING:
    from supervisor.health import HealthCheck
    from supervisor.sandbox.sandbox import Sandbox

LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp has it
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.02, 0.5
DATAGRAM_BYTES = 4096
NOTICE_PAUSE_SECONDS = 0.002


class ReadyBy(StrEnum):
    HEALTH = "health"
    NOTIFY = "notify"
    LOG = "log"
    PORT = "port"


@dataclass(frozen=True)
class Ready:
    """How a container says that it is ready; `pattern` of log, `port` of port."""

    by: ReadyBy
    pattern: re.Pattern[str] | None = None
    port: int = 0


def parse_ready(text: str) -> Ready:
    """``health``, ``notify``, ``log:REGEX`` or ``port:N``. Raises: SupervisorError."""
    word, colon, value = text.partition(":")
    cure = "health, notify, log:REGEX or port:N"
    if word in ("health", "notify") and not colon:
        return Ready(ReadyBy(word))
    if word == "log" and value:
        try:
            return Ready(ReadyBy.LOG, pattern=re.compile(value))
        except re.error as exc:
            raise SupervisorError(f"--ready={text}: not a regular expression: {exc}") from None
    if word == "port" and value.isascii() and value.isdigit() and 0 < int(value) < 65536:
        return Ready(ReadyBy.PORT, port=int(value))
    raise SupervisorError(f"--ready={text}: not known", cure=cure)


def check_ready(ready: Ready | None, health: HealthCheck | None, *, piped: bool) -> None:
    """Whether there is something to tell it. Raises: SupervisorError."""
    if ready is None:
        return
    if ready.by is ReadyBy.HEALTH and health is None:
        raise SupervisorError("--ready=health: there is no health check", cure="--health-cmd COMMAND")
    if ready.by is ReadyBy.LOG and not piped:
        raise SupervisorError(
            "--ready=log: its output goes to its client, past the supervisor",
            cure="run it in the background: -d",
        )


async def wait_listening(sandbox: Sandbox, pid: int, port: int) -> None:
    """Until something listens on that TCP port in the network namespace of a process; nobody connects to it."""
    pause = FIRST_POLL_SECONDS
    while True:
        for family in ("tcp", "tcp6"):
            try:
                table = await sandbox.read_text(f"/proc/{pid}/net/{family}", limit=1 << 20)
            except OSError:  # without IPv6, or at its end
                continue
            if is_listening(table, port):
                return
        await trio.sleep(pause)
        pause = min(pause * 1.5, LAST_POLL_SECONDS)


def is_listening(table: str, port: int) -> bool:
    """Whether /proc/net/tcp or tcp6 (proc(5)) has a listening socket on that port."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            return True
    return False


async def hear_notices(listener: socket.socket, ready: Callable[[], None]) -> None:
    """Call `ready` at each datagram of sd_notify(3) that says READY=1, for ever. The socket stays the caller's.

    Who goes on to tell its status or its watchdog would hang if nobody read it; who tells too much is held up.
    """
    receiver = trio.socket.from_stdlib_socket(listener)
    while True:
        datagram = await receiver.recv(DATAGRAM_BYTES)
        if b"READY=1" in datagram.split(b"\n"):
            ready()
        await trio.sleep(NOTICE_PAUSE_SECONDS)
