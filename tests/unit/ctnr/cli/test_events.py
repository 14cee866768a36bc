"""`ctnr events`: lines, JSON, templates and filters as people know them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ctnr.cli.events import ACTIONS, fits

from .conftest import ID, Ctnr

ROOT = Path(__file__).resolve().parents[4]


def event(action: str, **more: Any) -> dict[str, Any]:
    plain = {"time": 1.5, "action": action, "id": ID, "name": "web", "type": "container", "status": None}
    return {**plain, "attributes": {"image": "demo", "tier": "front"}, **more}


DIE = event("die", status=3)
CONNECT = event("connect", type="network", attributes={"network": "slirp", "ifname": "cni0"})
SICK = event("health_status", attributes={"health": "unhealthy"})
LOST = event("lost", type="events", id="", name="", attributes={"count": "7"})


@pytest.fixture
def told(ctnr: Ctnr) -> Ctnr:
    items = [{"event": "item", "value": value} for value in (DIE, CONNECT, LOST)]
    ctnr.service.answers["events"] = [*items, {"event": "result", "value": None}]
    return ctnr


def test_lines(told: Ctnr, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told("events", "--until", "3") == 0
    first, second, third = told.out.splitlines()
    assert first.endswith(f" container die {ID[:12]} (exitCode=3, image=demo, name=web, tier=front)")
    assert second.endswith(
        f" network connect slirp (container={ID[:12]}, ifname=cni0, name=slirp, network=slirp)"
    )
    assert third.endswith(" events lost (count=7, name=)")
    assert (told.asked.since, told.asked.until, told.asked.stream) == (None, 3.0, True)


def test_one_json_object_a_line(told: Ctnr) -> None:
    assert told("events", "--json", "--stream=false", "--filter", "type=container") == 0
    first = json.loads(told.out.splitlines()[0])
    assert (first["Type"], first["Action"], first["Actor"]["ID"]) == ("container", "die", ID)
    assert first["Actor"]["Attributes"]["exitCode"] == "3"
    assert first["ContainerExitCode"] == 3
    assert len(told.out.splitlines()) == 2  # what is lost is told whatever is asked for
    assert told.asked.stream is False


def test_templates_are_checked_before_anything_is_asked(told: Ctnr) -> None:
    assert (
        told("events", "--format", "{{.Action}} {{.Actor.Attributes.name}} {{.Image}}", "-f", "event=died")
        == 0
    )
    assert told.out.splitlines()[0] == "die web demo"
    told.service.asked.clear()
    assert told("events", "--format", "{{.Action") == 125
    assert told("events", "--format", "x", "--json") == 125
    assert told("events", "--filter", "colour=red") == 125
    assert "event, container" in told.err
    assert told("events", "--since", "yesterday") == 125
    assert told.service.asked == []


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        (DIE, {"event": "die"}, True),
        (DIE, {"event": "died"}, True),
        (DIE, {"event": "start"}, False),
        (DIE, {"container": "web"}, True),
        (DIE, {"container": ID[:6]}, True),
        (DIE, {"container": "we"}, False),
        (DIE, {"label": "tier"}, True),
        (DIE, {"label": "tier=back"}, False),
        (DIE, {"image": "demo", "type": "network"}, False),
        (CONNECT, {"network": "slirp"}, True),
        (SICK, {"event": "health_status"}, True),
        (SICK, {"event": "health_status: healthy"}, False),
        (SICK, {"health": "unhealthy"}, True),
    ],
)
def test_filters(value: dict[str, Any], wanted: dict[str, str], expected: bool) -> None:
    assert fits(value, list(wanted.items())) is expected


def test_actions_are_those_that_are_told() -> None:
    told = {
        word
        for package in ("ctnr", "supervisor")
        for source in (ROOT / package).rglob("*.py")
        for word in re.findall(r'\b(?:_?tell|describe_event|_on_change)\(\s*"([a-z_]+)"', source.read_text())
    }
    assert told | {"slirp_died"} == {*ACTIONS}
