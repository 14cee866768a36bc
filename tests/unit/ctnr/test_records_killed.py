"""Records of a service that is killed while it makes one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

from ctnr.records import Record, Records
from ctnr.requests import Run
from supervisor.lock import locked


def make(records: Records, name: str = "a") -> Record:
    request = Run(version="1", image="demo")
    return records.new(name, image="demo", image_id="sha256:0", request=request)


class Killed(Records):
    """Its process gets SIGKILL before a record is written."""

    def save(self, record: Record) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_one_that_was_killed_while_it_was_made(tmp_path: Path) -> None:
    root = str(tmp_path / "containers")
    child = os.fork()
    if not child:
        with contextlib.suppress(Exception):
            make(Killed(root, "us"))
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert len(os.listdir(root)) == 1
    assert Records(root, "us").all() == []
    assert os.listdir(root) == []


def test_others_records_stay(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    kept = make(Records(str(root), "them"))
    (root / "older").mkdir()
    (root / "older" / "container.json").write_text("of another version")
    (root / "half").mkdir()
    (root / "half" / "container.json.new").write_text("{")
    assert Records(str(root), "us").all() == []
    assert sorted(os.listdir(root)) == sorted([kept.id, "older"])


def test_one_that_is_just_being_made_is_waited_for(tmp_path: Path) -> None:
    root = str(tmp_path)
    (tmp_path / "new").mkdir()
    beside = threading.Thread(target=lambda: Records(root, "us").all())
    with locked(root):  # as Records.new holds it
        beside.start()
        time.sleep(0.05)
        (tmp_path / "new" / "container.json").write_text("{}")
    beside.join()
    assert os.listdir(root) == ["new"]
