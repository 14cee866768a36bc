"""A question that somebody answers at a terminal before anything is lost."""

from __future__ import annotations

import posix as os

from ctnr.cli.output import write
from ctnr.client.errors import UsageError


def is_sure(command: str, text: str, question: str) -> bool:
    """Show the text and wait for the answer. Raises: UsageError if nobody is there to be asked."""
    if not os.isatty(0):
        raise UsageError(
            f"{command}: nobody can be asked, standard input is no terminal", cure="add --force"
        )
    write(f"{text}{question} [y/N] ")
    try:
        return os.read(0, 100).strip().lower() in (b"y", b"yes")
    except KeyboardInterrupt:
        write("\n")
        raise
