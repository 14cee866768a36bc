"""Log files: each line once, from the end or from a time, over rotation, removal and a full disk."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing

from supervisor.errors import SupervisorError
from supervisor.runtime import journald
from supervisor.runtime.log_reader import LogReader, lines_of, read_log
from supervisor.runtime.logs import MAX_LINE_BYTES, LogOptions, LogWriter, open_log


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def writer(path: str) -> Iterator[LogWriter]:
    writer = LogWriter(path)
    yield writer
    if not writer.closed:
        writer.close()


def texts(reader: LogReader) -> list[str]:
    found = []
    while entries := reader.read():
        found += [line[40:].decode().rstrip("\n") for line in lines_of(entries)]
    return found


@pytest.mark.parametrize("count", [0, 1, 3, 9, 10_000, 20_000])
def test_the_last_lines_are_read_from_the_end(path: str, writer: LogWriter, count: int) -> None:
    everything = [f"line {number}" for number in range(10_000)]
    writer.write("stdout", "".join(f"{line}\n" for line in everything).encode())
    with LogReader(path, tail=count) as reader:
        assert texts(reader) == (everything[-count:] if count else [])
        writer.write("stdout", b"later\n")
        assert texts(reader) == ["later"], "it goes on where it stopped"


@pytest.mark.parametrize("max_files", [1, 3])
def test_no_file_is_lost_where_none_can_be_made(path: str, max_files: int) -> None:
    """Out of descriptors it goes on in the file that it has, and rotates when it can again."""
    writer = LogWriter(path, max_bytes=1000, max_files=max_files)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    writer.write("stdout", b"a" * 800 + b"\n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        for _ in range(5):
            writer.write("stdout", b"b" * 500 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [line.data[:1] for line in read_log(path)] == [b"a", *[b"b"] * 5]
    writer.write("stdout", b"c\n")
    writer.close()
    assert [line.data[:1] for line in read_log(path)] == (
        [b"c"] if max_files == 1 else [b"a", *[b"b"] * 5, b"c"]
    )
    assert writer.lost is None
    assert not os.path.exists(f"{path}.new")


def test_what_comes_after_the_asked_time_is_not_read(path: str, writer: LogWriter) -> None:
    """It may be gigabytes, during which a service would do nothing else."""
    writer.write("stdout", b"early\n")
    until = time.time()
    time.sleep(0.001)
    for _ in range(200):
        writer.write("stdout", b"x" * 99 + b"\n" * 1000)
    before = _bytes_read()
    with LogReader(path, until=until) as reader:
        assert texts(reader) == ["early"]
        assert texts(reader) == []
    assert _bytes_read() - before < 1 << 18 < os.path.getsize(path)


def test_the_end_of_a_long_log_is_near(path: str, writer: LogWriter) -> None:
    """What is read for it is told by the kernel, not by a clock."""
    for _ in range(200):
        writer.write("stdout", b"x" * 99 + b"\n" * 1000)
    before = _bytes_read()
    with LogReader(path, tail=10) as reader:
        assert len(texts(reader)) == 10
    assert _bytes_read() - before < 1 << 18 < os.path.getsize(path)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_parts_of_a_line_count_as_one(path: str, writer: LogWriter) -> None:
    long = b"a" * (MAX_LINE_BYTES * 2 + 5)
    writer.write("stdout", b"one\n" + long)
    writer.write("stdout", b"\ntwo\n")
    with LogReader(path, tail=2) as reader:
        assert "".join(texts(reader)) == long.decode() + "two"
    with LogReader(path, tail=1) as reader:
        assert texts(reader) == ["two"]
    writer.write("stderr", b"b" * MAX_LINE_BYTES)  # unfinished
    with LogReader(path, tail=1) as reader:
        assert texts(reader) == ["b" * MAX_LINE_BYTES]


def test_times_bound_what_is_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(path, max_bytes=200_000, max_files=3)
    moment = 1_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: moment * 1_000_000_000)
    for _ in range(15_000):
        writer.write("stdout", f"{moment}\n".encode())
        moment += 1
    writer.close()
    kept = [int(line.data) for line in read_log(path)]
    assert len(kept) < 15_000, "rotated away"
    for since in (0, kept[0], kept[1], kept[len(kept) // 3], kept[-2], kept[-1], moment):
        with LogReader(path, since=since) as reader:
            assert texts(reader) == [str(one) for one in kept if one >= since]
    with LogReader(path, since=kept[5], until=kept[7]) as reader:
        assert texts(reader) == [str(one) for one in kept[5:8]]
    with LogReader(path, until=kept[-10], tail=2) as reader:
        assert texts(reader) == [str(kept[-11]), str(kept[-10])]
    with LogReader(path, since=kept[-3], tail=20) as reader:
        assert texts(reader) == [str(one) for one in kept[-3:]]


@pytest.mark.parametrize("files", [1, 2, 3])
def test_rotation_keeps_so_many_files(path: str, files: int) -> None:
    writer = LogWriter(path, max_bytes=1000, max_files=files)
    for number in range(200):
        writer.write("stdout", f"{number:04}\n".encode())
    writer.close()
    names = sorted(os.listdir(os.path.dirname(path)))
    assert names == ["log", "log.1", "log.2"][:files]
    assert all(os.path.getsize(f"{os.path.dirname(path)}/{name}") <= 1000 for name in names)
    numbers = [int(line.data) for line in read_log(path)]
    assert numbers == list(range(200 - len(numbers), 200))


async def test_followed_over_rotation_each_line_comes_once(path: str) -> None:
    writer = LogWriter(path, max_bytes=700, max_files=5)
    got: list[str] = []

    async def follow(reader: LogReader) -> None:
        with reader:
            async for entries in reader.follow(writer):
                got.extend(line[40:].decode().strip() for line in lines_of(entries))

    writer.write("stdout", b"0\n1\n2\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, LogReader(path, tail=2))
        for number in range(3, 300):
            writer.write("stdout", f"{number}\n".encode())
            if number % 7 == 0:
                await trio.testing.wait_all_tasks_blocked()
        writer.close()
    assert got == [str(number) for number in range(1, 300)]


async def test_lines_of_one_moment_are_not_lost_at_the_seam(
    path: str, writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    writer.write("stdout", b"a\nb\n")
    with LogReader(path, tail=1) as reader:
        assert texts(reader) == ["b"]
        writer.write("stdout", b"c\n")
        writer.close()
        assert [line async for line in reader.follow(writer)] == [
            b"1970-01-01T00:00:01.000000000Z stdout F c\n"
        ]


async def test_following_ends_at_a_time(
    path: str, writer: LogWriter, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    with LogReader(path, until=time.time() + 5) as reader:
        async for _ in reader.follow(writer):
            pytest.fail("nothing was written")
    assert 0 < trio.current_time() - began <= 5


def test_a_log_that_somebody_removes_begins_anew(path: str, writer: LogWriter) -> None:
    writer.write("stdout", b"one\n")
    with LogReader(path) as reader:
        assert texts(reader) == ["one"]
        os.unlink(path)
        writer.write("stdout", b"two\n")
        assert texts(reader) == ["two"]
    assert [line.data for line in read_log(path)] == [b"two\n"]


def test_a_full_disk_costs_lines_and_is_told_once(path: str) -> None:
    """A limit on the size of files stands in for the disk: write(2) stops short of it, and then fails."""
    writer = LogWriter(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with structlog.testing.capture_logs() as told:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
        try:
            for number in range(5):
                writer.write("stdout", f"{number} {'x' * 50}\n".encode())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.write("stdout", b"later\n")
    writer.close()
    assert writer.lost is not None
    assert [line.data[:5] for line in read_log(path)] == [b"0 xxx", b"1 xxx", b"later"]
    assert [len(line.data) for line in read_log(path)] == [53, 18, 6], (
        "the second one stops where the disk was full"
    )
    assert [one["event"] for one in told] == ["log_lines_lost"]


def test_the_journal_gets_lines_with_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journald, "SOCKET", str(tmp_path / "journal"))
    options = LogOptions(driver="journald", fields={"CONTAINER_NAME": "web", "NOTE": "two\nlines"})
    with pytest.raises(SupervisorError, match="no journal here"):
        open_log("", options)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        log = open_log("", options)
        assert log is not None
        log.write("stdout", b"out\nun")
        log.write("stderr", b"err\n")
        log.close()
        got = [journal.recv(1 << 16) for _ in range(3)]
    assert got[0] == b"MESSAGE=out\nPRIORITY=6\nCONTAINER_NAME=web\nNOTE\n\x09\0\0\0\0\0\0\0two\nlines\n"
    assert [message.split(b"\n")[:2] for message in got[1:]] == [
        [b"MESSAGE=err", b"PRIORITY=3"],
        [b"MESSAGE=un", b"PRIORITY=6"],
    ]
    assert log.lost is None
