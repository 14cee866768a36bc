"""``--format`` templates: the part of Go's text/template that people type from habit.

Fields (``{{.State.Pid}}``, in any spelling of case and underscores), ``{{json .}}``, pipelines, ``range`` (also with
``$key, $value :=``), ``if``, ``with``, ``else``, ``end``, and the functions in `_FUNCTIONS`. ``\\t`` and ``\\n`` are
taken for what they mean, as shells leave them alone.
"""

from __future__ import annotations

import re

from ctnr.cli.grammar import suggest
from ctnr.client import jsonlite
from ctnr.client.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Scope = dict[str, Any]  # "." is the current value, "$" the outermost, "$name" a variable
    Expression = Callable[[Scope], Any]
    Node = Callable[[Scope], str]

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<punctuation>:=|[()|,])
    |(?P<path>(?:\$\w*)?(?:\.\w+)+|\$\w*|\.)|(?P<word>\w+))""",
    re.VERBOSE,
)


# Of names that users choose: what has none of that name is empty, as Go's maps are
_MAPS = (
    "Labels", "Annotations", "Networks", "Ports", "ExposedPorts", "PortBindings", "Sysctls", "Options", "Volumes",
    "Attributes", "labels", "annotations", "environ",
)  # fmt: skip
# What is left out where there is none: a container's health, and fields of image configurations (OCI image-spec 1.1)
_OPTIONAL = frozenset((
    "health", "user", "exposedports", "env", "entrypoint", "cmd", "volumes", "workingdir", "labels", "stopsignal",
    "healthcheck", "onbuild", "shell", "argsescaped", "memory", "memoryswap", "cpushares", "created", "createdby",
    "author", "comment", "emptylayer",
))  # fmt: skip


class Template:
    """A parsed template."""

    def __init__(self, source: str) -> None:
        """Raises: UsageError for what can't be understood."""
        self._source = source
        self._fields: list[str] = []
        self._pieces = _split(source.replace("\\t", "\t").replace("\\n", "\n"))
        self._at = 0
        self._nodes, ended_by = self._block()
        if ended_by:
            raise self._wrong(f"{ended_by} without range or if")

    def render(self, value: object) -> str:
        """Raises: UsageError for a field that there is not."""
        scope = {".": value, "$": value}
        return "".join(node(scope) for node in self._nodes)

    def headings(self) -> str:
        """The template as a table's first line: every action becomes the name of its field, in capitals."""
        pieces = _split(self._source.replace("\\t", "\t").replace("\\n", "\n"))
        return "".join(_heading(text) if is_action else text for is_action, text in pieces)

    def _block(self) -> tuple[list[Node], str]:
        """Nodes up to `end` or `else`, and which of them it was ("" at the end of the text)."""
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            is_action, text = self._pieces[self._at]
            self._at += 1
            if not is_action:
                nodes.append(lambda scope, text=text: text)  # type: ignore[misc]
                continue
            word = text.partition(" ")[0]
            if word in ("end", "else"):
                return nodes, text
            if word in ("range", "if", "with"):
                nodes.append(self._branch(word, text[len(word) :]))
            elif not text.startswith("/*"):
                expression = self._expression(text)
                nodes.append(lambda scope, expression=expression: _show(expression(scope)))  # type: ignore[misc]
        return nodes, ""

    def _branch(self, word: str, text: str) -> Node:
        names: list[str] = []
        if match := re.match(r"\s*\$(\w+)\s*(?:,\s*\$(\w+))?\s*:=", text):
            names = [name for name in match.groups() if name]
            text = text[match.end() :]
        condition = self._expression(text)
        body, ended_by = self._block()
        otherwise: list[Node] = []
        if ended_by.startswith("else if "):
            otherwise = [self._branch("if", ended_by[len("else if ") :])]
        else:
            if ended_by == "else":
                otherwise, ended_by = self._block()
            if ended_by != "end":
                raise self._wrong(f"{word} without end")

        def render(scope: Scope) -> str:
            value = condition(scope)
            if not value:
                return "".join(node(scope) for node in otherwise)
            if word == "if":
                return "".join(node(scope) for node in body)
            if word == "with":
                inner = {**scope, ".": value, **{"$" + name: value for name in names}}
                return "".join(node(inner) for node in body)
            if not isinstance(value, (dict, list, tuple)):
                raise self._wrong(f"range over {_show(value)[:40]!r}, which is no list")
            pairs = sorted(value.items()) if isinstance(value, dict) else list(enumerate(value))
            parts = []
            for key, item in pairs:
                named = [item] if len(names) < 2 else [key, item]
                inner = {
                    **scope,
                    ".": item,
                    **dict(zip(["$" + name for name in names], named, strict=False)),
                }
                parts += [node(inner) for node in body]
            return "".join(parts)

        return render

    def _expression(self, text: str) -> Expression:
        tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._wrong(text[at:].strip())
            tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            at = match.end()
        expression, rest = self._pipeline(tokens)
        if rest:
            raise self._wrong(rest[0][1])
        return expression

    def _pipeline(self, tokens: list[tuple[str, str]]) -> tuple[Expression, list[tuple[str, str]]]:
        expression, tokens = self._call(tokens, None)
        while tokens and tokens[0] == ("punctuation", "|"):
            expression, tokens = self._call(tokens[1:], expression)
        return expression, tokens

    def _call(
        self, tokens: list[tuple[str, str]], piped: Expression | None
    ) -> tuple[Expression, list[tuple[str, str]]]:
        function: Callable[..., Any] | None = None
        if tokens and tokens[0][0] == "word" and tokens[0][1] not in ("true", "false", "nil"):
            name = tokens[0][1]
            function = _FUNCTIONS.get(name)
            if function is None:
                near = suggest(name, list(_FUNCTIONS))
                raise self._wrong(name, near and f"did you mean {near}?")
            tokens = tokens[1:]
        operands: list[Expression] = []
        while tokens and tokens[0] not in (("punctuation", "|"), ("punctuation", ")")):
            operand, tokens = self._operand(tokens)
            operands.append(operand)
        if piped is not None:
            operands.append(piped)
        if function is None:
            if len(operands) != 1:
                raise self._wrong("a field or a function with its arguments is expected")
            return operands[0], tokens

        def call(scope: Scope) -> Any:
            assert function is not None
            try:
                return function(*[operand(scope) for operand in operands])
            except (TypeError, LookupError, ValueError, AttributeError) as error:
                raise self._wrong(str(error)) from None

        return call, tokens

    def _operand(self, tokens: list[tuple[str, str]]) -> tuple[Expression, list[tuple[str, str]]]:
        (kind, text), rest = tokens[0], tokens[1:]
        if kind == "text":
            try:
                value = text[1:-1] if text[0] == "`" else jsonlite.decode(text.encode())
            except ValueError:
                raise self._wrong(f"{text} is no text") from None
            return lambda scope: value, rest
        if kind == "number":
            number = float(text) if "." in text else int(text)
            return lambda scope: number, rest
        if kind == "word":
            constant = {"true": True, "false": False, "nil": None}.get(text)
            return lambda scope: constant, rest
        if kind == "path":
            return self._path(text), rest
        if text == "(":
            inner, rest = self._pipeline(rest)
            if not rest or rest[0][1] != ")":
                raise self._wrong("a ) is missing")
            rest = rest[1:]
            if rest and rest[0][0] == "path" and rest[0][1].startswith(".") and len(rest[0][1]) > 1:
                below = self._path(rest[0][1])
                return lambda scope: below({**scope, ".": inner(scope)}), rest[1:]
            return inner, rest
        raise self._wrong(text)

    def _path(self, text: str) -> Expression:
        start, _, names = text.partition(".")
        fields = [name for name in names.split(".") if name]

        def value_of(scope: Scope) -> Any:
            if (start or ".") not in scope:
                raise self._wrong(f"variable {start} is not known")
            value = scope[start or "."]
            path = start
            for name in fields:
                path += f".{name}"
                value = self._field(value, name, path, scope["$"])
            return value

        return value_of

    def _field(self, value: Any, name: str, path: str, root: Any) -> Any:
        """The field `name` of a value, which `path` leads to; None for one that may be there and is not.

        Raises: UsageError for one that there is not.
        """
        if not isinstance(value, dict):
            if value is None:
                return None
            raise self._wrong(f"there is no {path} in {_show(value)[:40]!r}")
        if name in value:
            return value[name]
        plain = _plain(name)
        for key, inner in value.items():
            if _plain(key) == plain:
                return inner
        if value is not root and (plain in _OPTIONAL or _is_free(root, value)):
            return None
        near = suggest(name.lower(), [key.lower() for key in value])
        known = next((key for key in value if key.lower() == near), None) if near else None
        raise self._wrong(
            f"there is no {path}",
            f"did you mean {path[: -len(name)]}{known}?" if known else f"there are: {', '.join(value)}",
        )

    def _wrong(self, what: str, cure: str | None = None) -> UsageError:
        return UsageError(
            f"--format {self._source!r}: {what}", cure=cure or "for example: --format '{{json .}}'"
        )


