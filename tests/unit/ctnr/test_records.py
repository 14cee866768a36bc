"""Records of several services on one store."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctnr import requests
from ctnr.records import Records


def test_bundles_of_other_services_are_known_to_be_in_use(tmp_path: Path) -> None:
    ours, theirs = (Records(str(tmp_path), owner=f"host:/run/{number}") for number in range(2))
    assert ours.all() == []  # read before the other one writes, as a service does that has run for long
    request = requests.Run(version="")
    record = theirs.new("theirs", image="demo", image_id="0" * 64, command=(), bundle="kit", request=request)
    assert ours.all() == []
    assert ours.bundles() == theirs.bundles() == {"kit"}
    theirs.remove(record)
    assert ours.bundles() == set()


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    records = Records(str(tmp_path), owner="host:/run/0")
    request = requests.Run(version="")
    record = records.new("web", image="demo", image_id="0" * 64, command=(), bundle="kit", request=request)
    path = tmp_path / record.id / "container.json"
    path.with_name("container.json.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        records.save(record)
    assert caught.value.filename == str(path)
    assert records.all() == [record]
