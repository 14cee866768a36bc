"""SIGKILL: whoever dies, at whatever moment, nothing is left, and whoever did not live in it lives on."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_own_supervisor import prepare
from tests.cli.test_service import daemons
from tests.sweep.killing import BRIEF, Scene, moments
from tests.sweep.length import amount, covered
from tests.world.machine import Machine
from tests.world.people import Person

SEED = int(os.environ.get("CTNR_SWEEP_SEED", "0")) or time.time_ns() % 1_000_000


@pytest.fixture(params=["root", "user"])
def killed(request: pytest.FixtureRequest, machine: Machine, busybox_image: Path) -> Iterator[Person]:
    with contextlib.closing(Person(machine, request.param)) as person:
        prepare(person, busybox_image)
        yield person
        person.ctnr("rm", "-f", "sibling").ok  # noqa: B018


def test_kills(killed: Person) -> None:
    chance = random.Random(SEED)
    scene = Scene(killed, chance)
    bare = scene.look()
    scene.bring_up()
    scene.person.ctnr("stop", "-t0", "sibling").ok  # noqa: B018
    scene.bring_up()
    up = scene.look()
    count = amount(18, 500)
    for victim in moments(count, chance):
        service = daemons(killed)
        when, client = scene.run_and_kill(victim)
        when = f"seed {SEED}: {when}"
        if victim == "service":
            if killed.uid and not daemons(
                killed
            ):  # else the client had not asked yet, and started another one
                scene.expect(bare + scene.kept(), when)
        elif victim == "init":
            assert daemons(killed) == service, f"{when}: the service is another one"
        else:
            assert daemons(killed) == service, f"{when}: the service is another one"
            assert "sibling" in killed.ctnr("ps", "--format", "{{.Names}}").ok.stdout, (
                f"{when}: the sibling is gone"
            )
            # 137 is the container's own: until it executes its program, its first process is a runtime, too
            if victim in BRIEF and client.status not in (0, 137, -9):
                assert client.stderr.count("\n") == 1, f"{when}: {client.stderr}"
                assert "internal error" not in client.stderr, f"{when}: {client.stderr}"
        if victim == "init" and killed.uid == 0:  # what lay on the host is the next start's
            killed.ctnr("supervisor", "stop", "--force").ok  # noqa: B018
        scene.bring_up()
        scene.expect(up, when)
    hits = ", ".join(f"{hit} × {victim}" for victim, hit in sorted(scene.hits.items()))
    covered(f"{killed.name}: {scene.hits.total()} kills with seed {SEED}: {hits}")
    assert scene.hits.total() > count / 3
