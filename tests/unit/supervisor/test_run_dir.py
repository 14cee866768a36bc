"""Whose run directory is a dead one's, and what is never taken for one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from supervisor.lock import try_lock
from supervisor.run_dir import PREFIX, SANDBOX, is_deserted, own_run_dir, remove_deserted


def test_the_dead_go_and_the_living_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("dead", "program", "used", "living"):
        (tmp_path / f"{PREFIX}{name}").mkdir()
    (tmp_path / f"{PREFIX}program" / SANDBOX).mkdir()
    (tmp_path / f"{PREFIX}used" / "file").touch()
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "others")
    (tmp_path / "others" / SANDBOX).mkdir(parents=True)
    lock = try_lock(str(tmp_path / f"{PREFIX}living"))
    assert lock is not None
    with own_run_dir() as own:
        assert not is_deserted(own)
        remove_deserted()
        left = {path.name.removeprefix(PREFIX) for path in tmp_path.iterdir()}
        assert left == {Path(own).name.removeprefix(PREFIX), "used", "file", "link", "others", "living"}
        (Path(own) / SANDBOX).mkdir()
    assert not os.path.lexists(own)
    assert (tmp_path / "others" / SANDBOX).exists()
    assert is_deserted(own)
    os.close(lock)
    remove_deserted()
    assert not (tmp_path / f"{PREFIX}living").exists()
