"""Who fills the queue of a name server's socket, and a filter that keeps them out of it for a while.

All containers of a network share one queue, which the kernel fills in order of arrival: one that sends faster than it
is served takes the others' places. So while the queue can't be emptied, whoever takes most of it is muted: a filter on
the socket (classic BPF) drops their packets before they get into the queue.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

BACKLOG_SECONDS = 0.1  # for so long it could not be emptied
SHARE = 0.25  # of what came meanwhile; forty who ask for each other have as much each as the next
FIRST_SECONDS, LAST_SECONDS = 1.0, 30.0  # muted for so long, twice as long each time

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_NETWORK_HEADER = 0x100000000 - 0x100000  # SKF_NET_OFF: offsets from there count from the IP header
_SOURCE = {4: 12, 16: 8}  # where it stands in the header, by the length of an address
_KEEP = 0xFFFFFFFF
_MUTED_MAX = 100  # a jump spans 255 instructions at most, and there are few containers


class Backlog:
    """Of one socket. Call `drained` when its queue was empty, `heard` for each packet."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._counts: Counter[str] = Counter()
        self._since: float | None = None
        self._muted: dict[str, float] = {}  # until when, on the monotonic clock
        self._seconds: dict[str, float] = {}  # for how long last time

    def drained(self) -> None:
        if self._since is not None:
            self._since = None
            self._counts.clear()

    def heard(self, host: str) -> None:
        self._counts[host] += 1
        if self._since is None:
            self._since = time.monotonic()

    def judge(self) -> float | None:
        """Mute who takes most of a queue that can't be emptied; in how many seconds `unmute` is due, None if nobody."""
        now = time.monotonic()
        if self._since is None or now - self._since < BACKLOG_SECONDS or len(self._muted) >= _MUTED_MAX:
            return None
        [(host, count)] = self._counts.most_common(1)
        is_loud = count > SHARE * self._counts.total()
        self.drained()
        if not is_loud:
            return None
        seconds = min(LAST_SECONDS, self._seconds.get(host, FIRST_SECONDS / 2) * 2)
        self._seconds[host] = seconds
        self._muted[host] = now + seconds
        set_filter(self._sock, self._muted)
        return seconds

    def unmute(self) -> None:
        """Listen again to those whose time is over."""
        now = time.monotonic()
        for host in [host for host, until in self._muted.items() if until <= now]:
            del self._muted[host]
        set_filter(self._sock, self._muted)


def set_filter(sock: socket.socket, muted: Iterable[str]) -> None:
    """Drop what comes from these addresses; nothing more than that. Raises: OSError."""
    program = _program(muted)
    if not program:
        with suppress(FileNotFoundError):  # it has none
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        return
    code = ctypes.create_string_buffer(b"".join(program), 8 * len(program))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code))
    )


def _program(muted: Iterable[str]) -> list[bytes]:
    """For each address: compare its words, and drop the packet if all are the same."""
    program: list[bytes] = []
    for host in muted:
        packed = ipaddress.ip_address(host.partition("%")[0]).packed
        words = struct.unpack(f"!{len(packed) // 4}I", packed)
        for number, word in enumerate(words):
            left = 2 * (len(words) - number) - 1  # instructions to the next address
            program.append(_instruction(_LOAD_WORD, _NETWORK_HEADER + _SOURCE[len(packed)] + 4 * number))
            program.append(_instruction(_JUMP_EQUAL, word, otherwise=left))
        program.append(_instruction(_RETURN, 0))
    return [*program, _instruction(_RETURN, _KEEP)] if program else []


def _instruction(code: int, value: int, *, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, 0, otherwise, value)
