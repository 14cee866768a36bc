"""Frames on the service's socket: four bytes of length (big-endian), then JSON; descriptors ride on the first byte.

The client's twin is `ctnr/client/frames.py`; one contract test drives both.
"""

from __future__ import annotations

import socket
from typing import Any

import msgspec
import trio

from supervisor.sandbox.descriptors import (
    ANCILLARY_BYTES,
    MAX_DESCRIPTORS,
    close_all,
    rights,
    take_descriptors,
)

MAX_FRAME_BYTES = 16 << 20
_encode = msgspec.json.Encoder().encode


class FrameError(Exception):
    """The peer does not speak our protocol."""


class FrameSocket:
    """One connection. Received descriptors are in `descriptors` until somebody takes them."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._socket = connection
        self._sending = trio.Lock()
        self._buffer = bytearray()
        self.descriptors: list[int] = []

    def close(self) -> None:
        close_all(self.descriptors)
        self._socket.close()

    def take_descriptors(self) -> list[int]:
        """Those that came with the frames so far; the caller's from here."""
        taken, self.descriptors = self.descriptors, []
        return taken

    async def receive(self) -> bytes | None:
        """The next frame's JSON; None when the peer has closed. Raises: FrameError."""
        header = await self._read(4)
        if header is None:
            return None
        length = int.from_bytes(header, "big")
        if length > MAX_FRAME_BYTES:
            raise FrameError(f"a frame of {length} bytes is too long")
        return await self._read(length)

    async def send(self, message: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Send one event; the descriptors stay the caller's. A peer that has gone is not told: it has its own scope."""
        body = _encode(message)
        data = memoryview(len(body).to_bytes(4, "big") + body)
        async with self._sending:
            try:
                sent = await self._socket.sendmsg([data], rights(descriptors))
                while sent < len(data):
                    sent += await self._socket.send(data[sent:])
            except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
                pass

    async def _read(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            try:
                data, ancillary, flags, _ = await self._socket.recvmsg(
                    1 << 16, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
                self.descriptors += take_descriptors(ancillary, flags)
            except ConnectionResetError:
                return None
            except OSError as exc:
                raise FrameError(str(exc)) from None
            if len(self.descriptors) > MAX_DESCRIPTORS:
                raise FrameError("more descriptors than a request may bring")
            if not data:
                return None
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
