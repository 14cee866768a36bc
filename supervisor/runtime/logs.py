"""Log files of containers that run in the background: written with rotation, read back, followed.

A line is `TIME STREAM F TEXT` (RFC 3339 with nanoseconds; stdout or stderr; P instead of F where the line goes on),
the format of CRI and of podman's k8s-file.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import trio

MAX_LINE_BYTES = 16384
READ_BYTES = 1 << 16


class LogLine(NamedTuple):
    """`time` is Unix seconds; `data` ends in a newline unless the line goes on (or its writer died)."""

    time: float
    stream: str
    data: bytes


class LogWriter:
    """One container's log. Synchronous: a local append is quicker than a hop to a thread."""

    def __init__(self, path: str, *, max_bytes: int | None = None, max_files: int = 1) -> None:
        self.path = path
        self.lost: OSError | None = None
        self.closed = False
        self.changed = trio.Event()
        self._max_bytes, self._max_files = max_bytes, max(max_files, 1)
        self._pending = {"stdout": b"", "stderr": b""}
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Append what a stream brought; a line is written when it is whole, or longer than 16 KiB."""
        whole, newline, last = (self._pending[stream] + data).rpartition(b"\n")
        head = _stamp(stream)
        out = []
        if newline:  # one replacement for all lines: a loop over them would be slower than their writer
            start = b"%s F " % head
            out.append(b"%s%s\n" % (start, whole.replace(b"\n", b"\n" + start)))
        while len(last) >= MAX_LINE_BYTES:
            out.append(b"%s P %s\n" % (head, last[:MAX_LINE_BYTES]))
            last = last[MAX_LINE_BYTES:]
        self._pending[stream] = last
        if out:
            self._append(b"".join(out))

    def close(self) -> None:
        """Write what is left of unfinished lines. The log ends here."""
        for stream, rest in self._pending.items():
            if rest:
                self._append(b"%s P %s\n" % (_stamp(stream), rest))
        self._pending = {"stdout": b"", "stderr": b""}
        os.close(self._descriptor)
        self.closed = True
        self._tell()

    def _append(self, data: bytes) -> None:
        try:
            if self._max_bytes and self._size and self._size + len(data) > self._max_bytes:
                self._rotate()
            self._size += len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as exc:
            self.lost = self.lost or exc  # a full disk must not stop the container; told once
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def _rotate(self) -> None:
        os.close(self._descriptor)
        for number in range(self._max_files - 1, 0, -1):
            older = self.path if number == 1 else f"{self.path}.{number - 1}"
            with suppress(FileNotFoundError):
                os.replace(older, f"{self.path}.{number}")
        if self._max_files == 1:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
        self._descriptor, self._size = self._open(), 0

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def read_log(path: str) -> Iterator[LogLine]:
    """All lines of a log, rotated files first. Lines that can't be parsed are passed over."""
    yield from _older(path)
    yield from _lines(path)


async def follow_log(path: str, writer: LogWriter | None) -> AsyncGenerator[LogLine, None]:
    """The lines of a log, and, while `writer` still writes it, those to come. Survives rotation."""
    if writer is None or writer.closed:
        for line in read_log(path):
            yield line
        return
    file = open(path, "rb")  # noqa: SIM115 -- reopened after rotation
    try:
        for line in _older(path):
            yield line
        rest = b""
        while True:
            changed = writer.changed
            while chunk := file.read(READ_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                for text in lines:
                    if (parsed := parse_line(text + b"\n")) is not None:
                        yield parsed
            if writer.closed:
                return
            with suppress(FileNotFoundError):
                if os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
                    file.close()
                    file = open(path, "rb")  # noqa: SIM115
                    continue
            await changed.wait()
    finally:
        file.close()


def parse_line(line: bytes) -> LogLine | None:
    """One line of a log file, or None if it is not one."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    stamp, stream, tag, text = parts
    try:
        seconds = datetime.fromisoformat(stamp[:19].decode() + "+00:00").timestamp() + float(
            b"0." + stamp[20:29]
        )
    except ValueError:
        return None
    if tag == b"P":
        text = text.removesuffix(b"\n")
    return LogLine(seconds, stream.decode(), text)


def _older(path: str) -> Iterator[LogLine]:
    number = 1
    while os.path.exists(f"{path}.{number}"):
        number += 1
    for older in range(number - 1, 0, -1):
        yield from _lines(f"{path}.{older}")


def _lines(path: str) -> Iterator[LogLine]:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            if (parsed := parse_line(line)) is not None:
                yield parsed


def _stamp(stream: str) -> bytes:
    nanoseconds = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 1_000_000_000))
    return f"{seconds}.{nanoseconds % 1_000_000_000:09d}Z {stream}".encode()
