"""Programs whose streams are pipes of ours: one more in a container that runs, or a container's own, captured."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from supervisor.groups import bare_errors
from supervisor.runtime.stdio import Stdio
from supervisor.runtime.streams import DRAIN_SECONDS
from supervisor.sandbox.descriptors import close_all
from supervisor.sandbox.process import Completed, Process

if TYPE_CHECKING:
    from supervisor.container import Container
    from supervisor.spec import Program


class Pipes:
    """Three pipes. `stdio` is the program's side; `stdin`, `stdout` and `stderr` are trio streams of ours."""

    def __init__(self) -> None:
        self._theirs: list[int] = []
        ours: list[int] = []
        try:
            for reads in (True, False, False):
                read_end, write_end = os.pipe()
                self._theirs.append(read_end if reads else write_end)
                ours.append(write_end if reads else read_end)
        except BaseException:
            close_all(self._theirs)
            close_all(ours)
            raise
        self.stdio = Stdio(self._theirs[0], self._theirs[1], self._theirs[2])
        self.stdin, self.stdout, self.stderr = (trio.lowlevel.FdStream(one) for one in ours)

    def give_away(self) -> None:
        """The program has its side: from here its end is the end of the streams."""
        close_all(self._theirs)

    def close(self) -> None:
        """Both sides; not `aclose`, of which a cancelled task does only the first."""
        self.give_away()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()

    async def communicate(self, stdin: bytes, wait: Callable[[], Awaitable[int]]) -> Completed:
        """Write `stdin` and read both outputs until the program that `wait` waits for has ended.

        What it has left behind may keep the pipes open: that is listened to for DRAIN_SECONDS at most.
        """
        stdout, stderr = bytearray(), bytearray()

        async def read_both() -> None:
            async with trio.open_nursery() as readers:
                readers.start_soon(_read, self.stdout, stdout)
                readers.start_soon(_read, self.stderr, stderr)
            drained.set()

        drained = trio.Event()
        with bare_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed, stdin)
                nursery.start_soon(read_both)
                status = await wait()
                with trio.move_on_after(DRAIN_SECONDS):
                    await drained.wait()
                nursery.cancel_scope.cancel()
        return Completed(status, bytes(stdout), bytes(stderr))

    async def _feed(self, data: bytes) -> None:
        async with self.stdin:
            try:
                await self.stdin.send_all(data)
            except trio.BrokenResourceError as exc:
                cause = exc.__cause__ or exc
                if not isinstance(cause, BrokenPipeError):  # it need not read all of it: head does not
                    raise cause from None


class Exec:
    """A program that runs in a container beside its first one. Made by `Container.open_exec`.

    `stdin` is a trio stream to write to (close it to say that all is said), `stdout` and `stderr` are streams to read:
    `async for chunk in process.stdout`. A stream that nobody reads holds the program up when 64 KiB are in it.
    """

    def __init__(self, process: Process, pipes: Pipes) -> None:
        self.stdin: trio.abc.SendStream = pipes.stdin
        self.stdout: trio.abc.ReceiveStream = pipes.stdout
        self.stderr: trio.abc.ReceiveStream = pipes.stderr
        self._process = process

    @property
    def status(self) -> int | None:
        """Its exit status as a shell tells it, None as long as it runs."""
        return self._process.status

    async def wait(self) -> int:
        """Its exit status, once it has ended; 137 if its container went."""
        return await self._process.wait()

    async def signal(self, number: int) -> None:
        """Send it a signal; nothing if it has ended."""
        await self._process.signal(number)


@asynccontextmanager
async def open_exec(container: Container, program: Program) -> AsyncIterator[Exec]:
    """See `Container.open_exec`."""
    pipes = Pipes()
    try:
        started = await container.start_exec(program, pipes.stdio)
        pipes.give_away()
        try:
            yield Exec(started.process, pipes)
        finally:
            await started.process.kill_and_wait()
    finally:
        pipes.close()


async def run_exec(container: Container, program: Program, stdin: bytes) -> Completed:
    """See `Container.exec`."""
    pipes = Pipes()
    try:
        started = await container.start_exec(program, pipes.stdio)
        pipes.give_away()
        try:
            return await pipes.communicate(stdin, started.process.wait)
        finally:
            await started.process.kill_and_wait()
    finally:
        pipes.close()


async def run_captured(start: Callable[[Stdio], Awaitable[Container]], stdin: bytes) -> Completed:
    """A container that `start` makes, given its stdio, until it has ended and is gone."""
    pipes = Pipes()
    try:
        container = await start(pipes.stdio)
        pipes.give_away()
        try:
            return await pipes.communicate(stdin, container.wait)
        finally:
            container.cancel()
            with trio.CancelScope(shield=True):
                await container.wait_gone()
    finally:
        pipes.close()


async def _read(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    async for chunk in stream:
        into += chunk
