"""Lines and patterns: what is looked at here, what is for a process of its own, and how that answers."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import pytest

from supervisor.line_search import BEHIND_BYTES, LineSearch
from supervisor.sandbox.sandbox import python_argv


@pytest.mark.parametrize(
    ("chunks", "found"),
    [
        ([("stdout", b"one\nready\n")], 1),
        ([("stdout", b"rea"), ("stderr", b"dy"), ("stdout", b"dy")], 1),
        ([("stdout", b"rea"), ("stderr", b"dy")], 0),
        ([("stdout", b"ready"), ("stdout", b"ready\nready")], 1),
        ([("stdout", b"\xff ready")], 1),
        ([("stdout", b"rea\ndy")], 0),
        ([("stdout", b"." * 4000 + b"ready")], 1),
        ([("stdout", b"." * 5000), ("stdout", b"ready\n")], 0),  # beyond what is looked at of a line
        ([("stdout", b"." * 5000 + b"\nready")], 1),
    ],
)
def test_lines(chunks: list[tuple[str, bytes]], found: int) -> None:
    calls: list[None] = []
    search = LineSearch(re.compile("ready"), lambda: calls.append(None), pytest.fail)
    for stream, data in chunks:
        search.feed(stream, data)
    assert len(calls) == found


@pytest.mark.parametrize(
    ("pattern", "costly"),
    [
        ("ready", False), ("^listening on 8080$", False), (r"\bup\.", False), ("[a-z]x.", False), (r"(a)\1", True),
        ("(a+)+$", True), ("a?a?a?aaa", True), ("(a|a)(a|a)", True), (".*x", True), ("x{9}", True), ("up [0-9]+", True),
    ],
)  # fmt: skip
def test_what_may_be_costly_is_not_matched_here(pattern: str, costly: bool) -> None:
    assert LineSearch(re.compile(pattern), pytest.fail, pytest.fail).needs_process is costly


def test_what_comes_too_fast_is_told_once_and_not_kept() -> None:
    told: list[str] = []
    search = LineSearch(re.compile("x*y"), pytest.fail, told.append)
    for _ in range(2 * BEHIND_BYTES // 4000):
        search.feed("stdout", b"a" * 4000 + b"\n")
    assert told == ["its output comes faster than its pattern can be looked for"]
    assert search._waiting_bytes == 0


def test_the_matcher_answers_packet_by_packet() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = python_argv("supervisor.sandbox.matcher", "^up+ [0-9]$")
    with ours, theirs:
        started = f"import os,sys;os.dup2({theirs.fileno()},3);os.execv(sys.argv[1],sys.argv[1:])"
        with subprocess.Popen([sys.executable, "-c", started, *argv], pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            for packet, answer in ((b"up", b"0"), (b"x\nupp 7\ny", b"1"), (b"\xff up 7", b"0")):
                ours.send(packet)
                assert ours.recv(9) == answer
            ours.close()
            assert process.wait(20) == 0
