"""Logs of containers that run in the background: where their output goes, and how it lies in a file.

A file's entry is `TIME STREAM F TEXT` (RFC 3339 with nanoseconds; stdout or stderr; P instead of F where the line goes
on), the format of CRI and of podman's k8s-file. All but the text has a fixed width. `log_reader` reads it back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

import structlog
import trio

from supervisor.runtime.journald import JournalWriter

MAX_LINE_BYTES = 16384
STAMP_BYTES, STREAM_AT, TAG_AT, TEXT_AT = 30, 31, 38, 40
FILE, JOURNAL, NONE = "k8s-file", "journald", "none"

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Where output goes: `driver` is k8s-file, journald or none. `fields` are the journal's, further ones."""

    driver: str = FILE
    max_bytes: int | None = None  # of one file; a new one is begun then
    max_files: int = 1  # the one that is written among them
    fields: Mapping[str, str] = field(default_factory=dict)


class Log(Protocol):
    """What takes the output of one container. Its methods are synchronous and never raise."""

    lost: OSError | None  # why some of it is not there; None as long as all is
    closed: bool
    changed: trio.Event  # set, and replaced, by everything that is written

    def write(self, stream: str, data: bytes) -> None: ...
    def close(self) -> None: ...


class LogLine(NamedTuple):
    """`time` is Unix seconds; `data` ends in a newline unless the line goes on (or its writer died)."""

    time: float
    stream: str
    data: bytes


def open_log(path: str, options: LogOptions) -> Log | None:
    """A log for one life of a container; None if none is kept. Raises: OSError."""
    if options.driver == NONE:
        return None
    if options.driver == JOURNAL:
        return JournalWriter(options.fields)
    return LogWriter(path, max_bytes=options.max_bytes, max_files=options.max_files)


class LogWriter:
    """A log in a file. Synchronous: a local append is quicker than a hop to a thread."""

    def __init__(self, path: str, *, max_bytes: int | None = None, max_files: int = 1) -> None:
        self.path = path
        self.lost: OSError | None = None
        self.closed = False
        self.changed = trio.Event()
        self._max_bytes, self._max_files = max_bytes, max(max_files, 1)
        self._pending = {"stdout": b"", "stderr": b""}
        self._torn = False  # the last entry was written in part
        self._descriptor = self._open(path)
        self._size = os.fstat(self._descriptor).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Append what a stream brought; a line is written when it is whole, or longer than 16 KiB."""
        whole, newline, last = (self._pending[stream] + data).rpartition(b"\n")
        head = b"%s %s" % (format_stamp(time.time_ns()), stream.encode())
        out = []
        if newline:  # one replacement for all lines: a loop over them would be slower than their writer
            start = b"%s F " % head
            out.append(b"%s%s\n" % (start, whole.replace(b"\n", b"\n" + start)))
        while len(last) >= MAX_LINE_BYTES:
            out.append(b"%s P %s\n" % (head, last[:MAX_LINE_BYTES]))
            last = last[MAX_LINE_BYTES:]
        self._pending[stream] = last
        entries = b"".join(out)
        while self._max_bytes and entries:
            cut = self._room_for(entries)
            self._append(entries[:cut])
            entries = entries[cut:]
        if entries:
            self._append(entries)

    def close(self) -> None:
        """Write what is left of unfinished lines. The log ends here."""
        stamp = format_stamp(time.time_ns())
        for stream, rest in self._pending.items():
            if rest:
                self._append(b"%s %s P %s\n" % (stamp, stream.encode(), rest))
        self._pending = {"stdout": b"", "stderr": b""}
        os.close(self._descriptor)
        self.closed = True
        self._tell()

    def _room_for(self, entries: bytes) -> int:
        """How much of them, in whole lines and at least one, goes into one file."""
        assert self._max_bytes is not None
        for room in (self._max_bytes - self._size, self._max_bytes):
            if cut := entries.rfind(b"\n", 0, max(room, 0)) + 1:
                return cut
        return entries.index(b"\n") + 1

    def _append(self, data: bytes) -> None:
        written = 0
        try:
            if self._max_bytes and self._size and self._size + len(data) > self._max_bytes:
                self._rotate()
            elif not os.fstat(self._descriptor).st_nlink:  # somebody has removed it
                self._go_on_in(self._open(self.path))
            if self._torn:
                data = b"\n" + data
            while written < len(data):
                written += os.write(self._descriptor, data[written:] if written else data)
            self._torn = False
        except OSError as exc:
            # a full disk must not stop the container
            self._torn = self._torn or written > 0
            if self.lost is None:
                self.lost = exc
                log.warning("log_lines_lost", path=self.path, error=exc.strerror)
        self._size += written
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def _rotate(self) -> None:
        """Go on in a new file; where that can't be made, in the old one, and in its place: no file is moved then."""
        try:
            descriptor = self._open(f"{self.path}.new")
        except OSError:
            return
        for number in range(self._max_files - 1, 0, -1):
            older = self.path if number == 1 else f"{self.path}.{number - 1}"
            with suppress(FileNotFoundError):
                os.replace(older, f"{self.path}.{number}")
        os.replace(f"{self.path}.new", self.path)
        self._go_on_in(descriptor)

    def _go_on_in(self, descriptor: int) -> None:
        os.close(self._descriptor)
        self._descriptor, self._size, self._torn = descriptor, 0, False

    def _open(self, path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def is_entry(line: bytes) -> bool:
    """Whether it is one of a log's; what a full disk has cut off is not."""
    return len(line) >= TEXT_AT and line[STREAM_AT : TAG_AT - 1] in (b"stdout", b"stderr")


def parse_line(line: bytes) -> LogLine | None:
    """One line of a log file, or None if it is not one."""
    if not is_entry(line):
        return None
    try:
        seconds = datetime.fromisoformat(line[:19].decode() + "+00:00").timestamp()
        seconds += int(line[20:29]) / 1e9
    except ValueError:
        return None
    text = line[TEXT_AT:]
    if line[TAG_AT : TAG_AT + 1] == b"P":
        text = text.removesuffix(b"\n")
    return LogLine(seconds, line[STREAM_AT : TAG_AT - 1].decode(), text)


def format_stamp(nanoseconds: int) -> bytes:
    """Unix nanoseconds as the time of an entry: they sort as they follow each other."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 1_000_000_000))
    return b"%s.%09dZ" % (seconds.encode(), nanoseconds % 1_000_000_000)
