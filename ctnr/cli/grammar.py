"""How options are written: tables of `Option`, one parser, and `--help` made from the same tables.

argparse would cost 13 ms and can't stop at the first word of `run IMAGE COMMAND -with -its -own`.
Understood: ``--name value``, ``--name=value``, ``-n value``, ``-nvalue``, ``-ti`` (joined), ``--flag=false``, ``--``.
"""

from __future__ import annotations

from ctnr.client.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctnr.client.connect import Service

    Value = bool | int | float | str | list[str] | None

_TRUE = ("1", "t", "true", "y", "yes", "on")
_FALSE = ("0", "f", "false", "n", "no", "off")


class Option:
    """One flag.

    Kinds: flag (bool), text, list (may be repeated), number (int), decimal (float), size (bytes), limit (bytes, or -1),
    seconds (float).
    """

    __slots__ = ("aliases", "choices", "help", "key", "kind", "metavar", "name", "short")

    def __init__(
        self, name: str, kind: str, help: str, *, short: str = "", metavar: str = "", aliases: tuple[str, ...] = (),
        choices: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.name, self.kind, self.help, self.short = name, kind, help, short
        self.metavar, self.aliases, self.choices = metavar, aliases, choices
        self.key = name.replace("-", "_")


class Command:
    """One command: its words, its options, and what does the work.

    `arguments` is how usage shows the positional ones, `least` and `most` are how many (-1: any). `stops` commands
    leave everything after their first positional argument alone.
    """

    __slots__ = ("arguments", "least", "most", "name", "options", "run", "stops", "summary")

    def __init__(
        self, name: str, arguments: str, summary: str, options: tuple[Option, ...],
        run: Callable[[Service, Parsed], int], *, least: int = 0, most: int = -1, stops: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.arguments, self.summary, self.options, self.run = (
            name,
            arguments,
            summary,
            options,
            run,
        )
        self.least, self.most, self.stops = least, most, stops


class Parsed:
    """A command's options by name and its positional arguments."""

    __slots__ = ("_values", "args", "command")

    def __init__(self, command: str, values: dict[str, Value], args: list[str]) -> None:
        self.command, self._values, self.args = command, values, args

    def set(self, key: str, value: str) -> None:
        self._values[key] = value

    def given(self, key: str) -> bool:
        return key in self._values and self._values[key] is not None

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._values[key]
        return default if value is None else bool(value)

    def text(self, key: str) -> str | None:
        value = self._values[key]
        return None if value is None else str(value)

    def list(self, key: str) -> list[str]:
        value = self._values[key]
        return value if isinstance(value, list) else []

    def number(self, key: str) -> int | None:
        value = self._values[key]
        return None if value is None else int(value)  # type: ignore[arg-type]  # the parser has seen to it

    def decimal(self, key: str) -> float | None:
        value = self._values[key]
        return None if value is None else float(value)  # type: ignore[arg-type]  # the parser has seen to it

    def seconds(self, key: str) -> float | None:
        value = self._values[key]
        return None if value is None else float(value)  # type: ignore[arg-type]  # the parser has seen to it


def parse(command: Command, argv: Sequence[str]) -> Parsed | None:
    """None if help was asked for. Raises: UsageError."""
    values: dict[str, Value] = {option.key: None for option in command.options}
    args: list[str] = []
    at, end = 0, len(argv)
    while at < end:
        word = argv[at]
        at += 1
        if word == "--":
            args += argv[at:]
            break
        if len(word) < 2 or word[0] != "-":
            args.append(word)
            if command.stops:
                args += argv[at:]
                break
            continue
        if word[1] == "-":
            name, equals, text = word[2:].partition("=")
            option = _find_long(command, name)
            if option is None:
                return None  # --help
            if not equals and option.kind != "flag":
                if at == end:
                    raise _usage(command, f"--{name} needs a value")
                text, equals = argv[at], "="
                at += 1
            _store(command, values, option, "--" + name, text if equals else None)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            option = _find_short(command, letter, word)
            if option is None:
                return None  # -h
            if option.kind == "flag" and not letters.startswith("="):
                _store(command, values, option, "-" + letter, None)
                continue
            if not letters:
                if at == end:
                    raise _usage(command, f"-{letter} needs a value")
                letters = argv[at]
                at += 1
            elif letters[0] == "=":
                letters = letters[1:]
            _store(command, values, option, "-" + letter, letters)
            break
    least = command.least - (values.get("latest") is True)  # it stands for one that is not named
    if len(args) < least:
        raise _usage(
            command, f"{command.name} needs {command.arguments}" if args else f"missing {command.arguments}"
        )
    if 0 <= command.most < len(args):
        raise _usage(command, f"too many arguments: {' '.join(args[command.most :])}")
    return Parsed(command.name, values, args)


def parse_seconds(text: str) -> float:
    """``1m30s``, ``500ms``, ``10`` (seconds). Raises: ValueError."""
    total, number, rest = 0.0, "", text
    if not text:
        raise ValueError("empty")
    while rest:
        if rest[0].isdigit() or rest[0] == ".":
            number, rest = number + rest[0], rest[1:]
            continue
        unit = "ms" if rest.startswith("ms") else rest[0]
        factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}.get(unit)
        if factor is None or not number:
            raise ValueError(text)
        total, number, rest = total + float(number) * factor, "", rest[len(unit) :]
    return total + (float(number) if number else 0.0)


def parse_size(text: str) -> int:
    """``64m``, ``1.5GiB``, ``4096``; units are powers of 1024, as everywhere with containers. Raises: ValueError."""
    lower = text.lower().removesuffix("ib").removesuffix("b")
    factor = 1
    if lower and lower[-1] in "kmgt":
        factor = 1024 ** ("kmgt".index(lower[-1]) + 1)
        lower = lower[:-1]
    if not lower[:1].isdigit() or "e" in lower or "_" in lower:  # what float() takes beyond sizes
        raise ValueError(text)
    return int(float(lower) * factor)


def suggest(word: str, known: Sequence[str]) -> str | None:
    """The nearest known word, if one is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return near[0] if near else None


def _find_long(command: Command, name: str) -> Option | None:
    for option in command.options:
        if option.name == name or name in option.aliases:
            return option
    if name == "help":
        return None
    known = ["help", *[known for option in command.options for known in (option.name, *option.aliases)]]
    near = suggest(name, known)
    raise _usage(command, f"unknown flag --{name}", near and f"did you mean --{near}?")


def _find_short(command: Command, letter: str, word: str) -> Option | None:
    for option in command.options:
        if letter == option.short:
            return option
    if letter == "h":
        return None
    known = [option.name for option in command.options]
    near = f"-{word}" if word[1:] in known else None  # -rm for --rm
    shown = f"-{letter}" if len(word) == 2 else f"-{letter} in {word}"
    raise _usage(command, f"unknown flag {shown}", near and f"did you mean {near}?")


def _store(command: Command, values: dict[str, Value], option: Option, shown: str, text: str | None) -> None:
    kind, value = option.kind, None
    if kind == "flag":
        if text is None or text.lower() in _TRUE:
            value = True
        elif text.lower() in _FALSE:
            value = False
        else:
            raise _usage(command, f"{shown}={text}: true or false is expected")
        values[option.key] = value
        return
    assert text is not None
    if option.choices and text not in option.choices:
        raise _usage(command, f"{shown}={text}: one of {', '.join(option.choices)} is expected")
    if kind == "list":
        before = values[option.key]
        if isinstance(before, list):
            before.append(text)
        else:
            values[option.key] = [text]
        return
    try:
        if kind == "number":
            values[option.key] = int(text)
        elif kind == "size":
            values[option.key] = parse_size(text)
        elif kind == "limit":
            values[option.key] = -1 if text == "-1" else parse_size(text)
        elif kind == "decimal":
            values[option.key] = float(text)
        elif kind == "seconds":
            values[option.key] = parse_seconds(text)
        else:
            values[option.key] = text
    except ValueError:
        expected = {
            "number": "a number",
            "size": "a size such as 64m",
            "limit": "a size such as 64m, or -1 for no limit",
            "decimal": "a number such as 1.5",
            "seconds": "a time such as 10s or 1m30s",
        }[kind]
        raise _usage(command, f"{shown}={text}: {expected} is expected") from None


def _usage(command: Command, message: str, cure: str | None = None) -> UsageError:
    return UsageError(message, cure=cure or f"see {' '.join(['ctnr', *command.name.split()])} --help")
