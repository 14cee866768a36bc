"""A scope of our own from systemd's manager, where the cgroup that we were started in is not ours to divide: a login's.

One method call on D-Bus, put together here (D-Bus Specification: "Message Protocol", "Authentication Protocol";
org.freedesktop.systemd1(5): StartTransientUnit).
"""

from __future__ import annotations

import os
import secrets
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from supervisor.cgroups.layout import V2_CORE
from supervisor.errors import LimitError

ANSWER_SECONDS = 10  # a manager that is busy with a boot
POLL_SECONDS = 0.002
SYSTEM_BUS = "/run/dbus/system_bus_socket"
USER_BUS = "/run/user/{uid}/bus"
USER_MANAGER = "user.slice/user-{uid}.slice/user@{uid}.service"  # where it is among the cgroups
MAX_MESSAGE_BYTES = 1 << 20

_CALL, _RETURN, _ERROR = 1, 2, 3  # message types
_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8  # header fields
_BUS = ("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
_MANAGER = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")


def bus_of(uid: int) -> str:
    """The socket of the bus where that user's manager is."""
    return SYSTEM_BUS if uid == 0 else USER_BUS.format(uid=uid)


def offered(mount: str, uid: int) -> frozenset[str]:
    """The controllers that a scope of that user's would have; none where there is no manager to ask."""
    if not os.path.exists(bus_of(uid)):
        return frozenset()
    above = mount if uid == 0 else f"{mount}/{USER_MANAGER.format(uid=uid)}"
    try:
        with open(f"{above}/cgroup.controllers") as file:
            return frozenset((*file.read().split(), *V2_CORE))
    except OSError:
        return frozenset()


async def enter_scope(pids: Sequence[int], uid: int) -> None:
    """Until these processes of the user's are in a new scope, which is delegated to them. Raises: LimitError."""
    before = _cgroup_of(pids[0])
    answer = "no answer"
    with trio.move_on_after(ANSWER_SECONDS):
        try:
            async with await trio.open_unix_socket(bus_of(uid)) as stream:
                await _start(stream, pids, uid)
        except (OSError, trio.BrokenResourceError) as exc:
            raise LimitError(f"ask systemd for a scope: {bus_of(uid)}: {exc}") from None
        answer = "the scope was not started"
        while before in map(_cgroup_of, pids):  # noqa: ASYNC110 -- the kernel tells nobody
            await trio.sleep(POLL_SECONDS)
        return
    raise LimitError(f"ask systemd for a scope: {answer} after {ANSWER_SECONDS} s")


def _cgroup_of(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            return next((line[3:] for line in file if line.startswith("0::")), None)
    except OSError:  # it has ended
        return None


async def _start(stream: trio.SocketStream, pids: Sequence[int], uid: int) -> None:
    await stream.send_all(b"\0AUTH EXTERNAL %s\r\n" % str(uid).encode().hex().encode())
    reader = _Reader(stream)
    if not (await reader.line()).startswith(b"OK "):
        raise OSError("it does not know us")
    await stream.send_all(b"BEGIN\r\n" + _call(1, _BUS, "Hello"))
    await reader.reply()
    body = _Body()
    body.string(f"ctnr-{secrets.token_hex(6)}.scope")
    body.string("fail")
    with body.array(8):
        body.property("Description", "s", "Containers of ctnr")
        body.property("CollectMode", "s", "inactive-or-failed")
        body.property("Delegate", "b", True)
        body.property("PIDs", "au", pids)
    with body.array(8):
        pass
    await stream.send_all(_call(2, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", bytes(body)))
    await reader.reply()


class _Reader:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = bytearray()

    async def line(self) -> bytes:
        while b"\r\n" not in self._data:
            await self._more()
        line, _, self._data = self._data.partition(b"\r\n")
        return bytes(line)

    async def reply(self) -> None:
        """The next answer, whatever signals come before it: we ask one thing at a time. Raises: OSError."""
        while True:
            head = await self._take(16)
            kind, (size, _, fields) = head[1], struct.unpack("=III", head[4:])
            if size + fields > MAX_MESSAGE_BYTES:
                raise OSError("a message that is too long")
            body = (await self._take(fields + -fields % 8 + size))[-size or None :]
            if kind == _RETURN:
                return
            if kind == _ERROR:
                raise OSError(body[4:-1].decode(errors="replace") or "refused")

    async def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            await self._more()
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    async def _more(self) -> None:
        data = await self._stream.receive_some(4096)
        if not data:
            raise OSError("the bus has hung up")
        self._data += data


class _Body(bytearray):
    """Values in D-Bus's marshalling format, in this machine's byte order."""

    def align(self, to: int) -> None:
        self.extend(bytes(-len(self) % to))

    def number(self, value: int) -> None:
        self.align(4)
        self.extend(struct.pack("=I", value))

    def string(self, text: str) -> None:
        self.number(len(text.encode()))
        self.extend(text.encode() + b"\0")

    def signature(self, text: str) -> None:
        self.extend(bytes((len(text),)) + text.encode() + b"\0")

    @contextmanager
    def array(self, alignment: int) -> Iterator[None]:
        self.number(0)
        at = len(self) - 4
        self.align(alignment)
        start = len(self)
        yield
        struct.pack_into("=I", self, at, len(self) - start)

    def property(self, name: str, signature: str, value: str | bool | Sequence[int]) -> None:
        """One (sv) of systemd's."""
        self.align(8)
        self.string(name)
        self.signature(signature)
        if isinstance(value, str):
            self.string(value)
        elif isinstance(value, bool):
            self.number(value)
        else:
            with self.array(4):
                for one in value:
                    self.number(one)


def _call(
    serial: int, whom: tuple[str, str, str], member: str, signature: str = "", body: bytes = b""
) -> bytes:
    path, destination, interface = whom
    message = _Body(b"%c\1\0\1" % (b"l" if sys.byteorder == "little" else b"B"))
    message[1] = _CALL
    message.number(len(body))
    message.number(serial)
    with message.array(8):
        for field, kind, value in (
            (_PATH, "o", path),
            (_INTERFACE, "s", interface),
            (_MEMBER, "s", member),
            (_DESTINATION, "s", destination),
        ):
            message.align(8)
            message.append(field)
            message.signature(kind)
            message.string(value)
        if signature:
            message.align(8)
            message.append(_SIGNATURE)
            message.signature("g")
            message.signature(signature)
    message.align(8)
    return bytes(message + body)
