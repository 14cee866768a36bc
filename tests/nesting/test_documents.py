"""The transcripts in the documents, every command as it stands there, as an ordinary user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nesting.transcript import fits, play, read_steps
from tests.world.internet import Internet
from tests.world.machine import Machine
from tests.world.people import Person

DOCUMENT = Path(__file__).parents[2] / "docs/user-mode-networking.md"


@pytest.fixture
def reader(machine: Machine, repository: Path, alpine: str) -> Iterator[Person]:
    """Somebody who reads the document in the repository's directory."""
    with contextlib.closing(Person(machine, "user")) as person:
        del person.env["CTNR_STORE_DIR"]
        yield person


def test_user_mode_networking(reader: Person, repository: Path, internet: Internet) -> None:
    def open_terminal() -> object:
        return reader.terminal(["sh", "-c", f"cd {repository} && PS1='$ ' PS2='> ' exec sh"], columns=250)

    wrong = list(play(DOCUMENT.read_text(), open_terminal))
    assert not wrong, "\n\n".join(wrong)


def test_the_notation() -> None:
    text = "```console\n$ echo a\na\n$ cat\n```\n\n```console second\n/ # one \\\n> two\n```\n"
    text += "```console\n^C\n$ exit\n```\n"
    steps = list(read_steps(text))
    assert [(step.line, step.terminal, step.prompt, step.command, step.output) for step in steps] == [
        (2, "first", "$ ", ["echo a"], ["a"]), (4, "first", "$ ", ["cat"], []),
        (8, "second", "/ # ", ["one \\", "two"], []), (12, "first", "", [""], []), (13, "first", "$ ", ["exit"], []),
    ]  # fmt: skip
    assert fits(["a … c", "…", "z"], "a b c\nx\ny\nz  \n")
    assert fits(["…"], "")
    assert not fits(["a"], "a\nb\n")
    assert not fits(["a.c"], "abc\n")
