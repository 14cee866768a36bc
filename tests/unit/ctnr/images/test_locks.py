"""Locks between tasks; between processes tests/images has them."""

from __future__ import annotations

from pathlib import Path

import trio

from ctnr.images.locks import claim, dead_claims, file_lock


async def test_one_at_a_time_and_who_waited_is_told(tmp_path: Path) -> None:
    inside, told = 0, []

    async def work() -> None:
        nonlocal inside
        async with file_lock(str(tmp_path / "lock"), transient=True) as has_waited:
            inside += 1
            assert 1 == inside
            await trio.sleep(0.001)
            inside -= 1
            told.append(has_waited)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(work)
    assert [False, True, True, True, True] == told
    assert [] == list(tmp_path.iterdir())


async def test_shared_ones_go_together_and_exclude_the_exclusive(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    async with file_lock(path, shared=True), file_lock(path, shared=True):
        with trio.move_on_after(0.02) as scope:
            async with file_lock(path):
                raise AssertionError
        assert scope.cancelled_caught
    async with file_lock(path) as has_waited:
        assert not has_waited


def test_claims_are_dead_only_when_their_holder_is(tmp_path: Path) -> None:
    with claim(str(tmp_path)) as path:
        Path(path).write_text("half")
        assert [] == dead_claims(str(tmp_path))
    assert [path] == dead_claims(str(tmp_path)), "it was left: the next sweep takes it"
    with claim(str(tmp_path)) as path:
        Path(path).write_text("whole")
        Path(path).rename(tmp_path / "done")
    assert path not in dead_claims(str(tmp_path))
    assert [] == dead_claims(str(tmp_path / "nowhere"))
