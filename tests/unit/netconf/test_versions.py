from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import netconf
from netconf.errors import NetconfError
from netconf.names import check_container_id, check_ifname, check_network_name
from netconf.versions import agreed_version, needs_probe, parse_version, supports, usable_versions

OLD = ("0.3.1", "0.4.0", "1.0.0")
NEW = ("1.0.0", "1.1.0")


@pytest.mark.parametrize(
    ("allowed", "supported", "agreed"),
    [
        (("1.0.0",), [OLD, NEW], "1.0.0"),
        (("1.0.0", "1.1.0"), [NEW], "1.1.0"),
        (("1.0.0", "1.1.0"), [NEW, OLD], "1.0.0"),
        (("1.1.0",), [OLD], "1.0.0"),  # formats are compatible within a major version
        (("1.1.0",), [("0.4.0",)], None),
        (("0.4.0", "1.1.0"), [("0.4.0",)], "0.4.0"),
        (("0.4.0",), [NEW], None),
        (("1.1.0",), [], "1.1.0"),
    ],
)
def test_agreed_version(
    allowed: tuple[str, ...], supported: list[tuple[str, ...]], agreed: str | None
) -> None:
    assert agreed_version(allowed, supported) == agreed


def test_probing_is_for_those_that_have_a_choice() -> None:
    assert not needs_probe(("1.0.0",))
    assert needs_probe(("1.1.0",))
    assert needs_probe(("0.4.0", "1.0.0"))


def test_supports() -> None:
    assert supports("0.4.0", "CHECK")
    assert not supports("0.3.1", "CHECK")
    assert not supports("1.0.0", "GC")
    assert supports("1.1.0", "STATUS")


@pytest.mark.parametrize("text", ["", "x", "1.", "1.0.0.0", "-1.0", "1.0.0-rc1", "1٠", "9" * 5000])
def test_malformed(text: str) -> None:
    with pytest.raises(NetconfError, match="is not a version"):
        parse_version(text)


def test_usable() -> None:
    assert usable_versions("", []) == ("0.1.0",)
    with pytest.raises(NetconfError, match=r"1\.0\.5 is not a CNI version"):
        usable_versions("1.0.5", [])


@pytest.mark.parametrize("name", ["a", "0", "a_b.c-d", "A" * 255])
def test_good_names(name: str) -> None:
    assert check_network_name(name) == check_container_id(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a b", "a/b", "é", "a\n", "A" * 256])
def test_bad_names(name: str) -> None:
    with pytest.raises(NetconfError):
        check_network_name(name)
    with pytest.raises(NetconfError):
        check_container_id(name)


def test_ifname_is_counted_in_bytes() -> None:
    assert check_ifname("ééééééé") == "ééééééé"
    for bad in ("éééééééé", "a b", "a:b", "a\0", "\x1b[2J", "a\u2028"):
        with pytest.raises(NetconfError):
            check_ifname(bad)


def test_every_public_name_is_there() -> None:
    for name in netconf.__all__:
        assert getattr(netconf, name) is not None
    with pytest.raises(AttributeError):
        _ = netconf.nothing


def test_importing_the_package_costs_nothing() -> None:
    code = "import netconf, sys; sys.exit('msgspec' in sys.modules)"
    root = Path(netconf.__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
