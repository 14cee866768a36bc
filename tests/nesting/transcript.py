"""Transcripts in a document: its ```console blocks, typed into real terminals, and what they show compared.

    $ command          as an ordinary user types it; `/ # ` is the prompt of a shell in a container
    > more of it       where the shell asks for it
    output             `…` stands for what varies in a line, alone on a line for any lines
    ^C                 Ctrl-C is pressed, at the beginning of a block: the command above it runs until then

A block "```console second" is typed into a second terminal. Both have the same working directory, and last from block
to block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.world.terminal import Terminal, plain

PROMPTS = ("$ ", "/ # ")
SECONDS = 60
_BLOCK = re.compile(r"^```console ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Step:
    """One command. `command` empty: only Ctrl-C."""

    line: int
    terminal: str
    prompt: str
    command: list[str]
    output: list[str] = field(default_factory=list)


def read_steps(text: str) -> Iterator[Step]:
    """Every command of a document, in order. Raises: ValueError for a block that does not begin with one."""
    for block in _BLOCK.finditer(text):
        step: Step | None = None
        first = text.count("\n", 0, block.start()) + 2
        for number, line in enumerate(block[2].splitlines(), first):
            prompt = next((prompt for prompt in PROMPTS if line.startswith(prompt)), None)
            if prompt is not None or line == "^C":
                if step is not None:
                    yield step
                step = Step(number, block[1] or "first", prompt or "", [line[len(prompt or "^C") :]])
            elif step is None:
                raise ValueError(
                    f"line {number}: a transcript begins with a prompt or ^C, not with {line!r}"
                )
            elif line.startswith("> ") and not step.output:
                step.command.append(line[2:])
            else:
                step.output.append(line)
        if step is not None:
            yield step


def play(text: str, open_terminal: Callable[[], Terminal]) -> Iterator[str]:
    """Type all of it. What is shown otherwise than it stands there comes back, with its line."""
    steps = list(read_steps(text))
    terminals: dict[str, Terminal] = {}
    try:
        for at, step in enumerate(steps):
            if step.terminal not in terminals:
                terminals[step.terminal] = open_terminal()
                terminals[step.terminal].expect(r"^\$ ", SECONDS)
            following = next((one for one in steps[at + 1 :] if one.terminal == step.terminal), None)
            shown = _type(terminals[step.terminal], step, following)
            if shown is not None and not fits(step.output, shown):
                yield f"line {step.line}: {step.command[0]}\n{shown}"
    finally:
        for terminal in terminals.values():
            terminal.close()


def _type(terminal: Terminal, step: Step, following: Step | None) -> str | None:
    """What a command shows; None if it goes on, or was ended."""
    start = len(terminal.output)
    if step.command == [""]:
        terminal.ctrl("c")
    else:
        for line in step.command[:-1]:
            terminal.line(line)
            terminal.expect("^> ", SECONDS)
        terminal.line(step.command[-1])
    if following is not None and following.prompt == "":
        for line in step.output:
            terminal.expect(re.escape(line), SECONDS)
        return None
    prompt = following.prompt if following is not None else "$ "
    end = terminal.expect(f"^{re.escape(prompt)}", SECONDS).start()
    shown = plain(terminal.output[start:end]).split("\n", len(step.command))[-1]
    return shown if step.prompt else None


def fits(expected: list[str], shown: str) -> bool:
    """Is `shown` what is expected? White space at the end of a line does not count."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "…" else re.escape(line.rstrip()).replace("…", ".*") + "\n"
        for line in expected
    )
    lines = [line.rstrip() for line in shown.splitlines()]
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None
