"""Looking for a pattern in a container's lines, at the cost of nobody else, however the pattern is made.

A pattern without repeats and choices is matched here, in a time that grows with the line; any other one by a process of
its own in the sandbox (`supervisor/sandbox/matcher.py`), which lives until the pattern is found and may take SECONDS.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import trio

from supervisor.errors import SupervisorError
from supervisor.sandbox.matcher import CONTROL, PACKET_BYTES
from supervisor.sandbox.process import Process
from supervisor.sandbox.sandbox import Sandbox, python_argv

LINE_BYTES = 4096  # of a line are looked at
SECONDS = 10  # for one packet of lines, 64 KiB at most
BEHIND_BYTES = 16 << 20  # that may wait to be looked at

_COSTLY = re.compile(r"[*+?{|]|\\[1-9]")


class LineSearch:
    """`found` is called once, when a line of either stream has the pattern; `failed` when that can't be told."""

    def __init__(
        self, pattern: re.Pattern[str], found: Callable[[], None], failed: Callable[[str], None]
    ) -> None:
        self._pattern, self._found, self._failed = pattern, found, failed
        self._rest: dict[str, bytes] = {}
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._more = trio.Event()
        self._done = False

    @property
    def needs_process(self) -> bool:
        """Whether `run` has to, for what `feed` takes to be looked at."""
        return _COSTLY.search(self._pattern.pattern) is not None

    def feed(self, stream: str, data: bytes) -> None:
        """What the stream has brought. An unfinished line counts as well: a prompt has no newline."""
        if self._done:
            return
        *lines, rest = (self._rest.get(stream, b"") + data).split(b"\n")
        self._rest[stream] = rest[:LINE_BYTES]
        cut = [line[:LINE_BYTES] for line in (*lines, rest) if line]
        if not self.needs_process:
            if any(self._pattern.search(line.decode(errors="replace")) for line in cut):
                self._end(self._found)
            return
        if not cut:
            return
        self._waiting += cut
        self._waiting_bytes += sum(map(len, cut)) + len(cut)
        self._more.set()
        if self._waiting_bytes > BEHIND_BYTES:
            self._end(lambda: self._failed("its output comes faster than its pattern can be looked for"))

    async def run(self, sandbox: Sandbox) -> None:
        """Until it is found or has failed; its process comes with the first output. Raises: SandboxError, OSError."""
        await self._more.wait()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as control, theirs:
            argv = python_argv("supervisor.sandbox.matcher", self._pattern.pattern)
            process = await sandbox.spawn(argv, pass_fds={CONTROL: theirs.fileno()})
            theirs.close()
            try:
                while not self._done:
                    await self._more.wait()
                    await self._ask(control, process)
            finally:
                await process.kill_and_wait()

    async def _ask(self, control: trio.socket.SocketType, process: Process) -> None:
        packet = self._next_packet()
        answer = b""
        with trio.move_on_after(SECONDS) as scope:
            try:
                await control.send(packet)
                answer = await control.recv(1)
            except (BrokenPipeError, ConnectionResetError):
                pass
            if not answer:
                raise SupervisorError(f"the search for its pattern ended with status {await process.wait()}")
        if scope.cancelled_caught:
            self._end(
                lambda: self._failed(f"its pattern needs more than {SECONDS} s for what it has written")
            )
        elif answer == b"1":
            self._end(self._found)

    def _next_packet(self) -> bytes:
        """Of what waits as much as a packet holds; `_more` is set as long as there is more."""
        size = count = 0
        for line in self._waiting:
            if size + len(line) + 1 > PACKET_BYTES:
                break
            size, count = size + len(line) + 1, count + 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= size
        if not self._waiting:
            self._more = trio.Event()
        return b"\n".join(taken)

    def _end(self, tell: Callable[[], None]) -> None:
        if not self._done:
            self._done = True
            self._waiting, self._waiting_bytes = [], 0
            self._rest.clear()
            tell()
