"""What supervisors of one machine share while they come and go."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from supervisor.network import journal


def test_the_last_one_takes_nothing_from_under_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flock(2) is of an open file, so that threads stand for processes here."""
    state = tmp_path / "state"
    for name, value in (("STATE_DIR", ""), ("JOURNAL_DIR", "/journal"), ("LEASE_DIR", "/leases")):
        monkeypatch.setattr(journal, name, f"{state}{value}")
    failed: list[str] = []

    def come_and_go() -> None:
        for _ in range(100):
            try:
                with journal.open_journal() as mine:
                    mine.of_others()
                    trio.run(mine.sweep, None)  # nothing is on record
                    if not os.path.isdir(mine.directory):
                        failed.append("its directory was taken away")
            except (OSError, AssertionError) as exc:
                failed.append(repr(exc))

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failed, state.exists()) == ([], False)
