"""Files that change, in each of the ways in which programs change them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import trio
import trio.testing

from supervisor.watch import SETTLE_SECONDS, Watch, open_watch


async def changes(watch: Watch, act: Callable[[], object]) -> bool:
    """Does the watch notice `act`?"""
    noticed = False

    async def wait() -> None:
        nonlocal noticed
        await watch.wait_change()
        noticed = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        act()
        await trio.sleep(4 * SETTLE_SECONDS)
        nursery.cancel_scope.cancel()
    return noticed


def replace(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.rename(path)


def relink(path: Path, target: str) -> None:
    new = path.with_name("new")
    new.symlink_to(target)
    new.rename(path)


async def test_in_place_by_rename_and_away_and_back(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    async with open_watch(str(file)) as watch:
        for _ in range(2):  # what has been replaced is watched as well
            assert await changes(watch, lambda: file.write_text("b"))
            assert await changes(watch, lambda: replace(file, "c"))
            assert not await changes(watch, (tmp_path / "other").touch)
        assert await changes(watch, file.unlink)
        assert await changes(watch, lambda: file.write_text("again"))
        assert await changes(watch, lambda: file.write_text("in place"))


async def test_all_along_a_chain_of_links(tmp_path: Path) -> None:
    for name in ("etc", "run", "elsewhere"):
        (tmp_path / name).mkdir()
    path, middle, end = tmp_path / "etc/link", tmp_path / "run/middle", tmp_path / "run/end"
    path.symlink_to("../run/middle")
    middle.symlink_to("end")
    end.write_text("a")
    async with open_watch(str(path)) as watch:
        assert await changes(watch, lambda: end.write_text("b"))
        assert await changes(watch, lambda: replace(end, "c"))
        assert not await changes(watch, (tmp_path / "elsewhere/end").touch)
        assert await changes(watch, lambda: relink(middle, "../elsewhere/end"))
        assert await changes(watch, lambda: (tmp_path / "elsewhere/end").write_text("d"))
        assert await changes(watch, lambda: relink(path, "own"))
        assert await changes(watch, lambda: (tmp_path / "etc/own").write_text("e"))


async def test_what_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    async with open_watch(str(tmp_path / "later"), str(tmp_path / "loop"), "/no/such/folder/file") as watch:
        assert await changes(watch, lambda: (tmp_path / "later").write_text("a"))
        assert await changes(watch, lambda: relink(tmp_path / "loop", "later"))


async def test_cancelled_it_holds_nothing(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with trio.move_on_after(0.01):
        async with open_watch(str(tmp_path / "file")) as watch:
            await watch.wait_change()
    assert before == len(os.listdir("/proc/self/fd"))
