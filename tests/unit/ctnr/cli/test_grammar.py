"""The option parser: spellings, where a command's own words begin, times and sizes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.cli.grammar import Command, Option, Parsed, parse, parse_seconds, parse_size
from ctnr.client.errors import UsageError

OPTIONS = (
    Option("tty", "flag", "", short="t"),
    Option("interactive", "flag", "", short="i"),
    Option("env", "list", "", short="e"),
    Option("name", "text", "", short="n", aliases=("called",)),
    Option("count", "number", ""),
    Option("time", "seconds", ""),
    Option("size", "size", ""),
    Option("pull", "text", "", choices=("always", "never")),
)


def read(*argv: str, stops: bool = True) -> Parsed:
    parsed = parse(Command("do", "WORD", "", OPTIONS, lambda *_: 0, stops=stops), argv)
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    "argv",
    [
        ("--name", "x"),
        ("--name=x",),
        ("-n", "x"),
        ("-nx",),
        ("-n=x",),
        ("--called=x",),
        ("-tnx",),
        ("-tn", "x"),
    ],
)
def test_spellings_of_a_value(argv: tuple[str, ...]) -> None:
    assert read(*argv).text("name") == "x"


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        ((), None),
        (("-t",), True),
        (("--tty",), True),
        (("-ti",), True),
        (("--tty=false",), False),
        (("-t=0",), False),
    ],
)
def test_flags(argv: tuple[str, ...], value: bool | None) -> None:
    parsed = read(*argv)
    assert parsed.given("tty") is (value is not None)
    assert parsed.flag("tty") is bool(value)
    assert parsed.flag("tty", default=True) is (value is not False)


def test_values_may_look_like_flags() -> None:
    assert read("-e", "-t", "--env=--name", "--env", "").list("env") == ["-t", "--name", ""]


def test_the_commands_own_words_are_left_alone() -> None:
    assert read("-t", "image", "ls", "-i", "--", "--name").args == ["image", "ls", "-i", "--", "--name"]
    assert read("--", "-t", "x").args == ["-t", "x"]
    assert read("-").args == ["-"]
    parsed = read("a", "-i", "b", stops=False)
    assert parsed.args == ["a", "b"]
    assert parsed.flag("interactive")


def test_numbers() -> None:
    parsed = read("--count=-3", "--time=1m30s", "--size=64m")
    assert (parsed.number("count"), parsed.seconds("time"), parsed.number("size")) == (-3, 90.0, 64 << 20)


@pytest.mark.parametrize(
    "argv",
    [
        "--nme=x",
        "-x",
        "-tx",
        "--count=many",
        "--time=1y",
        "--size=-1",
        "--pull=new",
        "--tty=x",
        "--name",
        "-n",
    ],
)
def test_mistakes_say_where_to_look(argv: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(argv)
    assert caught.value.cure
    assert argv.partition("=")[0].lstrip("-")[:1] in caught.value.message


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["-th"], ["-t", "--help"]])
def test_help(argv: list[str]) -> None:
    assert parse(Command("do", "", "", OPTIONS, lambda *_: 0), argv) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("10s", 10), ("1m30s", 90), ("1.5h", 5400), ("500ms", 0.5), ("1d", 86400)],
)
def test_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("64m", 64 << 20),
        ("64MB", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("1k", 1024),
        ("2b", 2),
        ("1T", 1 << 40),
    ],
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.text(max_size=8))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    for read_one in (parse_seconds, parse_size):
        with contextlib.suppress(ValueError):
            assert read_one(text) >= 0


@given(st.lists(st.text(max_size=6), max_size=6))
def test_any_line_is_parsed_or_told(argv: list[str]) -> None:
    try:
        parsed = parse(Command("do", "", "", OPTIONS, lambda *_: 0, stops=True), argv)
    except UsageError:
        return
    assert parsed is None or len(parsed.args) <= len(argv)
