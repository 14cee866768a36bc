"""Log files read back: from any line on, each line once, on into the files that rotation begins.

Entries are handed on as they lie in the file: nobody is made to parse them who only passes them on.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from math import inf

import trio

from supervisor.runtime.logs import STAMP_BYTES, TAG_AT, Log, LogLine, format_stamp, is_entry, parse_line

READ_BYTES = 1 << 16
LONGEST_ENTRY_BYTES = 1 << 20  # a longer one is none of ours


class LogReader:
    """A place in one container's log. `tail` is how many lines to begin before the end; times are Unix seconds."""

    def __init__(
        self, path: str, *, tail: int | None = None, since: float | None = None, until: float | None = None
    ) -> None:
        self._path = path
        self._end = until
        self._since = b"" if since is None else format_stamp(_microseconds(since) * 1000)
        self._until = None if until is None else format_stamp(_microseconds(until) * 1000 + 999)
        self._descriptor = -1
        self._rest = b""
        self._is_over = False  # entries follow each other in time: no more up to `until` come
        self._begin(tail)

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self) -> bytes:
        """The next entries, whole ones; b"" if there are no more so far."""
        while not self._is_over:
            if self._descriptor < 0 and not self._open_next(None):
                return b""
            chunk = os.read(self._descriptor, READ_BYTES)
            if not chunk:
                if not self._open_next(os.fstat(self._descriptor)):
                    return b""
                continue
            whole, newline, self._rest = (self._rest + chunk).rpartition(b"\n")
            if len(self._rest) > LONGEST_ENTRY_BYTES:
                self._rest = b""
            if entries := self._wanted(whole + newline):
                return entries
        return b""

    async def follow(self, log: Log | None) -> AsyncGenerator[bytes, None]:
        """As `read`, and, as long as `log` is written, what is to come (up to `until`)."""
        while True:
            changed = log.changed if log is not None else None
            while entries := self.read():
                yield entries
            if log is None or changed is None or log.closed:
                return
            with trio.move_on_after(self._seconds_left()) as scope:
                await changed.wait()
            if scope.cancelled_caught:
                return

    def _seconds_left(self) -> float:
        return inf if self._end is None else max(self._end - time.time(), 0)

    def _wanted(self, entries: bytes) -> bytes:
        if not self._since and self._until is None:
            return entries
        lines = lines_of(entries)
        self._is_over = self._until is not None and any(
            is_entry(line) and line[:STAMP_BYTES] > self._until for line in lines[-1:]
        )
        return b"".join(line for line in lines if self._is_wanted(line))

    def _is_wanted(self, line: bytes) -> bool:
        stamp = line[:STAMP_BYTES]
        return is_entry(line) and stamp >= self._since and (self._until is None or stamp <= self._until)

    # Files

    def _files(self) -> list[str]:
        """Oldest first."""
        number = 1
        while os.path.exists(f"{self._path}.{number}"):
            number += 1
        files = [f"{self._path}.{older}" for older in range(number - 1, 0, -1)]
        return [*files, self._path] if os.path.exists(self._path) else files

    def _open(self, path: str, offset: int = 0) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self.close()
        os.lseek(descriptor, offset, os.SEEK_SET)
        self._descriptor, self._rest = descriptor, b""
        return True

    def _open_next(self, current: os.stat_result | None) -> bool:
        """The file after the one that we have read to its end. Where that has been removed, the oldest there is."""
        files = self._files()
        if current is None:
            return bool(files) and self._open(files[0])
        for at, path in enumerate(files):
            with suppress(FileNotFoundError):
                found = os.stat(path)
                if (found.st_ino, found.st_dev) == (current.st_ino, current.st_dev):
                    return at + 1 < len(files) and self._open(files[at + 1])
        return bool(files) and self._open(files[0])

    # Where to begin

    def _begin(self, tail: int | None) -> None:
        files = self._files()
        if tail is not None:
            self._begin_at_tail(files, tail)
            return
        for path in reversed(files):
            with open(path, "rb") as file:
                first = file.readline(STAMP_BYTES)
            if self._since and first < self._since:
                self._open(path, _offset_of(path, self._since))
                return
        if files:
            self._open(files[0])

    def _begin_at_tail(self, files: list[str], count: int) -> None:
        """Read backwards until `count` lines lie ahead."""
        seen: set[bytes] = set()  # streams with an entry further on
        last = (files[-1], os.path.getsize(files[-1])) if files else None
        for path in reversed(files):
            for offset, line in _backwards(path):
                if last is None or not is_entry(line) or (self._until and line[:STAMP_BYTES] > self._until):
                    continue
                stream, goes_on = line[STAMP_BYTES : TAG_AT - 1], line[TAG_AT : TAG_AT + 1] == b"P"
                if not (goes_on and stream in seen):  # else it is a part of a line that was counted
                    count -= 1
                seen.add(stream)
                if count < 0 or line[:STAMP_BYTES] < self._since:
                    self._open(*last)
                    return
                last = (path, offset)
        if last is not None:
            self._open(*last)


def read_log(path: str) -> Iterator[LogLine]:
    """All lines of a log, rotated files first. Lines that can't be parsed are passed over."""
    with LogReader(path) as reader:
        while entries := reader.read():
            for line in lines_of(entries):
                if (parsed := parse_line(line)) is not None:
                    yield parsed


async def follow_log(
    path: str,
    log: Log | None,
    *,
    tail: int | None = None,
    since: float | None = None,
    until: float | None = None,
) -> AsyncGenerator[LogLine, None]:
    """The lines of a log, and, as long as `log` is written, those to come."""
    with LogReader(path, tail=tail, since=since, until=until) as reader:
        async with aclosing(reader.follow(log)) as parts:
            async for entries in parts:
                for line in lines_of(entries):
                    if (parsed := parse_line(line)) is not None:
                        yield parsed


def lines_of(entries: bytes) -> list[bytes]:
    """What `LogReader.read` brings, line by line."""
    return [line + b"\n" for line in entries.split(b"\n")[:-1]]


def _microseconds(unix_seconds: float) -> int:
    """All that a double of today holds."""
    return max(round(unix_seconds * 1e6), 0)


def _backwards(path: str) -> Iterator[tuple[int, bytes]]:
    """(offset, line without its newline), last line first."""
    with open(path, "rb") as file:
        position, rest = file.seek(0, os.SEEK_END), b""
        while position:
            start = max(position - READ_BYTES, 0)
            block = os.pread(file.fileno(), position - start, start) + rest
            rest, *lines = block.split(b"\n")
            at = start + len(block)
            for line in reversed(lines):
                at -= len(line)
                yield at, line
                at -= 1
            position = start
        yield 0, rest


def _offset_of(path: str, stamp: bytes) -> int:
    """Where a line begins after which none older than `stamp` is left out: entries follow each other in time."""
    with open(path, "rb") as file:
        low, high = 0, file.seek(0, os.SEEK_END)
        while high - low > READ_BYTES:
            middle = (low + high) // 2
            file.seek(middle)
            file.readline()
            at = file.tell()
            if at < high and file.read(STAMP_BYTES) < stamp:
                low = at
            else:
                high = middle
        return low
