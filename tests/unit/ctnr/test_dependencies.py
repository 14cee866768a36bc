"""Who needs whom: parsed, in circles, and turned round for the end."""

from __future__ import annotations

import pytest

from ctnr.dependencies import check_cycle, dependants, dependencies_of, parse_dependency
from ctnr.records import Record
from ctnr.requests import Run
from supervisor.errors import SupervisorError


def house(**needs: tuple[str, ...]) -> dict[str, Record]:
    """Records by name, each with what it needs."""
    return {
        name: Record(
            id=name * 3, name=name, owner="me", image="demo", image_id="x", created=0.0,
            request=Run(version="1", depends_on=others),
        )
        for name, others in needs.items()
    }  # fmt: skip


def test_parsing() -> None:
    assert parse_dependency("db") == ("db", "started")
    assert parse_dependency("db:healthy") == ("db", "healthy")
    for text in ("", ":ready", "db:", "db:later"):
        with pytest.raises(SupervisorError, match="--depends-on"):
            parse_dependency(text)


def test_whose_network_it_shares_counts() -> None:
    (record,) = house(a=("b:ready",)).values()
    request = Run(version="1", depends_on=("b:ready",), networks=("container:c", "slirp"))
    record.request = request
    assert dependencies_of(record) == [("b", "ready"), ("c", "started")]


def test_circles() -> None:
    records = house(a=("b",), b=("c",), c=("a",), d=("a",), e=("e",), f=("nobody",))
    for name, chain in (("a", "a → b → c → a"), ("e", "e → e")):
        with pytest.raises(SupervisorError, match=chain):
            check_cycle(records[name], records.get)
    check_cycle(records["d"], records.get)  # it needs a circle, but is not in it
    check_cycle(records["f"], records.get)


def test_dependants_over_others_and_in_circles() -> None:
    records = house(web=("app",), app=("db",), db=(), x=("y",), y=("x",))
    given = [records[name] for name in ("web", "db", "x", "y")]
    found = dependants(given, records.get)
    assert found["dbdbdb"] == {"webwebweb"}  # app, between them, is not one of those
    assert found["webwebweb"] == found["xxx"] == found["yyy"] == set()
