"""A call to the world that fails: the n-th of those that the product makes, with an error that the kernel could give.

The doors to the world are few: init's requests (spawn, mount, netns, socket, write, …), netlink, plugins, and what
modules `os`, `socket` and `subprocess` do for the product, directly or below the standard library. Undoing is none of
them: what the kernel takes away, it takes away.
"""

from __future__ import annotations

import builtins
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from supervisor.network.netlink import Netlink, NetlinkFailed
from supervisor.network.plugins import PluginRunner
from supervisor.sandbox.process import Completed
from supervisor.sandbox.protocol import Channel
from supervisor.sandbox.sandbox import PACKAGES
from supervisor.service.server import describe_error
from tests.sweep.stage import Refused

PRODUCT = tuple(f"{PACKAGES}/{name}/" for name in ("ctnr", "supervisor", "netconf"))
UNDOING = ("kill", "umount", "netns_delete", "remove_small")
INIT_ERRORS = {
    "spawn": errno.EAGAIN, "netns_new": errno.ENOSPC, "mount": errno.ENOMEM, "overlay": errno.ENOMEM,
    "socket": errno.EMFILE, "listen": errno.EMFILE, "tap": errno.EBUSY, "sysctl": errno.EACCES,
    "write": errno.ENOSPC, "make_dirs": errno.ENOSPC, "make_dirs_in_root": errno.ENOSPC,
}  # fmt: skip
CALLS = {
    "open": errno.EMFILE, "pipe": errno.EMFILE, "dup": errno.EMFILE, "memfd_create": errno.EMFILE,
    "pidfd_open": errno.EMFILE, "mkdir": errno.ENOSPC, "write": errno.ENOSPC, "rename": errno.ENOSPC,
    "replace": errno.ENOSPC, "symlink": errno.ENOSPC, "fsync": errno.EIO,
}  # fmt: skip

_current: FailingCall | None = None


class FailingCall:
    """Lets the n-th call fail. The story has to end by one clean error, or to do without that call."""

    def __init__(self, number: int) -> None:
        self.told = f"call {number} of the story"
        self._left = number

    async def disturb(self, play: Callable[[], Awaitable[None]]) -> bool:
        global _current
        _current = self
        try:
            await play()
        except Exception as exc:
            exc.add_note(self.told)
            if self._left > 0 or not is_clean(exc):
                raise
        finally:
            _current = None
        return self._left <= 0

    def is_due(self, door: str) -> bool:
        """Whether this is the call that fails."""
        place = _place()
        if place is None:
            return False
        self._left -= 1
        if self._left:
            return False
        self.told += f" failed: {door}, asked for at {place}"
        return True


def is_clean(exc: Exception) -> bool:
    """One error with words for people: no group, and nothing that only a programmer understands."""
    if isinstance(exc, Refused):
        return not exc.event["message"].startswith("internal error")
    if isinstance(exc, ExceptionGroup | AssertionError):
        return False
    return not describe_error(exc)["message"].startswith("internal error")


@contextmanager
def doors() -> Iterator[None]:
    """Watch the doors: around everything, the opening of the stage too."""
    with ExitStack() as undo:
        for name, number in CALLS.items():
            _watch(undo, os, name, number)
        _watch(undo, builtins, "open", errno.EMFILE)
        _watch(undo, socket, "socketpair", errno.EMFILE)
        _watch(undo, socket.socket, "bind", errno.EADDRINUSE)
        _watch(undo, socket.socket, "connect", errno.ECONNREFUSED)
        _watch(undo, subprocess.Popen, "_execute_child", errno.EAGAIN)
        _watch_init(undo)
        _watch_netlink(undo)
        _watch_plugins(undo)
        yield


def _watch(undo: ExitStack, owner: Any, name: str, number: int) -> None:
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if _current is not None and _current.is_due(f"{getattr(owner, '__name__', owner)}.{name}"):
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    _set(undo, owner, name, call)


def _watch_init(undo: ExitStack) -> None:
    real = Channel.call

    async def call(self: Channel, op: str, *args: Any, **kwargs: Any) -> Any:
        if op not in UNDOING and _current is not None and _current.is_due(f"init's {op}"):
            number = INIT_ERRORS.get(op, errno.EIO)
            raise OSError(number, os.strerror(number))
        return await real(self, op, *args, **kwargs)

    _set(undo, Channel, "call", call)


def _watch_netlink(undo: ExitStack) -> None:
    real = Netlink._ask

    async def ask(self: Netlink, what: str, *args: Any, **kwargs: Any) -> Any:
        if _current is not None and _current.is_due(f"netlink: {what}"):
            raise NetlinkFailed(what, errno.ENOBUFS)
        return await real(self, what, *args, **kwargs)

    _set(undo, Netlink, "_ask", ask)


def _watch_plugins(undo: ExitStack) -> None:
    real = PluginRunner._execute

    async def execute(self: PluginRunner, kind: str, path: str, command: str, *args: Any) -> Any:
        if _current is not None and _current.is_due(f"plugin {kind} at {command}"):
            told = b'{"cniVersion": "1.0.0", "code": 999, "msg": "failed to allocate for range 0"}'
            return Completed(1, told, b"")
        return await real(self, kind, path, command, *args)

    _set(undo, PluginRunner, "_execute", execute)


def _set(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    had = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    undo.callback(setattr, owner, name, before) if had else undo.callback(delattr, owner, name)


def _place() -> str | None:
    """Where in the product the call comes from; None if it is no call of the product's."""
    frame = sys._getframe(3)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PRODUCT):
            return f"{name.removeprefix(PACKAGES + '/')}:{frame.f_lineno}"
        if "/trio/_core/" in name or "/tests/" in name or frame.f_code.co_name == "rmtree":
            return None
        frame = frame.f_back  # type: ignore[assignment]
    return None
