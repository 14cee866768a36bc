from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from netconf.conf import NetworkList
from netconf.errors import NetconfError
from netconf.request import AttachmentArgs
from netconf.result import parse_result
from supervisor.network.records import AttachmentRecord, Records

NETWORK = NetworkList.from_bytes(
    b'{"name": "n", "type": "bridge", "x-vendor": 1.50}', "/etc/cni/net.d/n.conf"
)
RAW = b'{"cniVersion": "1.0.0", "ips": [], "x-vendor": 1.50}'


def a_record(
    container_id: str = "c1", ifname: str = "cni0", *, with_result: bool = True
) -> AttachmentRecord:
    args = AttachmentArgs(
        container_id=container_id,
        ifname=ifname,
        netns="/run/netns/x",
        cni_args=(("K", "v"),),
        capability_args={"portMappings": [{"hostPort": 1}]},
        cni_path=("/usr/lib/cni",),
    )
    return AttachmentRecord(network=NETWORK, args=args, result=parse_result(RAW) if with_result else None)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    records = Records(str(tmp_path / "records"))
    records.save(a_record())
    loaded = records.load("c1", "cni0")
    assert loaded is not None
    assert loaded.args == a_record().args
    assert loaded.result == a_record().result
    assert loaded.result is not None
    assert bytes(loaded.result.raw) == RAW
    assert bytes(loaded.network.raw) == bytes(NETWORK.raw)
    assert loaded.network.source == NETWORK.source
    assert bytes(loaded.network.plugins[0].raw) == bytes(NETWORK.plugins[0].raw)


def test_parts_of_an_attachment_stand_beside_it(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    part = msgspec.structs.replace(a_record(with_result=False), part="ports1")
    records.save(a_record())
    records.save(part)
    assert [(one.part, one.result is None) for one in records.list("c1")] == [("", False), ("ports1", True)]
    assert records.load("c1", "cni0", "ports1") == records.list()[1]
    records.remove("c1", "cni0", "ports1")
    assert [one.part for one in records.list()] == [""]
    with pytest.raises(NetconfError, match="not allowed"):
        records.save(msgspec.structs.replace(part, part="../x"))


def test_private_to_the_user(tmp_path: Path) -> None:
    records = Records(str(tmp_path / "records"))
    records.save(a_record())
    for path in [tmp_path / "records", *(tmp_path / "records").rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_new_add_does_not_inherit_an_old_result(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    records.save(a_record())
    records.save(a_record(with_result=False))
    loaded = records.load("c1", "cni0")
    assert loaded is not None
    assert loaded.result is None


def test_list_is_sorted_and_by_container(tmp_path: Path) -> None:
    records = Records(str(tmp_path / "none yet"))
    assert records.list() == ()
    for container_id, ifname in [("c2", "cni0"), ("c1", "cni1"), ("c1", "cni0")]:
        records.save(a_record(container_id, ifname))
    assert [(one.args.container_id, one.args.ifname) for one in records.list()] == [
        ("c1", "cni0"),
        ("c1", "cni1"),
        ("c2", "cni0"),
    ]
    assert len(records.list("c1")) == 2
    assert records.list("c9") == ()


def test_remove_leaves_nothing(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    records.save(a_record("c1", "cni0"))
    records.save(a_record("c1", "cni1"))
    records.remove("c1", "cni0")
    records.remove("c1", "cni0")
    assert [one.args.ifname for one in records.list()] == ["cni1"]
    records.remove("c1", "cni1")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_record_hides_no_other(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    records.save(a_record("c1"))
    records.save(a_record("c2"))
    (tmp_path / "c1/cni0/config.conflist").write_text("{")
    (tmp_path / "stray file").write_text("")
    (tmp_path / "c3/cni0").mkdir(parents=True)  # died before attachment.json
    assert [one.args.container_id for one in records.list()] == ["c2"]
    with pytest.raises(NetconfError, match="ends in the middle"):
        records.load("c1", "cni0")


def test_a_moved_record_is_not_believed(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    records.save(a_record("c1"))
    (tmp_path / "c1").rename(tmp_path / "c2")
    with pytest.raises(NetconfError, match="another attachment"):
        records.load("c2", "cni0")


@pytest.mark.parametrize("container_id", ["../x", "", "a/b"])
def test_names_can_not_leave_the_directory(tmp_path: Path, container_id: str) -> None:
    records = Records(str(tmp_path))
    record = a_record()
    args = msgspec.structs.replace(record.args, container_id=container_id)
    with pytest.raises(NetconfError):
        records.save(msgspec.structs.replace(record, args=args))
    with pytest.raises(NetconfError):
        records.remove(container_id, "cni0")
