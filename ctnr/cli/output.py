"""Output for people and programs: tables, JSON, templates, sizes and ages. Everything is written through `write`."""

from __future__ import annotations

import posix as os
import time

from ctnr.client.environ import lookup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Row = Mapping[str, Any]

GAP = "   "
ID_LENGTH = 12
_COLORS = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def write(text: str | bytes, descriptor: int = 1) -> None:
    """All of it. Raises: BrokenPipeError if nobody reads; for standard error that is nobody's loss."""
    data = memoryview(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        if descriptor == 2:
            return
        if descriptor != 1 or isinstance(error, BrokenPipeError):
            raise
        raise OSError(error.errno, error.strerror, "standard output") from None


def list_rows(
    rows: Sequence[Row],
    columns: Mapping[str, str],
    *,
    format: str | None,
    key: str | None = None,
    quiet: bool = False,
) -> None:
    """Print rows as the flags of a listing want it; arguments as of `rows_text`."""
    write(rows_text(rows, columns, format=format, key=key, quiet=quiet))


def rows_text(
    rows: Sequence[Row],
    columns: Mapping[str, str],
    *,
    format: str | None,
    key: str | None = None,
    quiet: bool = False,
) -> str:
    """Rows as the flags of a listing want it.

    `columns` maps a heading to the row's field; `quiet` prints the field `key` alone. `format` is None (a table),
    json, or a template: ``{{.Name}}`` or, with headings, ``table {{.Name}}\\t{{.State}}``.
    """
    if quiet and key is not None:
        return "".join(f"{row[key]}\n" for row in rows)
    if format == "json":
        return json_text(list(rows))
    if format is None or format == "table":
        return table(list(columns), [[_cell(row.get(field)) for field in columns.values()] for row in rows])
    return _template_text(rows, format)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [headings, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(headings))]
    return "".join(
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def write_json(value: object) -> None:
    """As `json_text` has it."""
    write(json_text(value))


def json_text(value: object) -> str:
    """Indented, as it is read by people as well."""
    import json

    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_value(value: object, format: str | None, show: Callable[[Any], str]) -> None:
    """One object: as JSON, through a template, or as `show` puts it."""
    if format is None:
        write(show(value))
    elif format == "json":
        write_json(value)
    else:
        from ctnr.cli.template import Template

        write(Template(format).render(value) + "\n")


def describe(value: object, indent: str = "") -> str:
    """A nested value as ``key: value`` lines."""
    lines = []
    if isinstance(value, dict):
        for key, inner in value.items():
            name = str(key).replace("_", " ")
            if isinstance(inner, (dict, list)) and inner:
                lines.append(f"{indent}{name}:\n{describe(inner, indent + '  ')}")
            else:
                lines.append(f"{indent}{name}: {_cell(inner)}\n")
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, (dict, list)):
                text = describe(inner, indent + "  ")
                lines.append(f"{indent}- {text[len(indent) + 2 :]}")
            else:
                lines.append(f"{indent}- {_cell(inner)}\n")
    else:
        lines.append(f"{indent}{_cell(value)}\n")
    return "".join(lines)


def human_size(count: float | None) -> str:
    """1.2 MB, 34 kB: powers of 1000, three digits."""
    if count is None:
        return ""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} TB"


def human_time(seconds: float) -> str:
    """How long: 5 seconds, 3 minutes, 2 weeks."""
    seconds = max(seconds, 0)
    for name, length, limit in _SPANS:
        if seconds < limit:
            number = max(int(seconds // length), 0)
            return f"{number} {name}{'' if number == 1 else 's'}"
    return f"{int(seconds // 31557600)} years"


_SPANS = (
    ("second", 1, 60), ("minute", 60, 3600), ("hour", 3600, 2 * 86400), ("day", 86400, 14 * 86400),
    ("week", 604800, 9 * 604800), ("month", 2629800, 2 * 31557600),
)  # fmt: skip


def age(unix_seconds: float | None) -> str:
    """``3 minutes ago``; nothing for None."""
    return "" if unix_seconds is None else f"{human_time(time.time() - unix_seconds)} ago"


def short_id(identifier: str, *, whole: bool = False) -> str:
    """The part of an id or digest that people read and type."""
    return identifier if whole else identifier.removeprefix("sha256:")[:ID_LENGTH]


def shorten(text: str, length: int, *, whole: bool = False) -> str:
    return text if whole or len(text) <= length else text[: length - 1] + "…"


def paint(text: str, color: str, descriptor: int) -> str:
    """In colour on a terminal that has some, unless NO_COLOR is set (no-color.org)."""
    if lookup("NO_COLOR") or lookup("TERM") in (None, "", "dumb") or not os.isatty(descriptor):
        return text
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"


def _template_text(rows: Sequence[Row], format: str) -> str:
    from ctnr.cli.template import Template

    headed = format.startswith("table ")
    template = Template(format.removeprefix("table "))
    if not headed:
        return "".join(template.render(row) + "\n" for row in rows)
    lines = [template.headings().split("\t"), *(template.render(row).split("\t") for row in rows)]
    width = max(len(line) for line in lines)
    lines = [line + [""] * (width - len(line)) for line in lines]
    return table(lines[0], lines[1:])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return str(value).replace("\n", " ").replace("\t", " ")