def _split(source: str) -> list[tuple[bool, str]]:
    """(is it an action, its text) in order; ``{{-`` and ``-}}`` trim the text beside them."""
    pieces: list[tuple[bool, str]] = []
    at, trim = 0, False
    for match in _ACTION.finditer(source):
        text = source[at : match.start()]
        text = text.lstrip() if trim else text
        text = text.rstrip() if match[1] else text
        if text:
            pieces.append((False, text))
        pieces.append((True, match[2]))
        at, trim = match.end(), bool(match[3])
    rest = source[at:].lstrip() if trim else source[at:]
    if "{{" in rest:
        raise UsageError(f"--format {source!r}: {{{{ without }}}}")
    return [*pieces, (False, rest)] if rest else pieces


def _heading(action: str) -> str:
    names = re.findall(r"\.(\w+)", action)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", names[-1]).upper() if names else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _is_free(value: Any, wanted: Any, *, is_map: bool = False, is_cni: bool = False) -> bool:
    """Whether `wanted`, somewhere in `value`, may have any keys: it is a map of names, or part of a CNI document."""
    if value is wanted:
        return is_map or is_cni
    if isinstance(value, (list, tuple)):
        return any(_is_free(inner, wanted, is_cni=is_cni) for inner in value)
    if not isinstance(value, dict):
        return False
    is_cni = is_cni or "cniVersion" in value
    return any(_is_free(inner, wanted, is_map=key in _MAPS, is_cni=is_cni) for key, inner in value.items())


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_show(item)}" for key, item in sorted(value.items())) + "]"
    return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else value[key]
    return value


def _format(form: str, *values: Any) -> str:
    pieces = iter(values)
    return re.sub(
        r"%(-?\d*)[svdq]", lambda match: f"%{match[1]}s" % _show(next(pieces, "")), form.replace("%%", "\0")
    ).replace("\0", "%")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda value: jsonlite.encode(value).decode(),
    "join": lambda values, separator: separator.join(_show(value) for value in values or []),
    "split": lambda text, separator: text.split(separator),
    "index": _index,
    "len": lambda value: len(value or ()),
    "upper": lambda text: _show(text).upper(),
    "lower": lambda text: _show(text).lower(),
    "title": lambda text: _show(text).title(),
    "print": lambda *values: "".join(_show(value) for value in values),
    "println": lambda *values: " ".join(_show(value) for value in values) + "\n",
    "printf": _format,
    "eq": lambda value, *others: value in others,
    "ne": lambda value, other: value != other,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
}
