from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from netconf.errors import NetconfError, NetworkNotFound
from netconf.load import (
    builtin_names,
    is_builtin,
    list_networks,
    load_builtin,
    load_file,
    load_network,
    search_path,
)

SEED_SLIRP = {"name": "slirp", "type": "slirp", "mtu": 1500}
SEED_BRIDGE = {
    "type": "bridge",
    "name": "bridge",
    "bridge": "ctnr-bridge",
    "ipMasq": True,
    "isGateway": True,
    "ipam": {"type": "host-local", "subnet": "10.2.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]},
    "dns": {"nameservers": ["10.2.0.1"]},
}


def write(path: Path, name: str, kind: str = "a") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"name": name, "type": kind}
    if path.suffix == ".conflist":
        config = {"name": name, "plugins": [{"type": kind}]}  # type: ignore[dict-item]
    path.write_text(json.dumps(config))


def test_search_path() -> None:
    assert search_path({}, "/users/u") == ("/users/u/.cni/net.d", "/etc/cni/net.d")
    assert search_path({"NETCONFPATH": ""}, None) == ("/etc/cni/net.d",)
    assert search_path({"NETCONFPATH": "/a::/b"}, "/users/u") == ("/a", "/b")


@pytest.mark.parametrize(("name", "seed"), [("slirp", SEED_SLIRP), ("bridge", SEED_BRIDGE)])
def test_built_ins_are_the_seed_s(name: str, seed: object) -> None:
    network = load_network(name, [])
    assert is_builtin(network)
    assert network.name == name
    assert [json.loads(bytes(plugin.raw)) for plugin in network.plugins] == [seed]


def test_all_built_ins() -> None:
    assert builtin_names() == ("bridge", "default", "pasta", "slirp")
    networks, errors = list_networks([])
    assert [network.name for network in networks] == list(builtin_names())
    assert errors == ()
    default = load_builtin("default")
    assert [plugin.type for plugin in default.plugins] == ["ptp", "portmap"]
    assert default.plugins[1].capabilities == {"portMappings"}
    with pytest.raises(NetworkNotFound):
        load_builtin("../slirp")


def test_files_override_built_ins_and_the_first_directory_wins(tmp_path: Path) -> None:
    write(tmp_path / "2" / "x.conf", "slirp", "second")
    write(tmp_path / "1" / "y.json", "slirp", "first")
    directories = [str(tmp_path / "none"), str(tmp_path / "1"), str(tmp_path / "2")]
    assert load_network("slirp", directories).plugins[0].type == "first"
    networks, _ = list_networks(directories)
    assert [n.plugins[0].type for n in networks if n.name == "slirp"] == ["first"]


def test_lexical_order_over_all_kinds_of_file(tmp_path: Path) -> None:
    write(tmp_path / "20-a.conflist", "n", "later")
    write(tmp_path / "10-z.json", "n", "first")
    write(tmp_path / "00-n.txt", "n", "other")
    (tmp_path / "05-directory.conf").mkdir()
    assert load_network("n", [str(tmp_path)]).plugins[0].type == "first"
    assert load_network("n", [str(tmp_path)]).source == str(tmp_path / "10-z.json")


def test_a_broken_file_breaks_its_own_network_only(tmp_path: Path) -> None:
    (tmp_path / "1-bad.conf").write_text('{"name": "bad", "type": ')
    (tmp_path / "2-slirp.conf").write_text("nonsense")
    write(tmp_path / "3-good.conf", "good")
    directories = [str(tmp_path)]
    assert load_network("good", directories).name == "good"
    assert load_network("bridge", directories).name == "bridge"
    with pytest.raises(NetconfError, match=r"1-bad\.conf: ends in the middle"):
        load_network("bad", directories)
    with pytest.raises(NetconfError, match=r"2-slirp\.conf"):
        load_network("slirp", directories)  # not silently the built-in
    networks, errors = list_networks(directories)
    assert [network.name for network in networks] == ["bridge", "default", "good", "pasta"]
    assert [os.path.basename(error.file or "") for error in errors] == ["1-bad.conf", "2-slirp.conf"]


def test_unknown_network(tmp_path: Path) -> None:
    (tmp_path / "web.conf").write_text("{")
    with pytest.raises(NetworkNotFound) as caught:
        load_network("brigde", [str(tmp_path)])
    assert "network brigde is not known" in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert "web.conf" in caught.value.message
    assert "did you mean bridge?" in str(caught.value.cure)
    with pytest.raises(NetconfError, match="network name"):
        load_network("a/../b", [])


def test_plugins_of_the_folder_beside(tmp_path: Path) -> None:
    write(tmp_path / "n" / "20-c.conf", "ignored", "c")
    write(tmp_path / "n" / "10-b.conf", "ignored", "b")
    write(tmp_path / "n" / "30-no.conflist", "ignored", "no")
    (tmp_path / "n.conflist").write_text('{"name": "n", "cniVersion": "1.1.0"}')
    assert [plugin.type for plugin in load_file(str(tmp_path / "n.conflist")).plugins] == ["b", "c"]
    write(tmp_path / "n.conflist", "n", "a")
    assert [plugin.type for plugin in load_network("n", [str(tmp_path)]).plugins] == ["a", "b", "c"]
    only = {"name": "n", "plugins": [{"type": "a"}], "loadOnlyInlinedPlugins": True}
    (tmp_path / "n.conflist").write_text(json.dumps(only))
    assert [plugin.type for plugin in load_network("n", [str(tmp_path)]).plugins] == ["a"]


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1-fifo.conf")
    (tmp_path / "2-dangling.conf").symlink_to("nowhere")
    (tmp_path / "3-big.conf").write_text(" " * (1 << 20) + "{}")
    _, errors = list_networks([str(tmp_path)])
    assert [error.reason for error in errors] == [
        "is not a file",
        "can't be read: no such file or directory",
        "is too big for a network config",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    write(tmp_path / "d" / "x.conf", "x")
    (tmp_path / "d" / "x.conf").chmod(0)
    with pytest.raises(NetconfError, match="permission denied"):
        load_network("x", [str(tmp_path / "d")])
