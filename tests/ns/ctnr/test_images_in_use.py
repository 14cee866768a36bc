"""A gc that comes when an image has been found, and nothing tells yet that a container is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from ctnr import __version__, creation, housekeeping, open_engine
from ctnr.images.garbage import Dropped
from ctnr.requests import ImageGc


@pytest.mark.parametrize("every", [False, True])
async def test_the_image_of_a_container_in_the_making_stays(
    tmp_path: Path, busybox_image: Path, monkeypatch: pytest.MonkeyPatch, every: bool
) -> None:
    make_room = creation._make_room
    collected = trio.Event()
    dropped: list[Dropped] = []

    async with open_engine(str(tmp_path / "store")) as engine, trio.open_nursery() as nursery:
        image = await engine.pull(f"oci:{busybox_image}", image_policy="insecure")
        if not every:
            for name in image.names:
                await engine._engine.images.untag(name)

        async def collect() -> None:
            dropped.append(
                await housekeeping.collect_images(engine._engine, ImageGc(version=__version__, all=every))
            )
            collected.set()

        async def collect_meanwhile(*args: Any) -> None:
            nursery.start_soon(collect)
            with trio.move_on_after(0.5):  # long enough for a gc that does not wait
                await collected.wait()
            assert not collected.is_set()
            await make_room(*args)

        monkeypatch.setattr(creation, "_make_room", collect_meanwhile)
        async with engine.run(image.id, ["sleep", "1000"], networks=["none"]):
            await collected.wait()
            assert dropped == [Dropped(images=[])]
        monkeypatch.setattr(creation, "_make_room", make_room)
        assert (await engine.run_process(image.id, ["true"], networks=["none"])).status == 0
        await collect()
        assert dropped[-1].images == [image.id]  # nothing is made of it any more
