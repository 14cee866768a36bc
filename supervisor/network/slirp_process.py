"""One slirp4netns process for a trio program: its exit-fd, its pidfd, and a bounded memfd with its stderr.

Started with Popen directly, without trio's worker thread: vfork and exec take 0.1-0.4 ms, by way of the
thread three times that. No parent-death signal (it follows the thread, not the process), no preexec_fn (it
turns vfork off).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import trio

from supervisor.errors import SlirpError
from supervisor.network.slirp_conf import bounded_memfd, read_memfd

EXIT_SECONDS = 1.0  # from the closed exit-fd to SIGKILL
REAP_SECONDS = 5.0  # from SIGKILL to giving up on a process that the kernel can't end


class SlirpProcess:
    """A running slirp4netns; `end()` must be called in any case."""

    def __init__(self, argv: Callable[[int, int], Sequence[str]], *, ready_fd: int, sandboxed: bool) -> None:
        """Start `argv(ready_fd, exit_fd)`. Raises: SlirpError."""
        self.sandboxed = sandboxed
        self._exit_w: int | None = None
        with ExitStack() as undo:
            try:
                exit_r, exit_w = os.pipe()
                undo.callback(os.close, exit_w)
                with ExitStack() as childs:
                    childs.callback(os.close, exit_r)
                    self._stderr = bounded_memfd()
                    undo.callback(os.close, self._stderr)
                    self._process = subprocess.Popen(
                        argv(ready_fd, exit_r),
                        pass_fds=(ready_fd, exit_r),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=self._stderr,
                        start_new_session=True,
                    )
                undo.callback(self._process.wait)
                undo.callback(self._process.kill)
                self.pid = self._process.pid
                self._pidfd = os.pidfd_open(self.pid)  # our own unreaped child: it can't be another process
            except OSError as exc:
                raise SlirpError(f"start slirp4netns: {exc}") from exc
            undo.pop_all()
        self._exit_w = exit_w

    def status(self) -> int | None:
        """Its exit status as Popen gives it (negative: a signal), None while it runs."""
        return self._process.poll()

    def stderr(self) -> str:
        return read_memfd(self._stderr)

    def close_exit(self) -> None:
        """Tell it to end. Idempotent."""
        if self._exit_w is not None:
            os.close(self._exit_w)
            self._exit_w = None

    async def wait(self) -> int:
        """Its exit status. For one task at a time."""
        while (status := self._process.poll()) is None:
            await trio.lowlevel.wait_readable(self._pidfd)
        return status

    async def end(self) -> None:
        """Gone and reaped when this returns, also when cancelled; every descriptor closed. Idempotent.

        Raises: SlirpError if not even SIGKILL ends it.
        """
        self.close_exit()
        if self._pidfd == -1:
            return
        try:
            with trio.move_on_after(EXIT_SECONDS, shield=True):
                await self.wait()
                return
            self._process.kill()
            with trio.move_on_after(REAP_SECONDS, shield=True):
                await self.wait()
                return
            raise SlirpError(f"slirp4netns (process {self.pid}) can't be killed")
        finally:
            os.close(self._pidfd)
            os.close(self._stderr)
            self._pidfd = -1
