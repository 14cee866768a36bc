"""--filter KEY=VALUE of everything that lists: how it is read, and held against what is listed."""

from __future__ import annotations

from ctnr.cli.grammar import Option
from ctnr.client.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Filters = list[tuple[str, str]]
    Known = Mapping[str, Sequence[str]]  # key → the values that there are, none for any

BOOLEAN = ("true", "false", "1", "0")


def filter_option(known: Known, short: str = "f") -> Option:
    """The one that takes these."""
    return Option(
        "filter", "list", f"only those that fit: {', '.join(known)}", short=short, metavar="KEY=VALUE"
    )


def parse_filters(filters: list[str], known: Known) -> Filters:
    """Pairs of key and value. Raises: UsageError."""
    pairs = []
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise UsageError(
                f"--filter={text}: not known", cure=f"KEY=VALUE, with one of: {', '.join(known)}"
            )
        if known[key] and value not in known[key]:
            raise UsageError(f"--filter={text}: {key} is one of {', '.join(known[key])}")
        pairs.append((key, value))
    return pairs


def all_fit(filters: Filters, fits: Callable[[str, str], bool]) -> bool:
    """All keys must fit; of several values for one key, one must. Labels must all fit, as with docker and podman."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for key, value in filters:
        wanted.setdefault((key, value if key == "label" else ""), []).append(value)
    return all(any(fits(key, value) for value in values) for (key, _), values in wanted.items())


def label_fits(labels: Mapping[str, str], value: str) -> bool:
    """``KEY`` or ``KEY=VALUE``."""
    key, equals, wanted = value.partition("=")
    return key in labels and (not equals or labels[key] == wanted)


def name_fits(pattern: str, name: str) -> bool:
    """A regular expression, as docker and podman have it."""
    if pattern.replace("-", "").replace("_", "").isalnum():
        return pattern in name  # importing re takes 5 ms
    import re

    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise UsageError(f"--filter name={pattern}: {error}") from None


def is_true(value: str) -> bool:
    """One of BOOLEAN."""
    return value in ("true", "1")
