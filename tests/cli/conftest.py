"""A person with an image, for the tests of the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.machine import Machine
from tests.world.people import Person


@pytest.fixture(scope="module", params=["root", "user"])
def me(request: pytest.FixtureRequest, machine: Machine, busybox_image: Path) -> Iterator[Person]:
    """Somebody whose store has the image `demo` (busybox), with a service that stays warm."""
    with contextlib.closing(Person(machine, request.param)) as person:
        person.ctnr("pull", "--image-policy=insecure", f"oci:{busybox_image}").ok  # noqa: B018
        name = person.ctnr("images", "--format", "{{.ID}}").ok.stdout.split()[0]
        person.ctnr("image", "tag", name, "demo").ok  # noqa: B018
        for network in ("bridge", "default") if person.uid == 0 else ("bridge",):
            person.ctnr("run", "--rm", f"--network={network}", "demo", "true").ok  # noqa: B018 -- what they keep is up now
        yield person


@pytest.fixture
def newcomer(as_user: Person, busybox_image: Path) -> Person:
    """Somebody with the image `demo` and a service of a few seconds' age."""
    pulled = as_user.ctnr("pull", "-q", "--image-policy=insecure", f"oci:{busybox_image}").ok.stdout.strip()
    as_user.ctnr("image", "tag", pulled, "demo").ok  # noqa: B018
    return as_user


@pytest.fixture
def names(me: Person) -> Iterator[list[str]]:
    """Containers that a test has started in the background; they are removed at its end."""
    made: list[str] = []
    yield made
    if made:
        me.ctnr("rm", "-f", *made)
