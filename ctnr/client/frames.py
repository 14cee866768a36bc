"""Frames: 4 bytes of length (big-endian), then JSON; descriptors ride on the first byte.

The service's twin is supervisor/service/frames.py; one contract test drives both.

Descriptors never come by `socket.recv_fds`: it drops its flags, so they would be inheritable (CPython gh-107898), and a
control buffer that is too small loses some silently. Here: MSG_CMSG_CLOEXEC, and MSG_CTRUNC is an error.
"""

from __future__ import annotations

import _socket
import posix as os
import sys

from ctnr.client import jsonlite
from ctnr.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MAX_FRAME = 64 << 20  # bytes
MAX_DESCRIPTORS = 8

Event = dict[str, "Any"]


class Channel:
    """One connection to the service; owns its socket."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Event, descriptors: Sequence[int] = ()) -> None:
        """Blocks until all is written. The descriptors stay the caller's.

        Raises: OSError if the peer is gone, ClientError if a text is not Unicode.
        """
        try:
            body = jsonlite.encode(message)
        except UnicodeEncodeError as error:
            raise ClientError(
                f"{error.object[:60]!r} is not UTF-8", cure="give arguments and variables in UTF-8"
            ) from None
        frame = memoryview(len(body).to_bytes(4, "big") + body)
        control = []
        if descriptors:
            packed = b"".join([number.to_bytes(4, sys.byteorder) for number in descriptors])
            control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
        sent = self._sock.sendmsg([frame], control)
        if sent < len(frame):
            self._sock.sendall(frame[sent:])

    def receive(self) -> tuple[Event, list[int]] | None:
        """The next event and the descriptors (close-on-exec, the caller's now) that came with it; None at the end.

        The header is read on its own, so that descriptors are always those of this frame.
        Raises: OSError, ClientError if the peer does not keep to the protocol.
        """
        descriptors: list[int] = []
        try:
            header = self._read_header(descriptors)
            if not header:
                return None
            length = int.from_bytes(header, "big")
            if length > MAX_FRAME:
                raise _broken(f"a frame of {length} bytes")
            event = jsonlite.decode(self._read_body(length))
            if not isinstance(event, dict):
                raise _broken("a frame that is no object")
        except ValueError as error:
            _close_all(descriptors)
            raise _broken(str(error)) from None
        except BaseException:
            _close_all(descriptors)
            raise
        return event, descriptors

    def finish_sending(self) -> None:
        """Let the peer see the end of our requests; it may still answer."""
        self._sock.shutdown(_socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()

    def _read_header(self, descriptors: list[int]) -> bytes:
        header = b""
        while len(header) < 4:
            data, control, flags, _ = self._sock.recvmsg(
                4 - len(header), _CONTROL_SPACE, _socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, payload in control:
                if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                    for at in range(0, len(payload) - 3, 4):
                        descriptors.append(int.from_bytes(payload[at : at + 4], sys.byteorder))  # noqa: PERF401
            if flags & _socket.MSG_CTRUNC:
                raise _broken("descriptors lost on the way")
            if not data:
                if header:
                    raise _broken("a frame cut short")
                break
            header += data
        return header

    def _read_body(self, length: int) -> bytes:
        parts = []
        while length:
            data = self._sock.recv(min(length, 1 << 20))
            if not data:
                raise _broken("a frame cut short")
            parts.append(data)
            length -= len(data)
        return b"".join(parts)


_CONTROL_SPACE = _socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)


def _broken(what: str) -> ClientError:
    return ClientError(f"the service sent {what}", cure="ctnr supervisor stop --force, then try again")


def _close_all(descriptors: list[int]) -> None:
    for number in descriptors:
        os.close(number)
