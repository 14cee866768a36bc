"""Network namespaces, pinned as files in the sandbox's tmpfs; a few stand ready, for each takes a millisecond."""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio

from supervisor.errors import AttachmentError, SandboxError
from supervisor.sandbox.sandbox import Sandbox

READY = 2
REFILL_PAUSE_SECONDS = 0.05  # not in the way of the container that took the last one


_NS_GET_NSTYPE, _CLONE_NEWNET = 0xB703, 0x40000000  # linux/nsfs.h


@contextmanager
def open_netns(path: str) -> Iterator[int]:
    """A descriptor of a network namespace's file. Raises: AttachmentError."""
    cure = "give a file such as /run/netns/NAME or /proc/PID/ns/net"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        why = os.strerror(exc.errno or 0).lower()
        raise AttachmentError(f"network namespace {path}: {why}", cure=cure) from None
    try:
        kind = 0
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            with suppress(OSError):
                kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
        if kind != _CLONE_NEWNET:
            raise AttachmentError(f"{path} is not a network namespace", cure=cure)
        yield descriptor
    finally:
        os.close(descriptor)


class NetnsPool:
    """Gives out fresh network namespaces. `run` keeps some in store: plain ones, and ones with a tap named `TAP`."""

    TAP = "cni0"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._ready: dict[str | None, deque[str]] = {self.TAP: deque(), None: deque()}
        self._numbers = itertools.count(1)
        self._taken = trio.Event()

    async def take(self, *, tap: bool) -> str:
        """The path (in the sandbox) of a namespace with loopback and, if asked, the tap; the caller deletes it.

        Raises: OSError, above all if /dev/net/tun can't be used.
        """
        self._taken.set()
        kind = self.TAP if tap else None
        if self._ready[kind]:
            return self._ready[kind].popleft()
        return await self._make(kind)

    async def run(self) -> None:
        """Refill for ever. What is in store goes with the sandbox."""
        while True:
            for kind, ready in self._ready.items():
                # no tap to be had, or an init that is slow to answer: whoever needs one is told
                with suppress(OSError, SandboxError):
                    while len(ready) < READY:
                        ready.append(await self._make(kind))
            self._taken = trio.Event()
            await self._taken.wait()
            await trio.sleep(REFILL_PAUSE_SECONDS)

    async def _make(self, tap: str | None) -> str:
        path = f"{self._sandbox.run_dir}/netns/{next(self._numbers)}"
        await self._sandbox.new_netns(path, tap=tap)
        return path
