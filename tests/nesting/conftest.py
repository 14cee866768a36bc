"""A repository after `make dist`, and somebody who works in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.machine import Machine, run
from tests.world.people import Person

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def repository(machine: Machine) -> Iterator[Path]:
    """A repository's directory after `make dist`, where everybody can read it."""
    folder = machine.root / "repository"
    folder.mkdir()
    run([str(machine.python), str(ROOT / ".ci/dist"), str(folder / "dist")])
    shutil.copy(ROOT / "image-policy-example.json", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def typist(as_user: Person, repository: Path, alpine: str) -> Person:
    """Somebody whose `ctnr` is that of `make dist`, and who has set nothing that the seed does not mention."""
    del as_user.env["CTNR_STORE_DIR"]
    as_user.env["PATH"] = f"{repository}/dist/bin:" + as_user.env["PATH"].partition(":")[2]
    return as_user
