"""JSON in, typed values out, and every failure a NetconfError that says where and what was expected."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from netconf.errors import NetconfError

T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises about documents that others wrote: not JSON, not of the type, not UTF-8, nested too deeply."""

_KINDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def decode(
    raw: bytes | msgspec.Raw, kind: type[T], *, file: str | None = None, field: str | None = None
) -> T:
    """The JSON document `raw` as a `kind`.

    `file` and `field` say where the document stands; the place of a failure inside it is added to them.
    Raises: NetconfError.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except UNREADABLE as exc:
        failure = _explain(exc, bytes(raw), file, field)
    raise failure


def decode_tolerant(
    raw: bytes | msgspec.Raw, kind: type[T], *, file: str | None = None, field: str | None = None
) -> T:
    """As `decode`, with null read as "not there" everywhere: so do the Go programs of the CNI world."""
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(raw)), type=kind)
    except UNREADABLE as exc:
        failure = _explain(exc, bytes(raw), file, field)
    raise failure


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value


def _explain(exc: Exception, raw: bytes, file: str | None, field: str | None) -> NetconfError:
    if isinstance(exc, UnicodeDecodeError):
        return NetconfError(
            "holds a string that is not UTF-8", file=file, field=field, expected="JSON in UTF-8"
        )
    if isinstance(exc, RecursionError):
        return NetconfError("is nested too deeply", file=file, field=field, expected="a JSON object")
    if not raw.strip():
        return NetconfError("is empty", file=file, field=field, expected="a JSON object")
    if isinstance(exc, msgspec.ValidationError):
        return _explain_type(str(exc), file, field)
    return NetconfError(_place(str(exc), raw), file=file, field=field)


def _explain_type(text: str, file: str | None, field: str | None) -> NetconfError:
    problem, _, place = text.partition(" - at `$")
    field = join_field(field, place.rstrip("`"))
    missing = re.fullmatch(r"Object missing required field `(.+)`", problem)
    if missing:
        return NetconfError(
            "is missing", file=file, field=join_field(field, "." + missing[1]), expected="it to be there"
        )
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", problem)
    if unknown:
        return NetconfError("is not known", file=file, field=join_field(field, "." + unknown[1]))
    wrong = re.fullmatch(r"Expected `(.+)`, got `(.+)`", problem)
    if wrong:
        kinds = [_KINDS.get(kind, kind) for kind in wrong[1].split(" | ") if kind != "null"]
        got = _KINDS.get(wrong[2], wrong[2])
        return NetconfError(f"is {got}", file=file, field=field, expected=" or ".join(kinds))
    return NetconfError(problem[:1].lower() + problem[1:], file=file, field=field)


def join_field(outer: str | None, inner: str) -> str | None:
    """`plugins[0]` and `.dns.search` → `plugins[0].dns.search`."""
    return f"{outer or ''}{inner}".removeprefix(".") or None


def _place(text: str, raw: bytes) -> str:
    """msgspec counts bytes; people count lines."""
    if text == "Input data was truncated":
        return "ends in the middle of its JSON"
    found = re.fullmatch(r"JSON is malformed: (.+) \(byte (\d+)\)", text)
    if not found:
        return text[:1].lower() + text[1:]
    before = raw[: int(found[2])]
    line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
    return f"is not JSON at line {line}, column {column} ({found[1]})"
