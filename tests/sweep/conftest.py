"""What the sweeps play on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweep.stage import Home, open_home
from tests.sweep.stories import PULLED, Props
from tests.world.internet import Internet
from tests.world.machine import Machine
from tests.world.registry import Registry


@pytest.fixture(scope="session")
def _pulled(registry: Registry, layered_image: Path) -> None:
    registry.push(layered_image, f"library/{PULLED}")


@pytest.fixture
def home(machine: Machine, busybox_image: Path) -> Iterator[Home]:
    """Folders and an image for a stage."""
    with open_home(machine, busybox_image) as opened:
        yield opened


@pytest.fixture
def props(bundle: Path, tmp_path: Path, _pulled: None, internet: Internet) -> Props:
    """pasta takes its addresses over from the interface with the default route: there must be one."""
    return Props(bundle, tmp_path / "log")
