"""A store with an image, for programs that embed the engine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from ctnr import open_engine
from tests.world.machine import Machine

IMAGE = "demo"


@pytest.fixture(scope="session")
def store(machine: Machine, busybox_image: Path) -> Path:
    """A store of root's with busybox in it as `demo`."""
    path = machine.root / "embedded-store"

    async def fill() -> None:
        async with open_engine(str(path)) as engine:
            image = await engine.pull(f"oci:{busybox_image}", image_policy="insecure")
            await engine.tag(image.id, IMAGE)

    trio.run(fill)
    return path


def left_in(store: Path) -> list[str]:
    """What containers have left in a store."""
    return [
        f"{part}/{name}"
        for part in ("containers", "bundles")
        if (store / part).is_dir()
        for name in os.listdir(store / part)
    ]
