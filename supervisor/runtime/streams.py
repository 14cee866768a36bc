"""One container's streams: the giver's descriptors, or pipes to a log and to whoever is attached, or a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import trio

from supervisor.runtime.logs import LogOptions, open_log
from supervisor.runtime.output import Output
from supervisor.runtime.stdio import Stdio, set_size
from supervisor.sandbox.descriptors import close_all

DRAIN_SECONDS = 2  # how long output may keep coming after the end of the first process


class Streams:
    """Descriptors that a container's task owns: `terminal` (a pty's master) and `stdin`, None where there is none.

    Output, log, readers, the giver's descriptors and `stdin` are the same over all of its rounds; a terminal is new in
    each, and goes to the log from the second round on at the latest.
    """

    def __init__(
        self, stdio: Stdio, log_path: str | None, log_options: LogOptions, *, keep_stdin: bool
    ) -> None:  # fmt: skip
        self.terminal: int | None = None
        self.stdin: int | None = None
        self.output = Output(open_log(log_path, log_options) if log_path else None)
        self._stdio = stdio
        self._log_options = log_options
        self._terminal_is_ours = log_path is not None  # nobody else reads it
        self._piped = log_path is not None and not stdio.tty
        self._keep_stdin = keep_stdin
        self._kept: list[int] = []  # for the rounds to come
        self._drains: list[trio.Event] = []
        self._nursery: trio.Nursery | None = None

    @contextmanager
    def open(self, nursery: trio.Nursery) -> Iterator[Stdio]:
        """What the runtime is to be given; `nursery` reads the output as part of this round's task."""
        self._nursery = nursery
        if not self._piped:
            if not self._kept:
                self._stdio = self._keep(self._stdio)
            yield self._stdio  # the giver's descriptors, untouched: no Python in the way of the data
            return
        ends: list[int] = []
        try:
            if self._keep_stdin and self.stdin is None:
                stdin, self.stdin = os.pipe()
                self._kept.append(stdin)
            for stream in ("stdout", "stderr"):
                read_end, write_end = os.pipe()
                ends.append(write_end)
                self._start_pump(read_end, stream)
            yield Stdio(stdin=self._kept[0] if self._kept else None, stdout=ends[-2], stderr=ends[-1])
        finally:
            close_all(ends)

    def accept_terminal(self, terminal: int | None) -> None:
        """The runtime has made a terminal; it is ours from here, and gets the size that was asked for."""
        self.terminal = terminal
        if terminal is not None:
            set_size(terminal, self._stdio.rows, self._stdio.columns)
            if self._terminal_is_ours:
                self._start_pump(os.dup(terminal), "stdout")

    def take_over_terminal(self, log_path: str) -> None:
        """The terminal's output goes to a log from here: its client has detached."""
        self.output.log = open_log(log_path, self._log_options)
        self._terminal_is_ours = True
        if self.terminal is not None:
            self._start_pump(os.dup(self.terminal), "stdout")

    async def end_round(self) -> None:
        """The program has ended: what it wrote is read to the end, unless somebody else keeps writing."""
        with trio.move_on_after(DRAIN_SECONDS):
            for drained in self._drains:
                await drained.wait()
        self._drains = []
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = None

    async def close(self) -> None:
        """The last output has come."""
        await self.output.close()
        if self.stdin is not None:
            self._kept.append(self.stdin)
            self.stdin = None
        close_all(self._kept)
        self._kept = []

    def _keep(self, given: Stdio) -> Stdio:
        """The giver may close its own. A program that is started again is to have them, too."""

        def copy(descriptor: int | None) -> int | None:
            if descriptor is None:
                return None
            self._kept.append(os.dup(descriptor))
            return self._kept[-1]

        return replace(given, stdin=copy(given.stdin), stdout=copy(given.stdout), stderr=copy(given.stderr))

    def _start_pump(self, descriptor: int, stream: str) -> None:
        """Read this output (owned from here) until it ends."""
        assert self._nursery is not None
        self._nursery.start_soon(self._pump, descriptor, stream)

    async def _pump(self, descriptor: int, stream: str) -> None:
        self._drains.append(drained := trio.Event())
        try:
            await self.output.pump(descriptor, stream)
        finally:
            drained.set()
