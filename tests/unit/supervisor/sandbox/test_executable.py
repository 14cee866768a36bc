"""What the head of a file tells of who executes it; the kernel's own answer is tests/cli/test_refused_starts.py's."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.sandbox.executable import HEAD_BYTES, interpreter_of
from supervisor.sandbox.places import DANGLING, DIRECTORY, FILE, LOOP, MISSING, THROUGH, look
from supervisor.sandbox.sandbox import PACKAGES


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"#!/bin/sh\n", "/bin/sh"),
        (b"#! /bin/sh -eu\n", "/bin/sh"),
        (b"#!\t/bin/env python\n", "/bin/env"),
        (b"#!/bin/sh", "/bin/sh"),
        (b"#!relative\n", "relative"),
        (b"#!\n/bin/sh", None),
        (b"#!" + b"/x" * 200, "/x" * 127),
        (b"", None),
        (b"echo hello\n", None),
        (b"\x7fELF", None),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\xf7\0" + bytes(100), None),
    ],
)
def test_interpreters(head: bytes, expected: str | None) -> None:
    assert interpreter_of(head) == expected


def test_programs_of_this_machine() -> None:
    with open("/proc/self/exe", "rb") as file:
        found = interpreter_of(file.read(HEAD_BYTES))
    assert found is not None
    assert found == "" or os.path.exists(found)


@given(st.binary(max_size=300))
@example(
    b"\x7fELF\x02\x01\x01"
    + bytes(9)
    + struct.pack("<HHIQQQIHHH", 2, 62, 1, 0, 2**63, 0, 0, 64, 65535, 65535)
)
@example(
    b"\x7fELF\x01\x02\x01"
    + bytes(9)
    + struct.pack(">HHIIIIIHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 1)
    + bytes(40)
)
def test_any_head_has_an_answer(head: bytes) -> None:
    for start in (b"", b"#!", b"\x7fELF\x02\x01", b"\x7fELF\x01\x02"):
        found = interpreter_of(start + head)
        assert found is None or "\0" not in found


def test_init_imports_nothing_that_costs_milliseconds_for_it() -> None:
    names = ", ".join(f"supervisor.sandbox.{one}" for one in ("executable", "places", "marked"))
    code = f"import sys;sys.path.append({PACKAGES!r});import {names};print({{'enum', 'signal'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True)
    assert done.stdout == b"set()\n"


def test_places(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    for name, target in (("loop", "loop"), ("nowhere", "/no/where"), ("up", "../../dir"), ("to", "/file")):
        (tmp_path / name).symlink_to(target)
    expected = {
        "/": DIRECTORY, "/dir": DIRECTORY, "/file": FILE, "/up": DIRECTORY, "/to": FILE, "/new": MISSING,
        "/dir/new/er": MISSING, "/up/new": MISSING, "/file/x": THROUGH, "/to/x/y": THROUGH, "/loop/x": LOOP,
        "/nowhere": DANGLING, "/nowhere/x": DANGLING,
    }  # fmt: skip
    assert look(str(tmp_path), list(expected)) == list(expected.values())
