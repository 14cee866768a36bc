"""A process inside a sandbox: init's child, known by its pid there."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from supervisor.sandbox.sandbox import Sandbox


@dataclass(frozen=True)
class Completed:
    """How a program ended: `status` as the shell tells it, and what was captured of its output."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""

    def last_line(self) -> str:
        """The last line on stderr (or stdout), for messages to people."""
        for output in (self.stderr, self.stdout):
            lines = output.decode(errors="replace").strip().splitlines()
            if lines:
                return lines[-1].strip()
        return f"exit status {self.status}"


def shell_status(wait_status: int) -> int:
    """The status of waitpid(2) as a shell tells it: the exit code, or 128 + the signal."""
    if wait_status & 0x7F:
        return 128 + (wait_status & 0x7F)
    return (wait_status >> 8) & 0xFF


class Process:
    """Known to the sandbox from its start to its end; `status` is None as long as it runs.

    With a `mark` (see `marked`) it is killed with all that it has started, whatever became of that.
    """

    def __init__(self, sandbox: Sandbox, pid: int) -> None:
        self.pid = pid
        self.mark: int | None = None
        self.status: int | None = None
        self._sandbox = sandbox
        self._ended = trio.Event()

    def set_ended(self, wait_status: int) -> None:
        self.status = shell_status(wait_status)
        self._ended.set()

    async def wait(self) -> int:
        """Its exit status, shell style; 137 if the whole sandbox went."""
        await self._ended.wait()
        assert self.status is not None
        return self.status

    async def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to it, or with `group` to its whole process group; nothing if it has ended."""
        if self.status is None:
            await self._sandbox.call("kill", pid=self.pid, signal=int(number), group=group)

    async def kill(self) -> None:
        """SIGKILL to it, its group and what has its mark; nothing if it has ended."""
        if self.status is None and not self._sandbox.gone:
            if self.mark is not None:
                await self._sandbox.call("kill_marked", mark=self.mark)
            await self.signal(signals.SIGKILL, group=True)
            await self.signal(signals.SIGKILL)

    async def kill_and_wait(self) -> None:
        """As `kill`, shielded until it is reaped."""
        with trio.CancelScope(shield=True):
            await self.kill()
            await self._ended.wait()
