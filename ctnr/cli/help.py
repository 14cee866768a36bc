"""`--help` and `ctnr help`, written from the option tables."""

from __future__ import annotations

import posix as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.cli.grammar import Command, Option

_COLUMN = 30


def command_help(command: Command, width: int | None = None) -> str:
    """The text of `ctnr COMMAND --help`."""
    width = width or text_width()
    usage = f"Usage: ctnr {command.name}"
    if command.options:
        usage += " [OPTIONS]"
    if command.arguments:
        usage += " " + command.arguments
    lines = [usage, "", command.summary]
    if command.options:
        lines += ["", "Options:"]
        for option in sorted(command.options, key=lambda option: option.name):
            lines += _entry(spell_option(option), describe_option(option), width)
    return "\n".join(lines) + "\n"


def overview(groups: list[tuple[str, list[tuple[str, str]]]], global_options: tuple[Option, ...]) -> str:
    """The text of `ctnr help`: `groups` are titles with pairs of command and summary."""
    width = text_width()
    lines = [
        "Usage: ctnr [OPTIONS] COMMAND …",
        "",
        "Containers without root and without a daemon to set up.",
    ]
    for title, commands in groups:
        lines += ["", title + ":"]
        for name, summary in commands:
            lines += _entry(f"  {name}", summary, width, column=22)
    lines += ["", "Options:"]
    for option in global_options:
        lines += _entry(spell_option(option), describe_option(option), width)
    lines += ["", "ctnr COMMAND --help tells more."]
    return "\n".join(lines) + "\n"


def text_width() -> int:
    try:
        return max(60, min(os.get_terminal_size(1).columns, 110))
    except OSError:
        return 100


def spell_option(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    value = ""
    if option.kind != "flag":
        value = " " + (option.metavar or option.kind.upper())
    return f"  {short}--{option.name}{value}"


def describe_option(option: Option) -> str:
    text = option.help
    if option.choices:
        text += f" ({', '.join(option.choices)})"
    if option.aliases:
        text += f" (also {', '.join('--' + alias for alias in option.aliases)})"
    if option.kind == "list":
        text += "; may be repeated"
    return text


def _entry(left: str, text: str, width: int, column: int = _COLUMN) -> list[str]:
    lines = []
    if len(left) + 2 > column:
        lines.append(left)
        left = ""
    line = left.ljust(column)
    for word in text.split():
        if len(line) + 1 + len(word) > width and line.strip():
            lines.append(line.rstrip())
            line = " " * column
        line += ("" if line.endswith(" ") or not line else " ") + word
    lines.append(line.rstrip())
    return lines
