"""hosts and resolv.conf."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.bundles.errors import BundleError
from ctnr.bundles.etc_files import (
    ResolvConf,
    build_hosts,
    build_resolv_conf,
    parse_resolv_conf,
    read_host_resolv_conf,
)

HOST = ResolvConf(
    nameservers=("127.0.0.1", "fe80::1%eth0", "192.0.2.1"), search=("corp",), options=("ndots:2",)
)


def test_private_netns() -> None:
    found = build_resolv_conf(HOST, network_servers=["10.0.2.3"])
    assert found == b"search corp\nnameserver 10.0.2.3\nnameserver 192.0.2.1\noptions ndots:2\n"


def test_host_network_keeps_all() -> None:
    found = build_resolv_conf(HOST, private_netns=False)
    assert found is not None
    assert b"127.0.0.1" in found
    assert b"fe80::1%eth0" in found


def test_asked_for() -> None:
    assert build_resolv_conf(HOST, dns=["none"]) is None
    found = build_resolv_conf(
        HOST, network_servers=["10.0.2.3"], dns=["198.51.100.1"], search=["."], options=["a"]
    )
    assert found == b"nameserver 198.51.100.1\noptions a\n"
    for bad in (["none", "198.51.100.1"], ["example.org"]):
        with pytest.raises(BundleError):
            build_resolv_conf(HOST, dns=bad)
    with pytest.raises(BundleError, match="control character"):
        build_resolv_conf(HOST, search=["x\nnameserver 6.6.6.6"])


def test_no_public_server_is_made_up() -> None:
    assert b"nameserver" not in (build_resolv_conf(ResolvConf(nameservers=("127.0.0.53",))) or b"")


def test_systemd_resolved() -> None:
    files = {
        "/etc/resolv.conf": b"nameserver 127.0.0.53\nsearch a b\n",
        "/run/systemd/resolve/resolv.conf": b"nameserver 192.0.2.9\n",
    }
    assert read_host_resolv_conf(files.__getitem__) == ResolvConf(
        nameservers=("192.0.2.9",), search=("a", "b")
    )


@given(st.binary(max_size=200))
def test_parse_anything(data: bytes) -> None:
    build_resolv_conf(parse_resolv_conf(data))


def test_hosts() -> None:
    found = build_hosts(
        names=("web", "web"),
        address="10.0.2.100",
        entries=("db:192.0.2.5", "up=host-gateway", "six:[::1]"),
        gateway="10.0.2.2",
    ).decode()
    assert "192.0.2.5\tdb\n" in found
    assert "10.0.2.2\tup\n" in found
    assert "::1\tsix\n" in found
    assert "10.0.2.100\tweb\n" in found
    assert build_hosts(names=("x",), address=None, base=b"1.2.3.4 y").startswith(b"1.2.3.4 y\n")
    for bad in ("db", "db:", ":1.2.3.4", "db:name", "a b:1.2.3.4", "up:host-gateway"):
        with pytest.raises(BundleError):
            build_hosts(names=(), address=None, entries=(bad,))
