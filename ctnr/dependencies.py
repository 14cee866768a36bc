"""Which container needs which others: who is started before it, and stopped after it. Pure functions of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ctnr.records import Record
from supervisor.errors import SupervisorError

CONDITIONS = ("started", "ready", "healthy")


class Dependency(NamedTuple):
    """`condition` is what has to hold of the container `name` before the other one is started."""

    name: str
    condition: str


def parse_dependency(text: str) -> Dependency:
    """``NAME[:started|ready|healthy]``. Raises: SupervisorError."""
    name, colon, condition = text.partition(":")
    if not name or (colon and condition not in CONDITIONS):
        raise SupervisorError(
            f"--depends-on={text}: not understood", cure=f"NAME, or NAME:{'|'.join(CONDITIONS)}"
        )
    return Dependency(name, condition or "started")


def dependencies_of(record: Record) -> list[Dependency]:
    """What was asked for, and whose network namespace it is to have (as podman counts it)."""
    found = [parse_dependency(text) for text in record.request.depends_on]
    shared = [one for one in record.request.networks or () if one.startswith("container:")]
    return [*found, *(Dependency(one.removeprefix("container:"), "started") for one in shared)]


def check_cycle(record: Record, find: Callable[[str], Record | None]) -> None:
    """Raises: SupervisorError if it needs itself, over others or at once."""

    def visit(one: Record, path: tuple[str, ...]) -> None:
        for name, _ in dependencies_of(one):
            other = find(name)
            if other is None:
                continue
            if other.id == record.id:
                chain = " → ".join((*path, other.name))
                raise SupervisorError(
                    f"container {record.name} depends on itself: {chain}", cure="make one of them without it"
                )
            if other.name not in path:
                visit(other, (*path, other.name))

    visit(record, (record.name,))


def dependants(records: Sequence[Record], find: Callable[[str], Record | None]) -> Mapping[str, set[str]]:
    """Of these records by id: ids of those among them that need it, at once or over others.

    Two that need each other (they can be made, not started) are left out of it: nobody is to wait for ever.
    """
    ids = {record.id for record in records}

    def needed_by(record: Record, seen: frozenset[str]) -> set[str]:
        found: set[str] = set()
        for name, _ in dependencies_of(record):
            other = find(name)
            if other is not None and other.id not in seen:
                found |= {other.id} | needed_by(other, seen | {other.id})
        return found

    needs = {record.id: needed_by(record, frozenset((record.id,))) & ids for record in records}
    return {
        one: {other for other, needed in needs.items() if one in needed and other not in needs[one]}
        for one in ids
    }
