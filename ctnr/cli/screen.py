"""Something that is shown again and again: in place on a terminal, one after the other elsewhere."""

from __future__ import annotations

import posix as os

from ctnr.cli.output import write
from ctnr.client.environ import lookup

_HOME, _REST_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """Shows one text after the other on standard output."""

    def __init__(self) -> None:
        self._in_place = os.isatty(1) and lookup("TERM") not in (None, "", "dumb")

    def show(self, text: str) -> None:
        """In the place of the one before. On a terminal lines are cut to what it has."""
        if not self._in_place:
            write(text if text.endswith("\n") else f"{text}\n")
            return
        columns, rows = os.get_terminal_size(1)  # zeros where nobody has set it
        lines = [line[: columns or None] for line in text.splitlines()]
        lines = lines[: max(rows - 1, 1)] if rows else lines
        write(_HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in lines) + _BELOW)
