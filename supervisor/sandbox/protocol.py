"""The supervisor's side of init's protocol (told on top of init.py): requests, replies, ends of processes."""

from __future__ import annotations

import errno
import fcntl
import itertools
import marshal
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog
import trio

from netconf.decode import UNREADABLE
from supervisor.errors import SandboxError
from supervisor.sandbox.capture import open_input
from supervisor.sandbox.descriptors import ANCILLARY_BYTES, close_all, rights, take_descriptors
from supervisor.sandbox.wire import LONG, MESSAGE_BYTES

log = structlog.get_logger()

ANSWER_SECONDS = 30
LONGEST_BYTES = (
    8 << 20
)  # what init reads for us, 1 MiB at most, grows sixfold if JSON has to escape all of it


class Reply(msgspec.Struct, frozen=True):
    """One message of init's: an answer (`id`), or the end of a process (`pid`, `status`)."""

    id: int | None = None
    pid: int | None = None
    status: int | None = None
    errno: int | None = None
    error: str = ""
    text: str = ""
    rest: list[str] = []
    init: int | None = None
    unshared: int | None = None
    ready: int | None = None


_decode = msgspec.json.Decoder(Reply).decode


class Channel:
    """Requests to one init. Made by `open_sandbox`, which also runs `receive_forever`."""

    def __init__(self, control: socket.socket, on_exit: Callable[[int, int], None]) -> None:
        self._socket = trio.socket.from_stdlib_socket(control)
        self._numbers = itertools.count(1)
        self._sending = trio.Lock()
        self._waiting: dict[int, tuple[trio.Event, list[tuple[Reply, list[int]]]]] = {}
        self._on_exit = on_exit
        self.gone = trio.Event()
        self.init_pid: int | None = None  # as seen from here, once its starter has told it

    def end(self) -> None:
        """init reads the end of its socket and exits, and with it all that is in the sandbox."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    async def drain(self) -> None:
        """Read what is still unread, to the end; only after `end`."""
        with trio.move_on_after(1):
            while (message := await self.receive()) is not None:
                close_all(message[1])

    async def receive(self) -> tuple[Reply, list[int]] | None:
        """One message with its descriptors; None at the end, which is also what no init of ours would say."""
        try:
            data, ancillary, flags, _ = await self._socket.recvmsg(
                1 << 20, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except (ConnectionResetError, BrokenPipeError):
            return None
        if not data:
            return None
        descriptors: list[int] = []
        lost: OSError | None = None
        try:
            descriptors = take_descriptors(ancillary, flags)
        except (
            OSError
        ) as exc:  # no room for them here: that is the end of one request, not of all containers
            lost = exc
        try:
            if not data.startswith(LONG):
                reply = _decode(data)
            elif lost is None:
                reply = _decode(_read_long(descriptors.pop()))
            else:
                reply = Reply(id=int(data[len(LONG) :]))
        except (OSError, IndexError, *UNREADABLE) as exc:
            close_all(descriptors)
            log.error("init_message_refused", error=str(exc))
            return None
        if lost is not None:
            reply = msgspec.structs.replace(reply, errno=lost.errno, error=str(lost.strerror))
        self.init_pid = reply.init or self.init_pid
        return reply, descriptors

    async def receive_forever(self) -> None:
        """Hand out what init says until it is gone; then every waiting request fails."""
        try:
            while (message := await self.receive()) is not None:
                reply, descriptors = message
                if reply.id is None:
                    close_all(descriptors)
                    if reply.pid is not None and reply.status is not None:
                        self._on_exit(reply.pid, reply.status)
                elif (waiting := self._waiting.pop(reply.id, None)) is not None:
                    waiting[1].append((reply, descriptors))
                    waiting[0].set()
                else:
                    close_all(descriptors)
        except trio.ClosedResourceError:
            pass
        finally:
            self.gone.set()
            for event, _ in self._waiting.values():
                event.set()
            self._waiting.clear()

    async def send(self, message: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Raises: SandboxError if init is gone, OSError."""
        async with self._sending:
            try:
                await self._socket.sendmsg([message], rights(descriptors))
            except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
                raise SandboxError("the sandbox's init is gone") from None

    async def _send_request(self, number: int, message: bytes, descriptors: tuple[int, ...]) -> None:
        if len(message) <= MESSAGE_BYTES:
            await self.send(message, descriptors)
            return
        long = open_input(message)
        try:
            await self.send(LONG + str(number).encode(), (*descriptors, long))
        finally:
            os.close(long)

    async def call(
        self, op: str, descriptors: tuple[int, ...] = (), **arguments: Any
    ) -> tuple[Reply, list[int]]:
        """Ask, and wait for the answer.

        Entering is a checkpoint; from then on it is shielded, since init answers at once and a half-done request
        would leave something behind. The descriptors that come back are the caller's.
        Raises: OSError as init met it (EMFILE: no room for its descriptors here), SandboxError if it is gone or silent.
        """
        await trio.lowlevel.checkpoint()
        if self.gone.is_set():
            raise SandboxError("the sandbox's init is gone")
        number = next(self._numbers)
        event, box = trio.Event(), []  # type: tuple[trio.Event, list[tuple[Reply, list[int]]]]
        self._waiting[number] = (event, box)
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + ANSWER_SECONDS) as scope:
                message = marshal.dumps({"id": number, "op": op, **arguments})
                await self._send_request(number, message, descriptors)
                await event.wait()
        finally:
            self._waiting.pop(number, None)
        if not box and scope.cancelled_caught:
            raise SandboxError(f"the sandbox's init did not answer {op} within {ANSWER_SECONDS} s")
        if not box:
            raise SandboxError("the sandbox's init is gone")
        reply, received = box[0]
        if reply.errno is not None:
            close_all(received)
            raise OSError(reply.errno, reply.error)
        return reply, received


def _read_long(descriptor: int) -> bytes:
    """A message in a memory file, and in nothing else: another file could hold us up. Raises: OSError."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)  # EINVAL for what is no memory file
        if os.fstat(descriptor).st_size > LONGEST_BYTES:
            raise OSError(errno.EMSGSIZE, f"a message of more than {LONGEST_BYTES >> 20} MiB")
        return os.pread(descriptor, LONGEST_BYTES, 0)
    finally:
        os.close(descriptor)
