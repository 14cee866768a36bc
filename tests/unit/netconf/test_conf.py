from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf.conf import Dns, NetworkList
from netconf.errors import NetconfError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = [
    "name",
    "cniVersion",
    "cniVersions",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "plugins",
    "type",
    "ipam",
    "dns",
    "capabilities",
]


def read(config: Any, source: str = "x.conflist") -> NetworkList:
    return NetworkList.from_bytes(json.dumps(config).encode(), source)


def test_a_list_keeps_its_bytes() -> None:
    plugin = b'{"type": "a", "big": 123456789012345678901}'
    raw = b'{ "cniVersion": "1.0.0", "name": "n", "x": 1.50,\n "plugins": [ ' + plugin + b" ] }\n"
    network = NetworkList.from_bytes(raw, "f")
    assert bytes(network.raw) == raw
    assert bytes(network.plugins[0].raw) == plugin
    assert (network.name, network.cni_version, network.plugins[0].type) == ("n", "1.0.0", "a")


def test_a_single_config_becomes_a_list_of_one() -> None:
    raw = b'{"name": "n", "type": "a", "cniVersion": "0.4.0", "capabilities": {"ips": true, "mac": false}, "k": 1.0}\n'
    network = NetworkList.from_bytes(raw, "f.conf")
    assert bytes(network.plugins[0].raw) == raw.strip()
    assert network.plugins[0].capabilities == {"ips"}
    again = NetworkList.from_bytes(network.raw, "f.conf")
    assert (again.name, again.cni_versions) == ("n", ("0.4.0",))
    assert bytes(again.plugins[0].raw) == raw.strip()


@pytest.mark.parametrize(
    ("value", "means"), [(True, True), (False, False), ("true", True), ("False", False), ("TRUE", True)]
)
def test_booleans_may_be_words(value: object, means: bool) -> None:
    network = read({"name": "n", "plugins": [{"type": "a"}], "disableCheck": value, "disableGC": value})
    assert (network.disable_check, network.disable_gc) == (means, means)


@pytest.mark.parametrize(
    ("head", "versions"),
    [
        ({}, ("0.1.0",)),
        ({"cniVersion": ""}, ("0.1.0",)),
        ({"cniVersion": "1.1"}, ("1.1.0",)),
        ({"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "9.0.0"]}, ("0.4.0", "1.0.0")),
        ({"cniVersions": ["1.1.0", "1.0.0"]}, ("1.0.0", "1.1.0")),
        ({"cniVersion": "2.0.0", "cniVersions": ["1.0.0"]}, ("1.0.0",)),
    ],
)
def test_versions(head: dict[str, Any], versions: tuple[str, ...]) -> None:
    network = read({"name": "n", "plugins": [{"type": "a"}]} | head)
    assert network.cni_versions == versions
    assert network.cni_version == versions[-1]


@pytest.mark.parametrize(
    ("config", "field", "words"),
    [
        ({"plugins": [{"type": "a"}]}, "name", "is missing"),
        ({"name": 3, "type": "a"}, "name", "is a whole number, expected a string"),
        ({"name": "a/b", "type": "a"}, "name", "'a/b' is not allowed"),
        ({"name": "n"}, "plugins", "is missing, expected a list of plugin objects"),
        ({"name": "n", "plugins": []}, "plugins", "at least one plugin"),
        ({"name": "n", "plugins": {}}, "plugins", "is an object, expected a list"),
        ({"name": "n", "plugins": [1]}, "plugins[0]", "is a whole number, expected an object"),
        ({"name": "n", "plugins": [{"type": "a"}, {}]}, "plugins[1].type", "is missing"),
        ({"name": "n", "plugins": [{"type": "../a"}]}, "plugins[0].type", "can't be a plugin"),
        ({"name": "n", "plugins": [{"type": 5}]}, "plugins[0].type", "expected a string"),
        (
            {"name": "n", "plugins": [{"type": "a", "capabilities": {"ips": 1}}]},
            "plugins[0].capabilities[...]",
            "true or false",
        ),
        (
            {"name": "n", "plugins": [{"type": "a", "dns": {"search": "x"}}]},
            "plugins[0].dns.search",
            "expected a list",
        ),
        ({"name": "n", "type": "a", "ipam": {"type": "a/b"}}, "ipam.type", "can't be a plugin"),
        ({"name": "n", "type": "a", "cniVersion": 1}, "cniVersion", "expected a string"),
        ({"name": "n", "type": "a", "cniVersion": "one"}, "cniVersion", "'one' is not a version"),
        ({"name": "n", "type": "a", "cniVersion": "7.0.0"}, "cniVersion", "expected one of 0.1.0"),
        ({"name": "n", "type": "a", "cniVersions": ["1.0.0", "x"]}, "cniVersions[1]", "not a version"),
        (
            {"name": "n", "plugins": [{"type": "a"}], "disableGC": "yes"},
            "disableGC",
            "expected true or false",
        ),
        ({"name": "n", "plugins": [{"type": "a"}], "disableGC": 1}, "disableGC", "expected true or false"),
        ({"name": "n", "loadOnlyInlinedPlugins": True}, "plugins", "loadOnlyInlinedPlugins"),
    ],
)
def test_errors_name_file_field_and_what_was_expected(config: Any, field: str, words: str) -> None:
    with pytest.raises(NetconfError) as caught:
        read(config, "/etc/cni/net.d/10-x.conflist")
    error = caught.value
    assert (error.file, error.field) == ("/etc/cni/net.d/10-x.conflist", field)
    assert error.message == str(error)
    assert error.message.startswith(f"/etc/cni/net.d/10-x.conflist: field {field}: ")
    assert words in error.message


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "f: is empty"),
        (b" \n", "f: is empty"),
        (b'{"name": "n",\n  "type": bridge}', "at line 2, column 11"),
        (b'{"name": "n"', "ends in the middle"),
        (b"[]", "is a list, expected an object"),
        (b'{"name": "n", "type": "a", "x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"name": "n", "\xff": 1}', "UTF-8"),
    ],
)
def test_what_is_not_json(raw: bytes, words: str) -> None:
    with pytest.raises(NetconfError) as caught:
        NetworkList.from_bytes(raw, "f")
    assert words in caught.value.message


def test_null_is_as_good_as_nothing_inside_a_plugin() -> None:
    network = read({"name": "n", "type": "a", "ipam": None, "dns": {"domain": None}, "capabilities": None})
    assert network.plugins[0].dns == Dns()
    assert network.plugins[0].ipam_type == ""


def test_view() -> None:
    class Slirp(msgspec.Struct):
        mtu: int = 1500

    assert read({"name": "n", "type": "slirp"}).plugins[0].view(Slirp).mtu == 1500
    with pytest.raises(
        NetconfError, match=r"f.conflist: field plugins\[0\].mtu: is a string, expected a whole number"
    ):
        read({"name": "n", "plugins": [{"type": "slirp", "mtu": "x"}]}, "f.conflist").plugins[0].view(Slirp)


def test_more_plugins_from_a_folder() -> None:
    raw = b'{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "a"}]}'
    network = NetworkList.from_bytes(raw, "n.conflist", more_plugins=[("n/b.conf", b'{"type": "b"}\n')])
    assert [plugin.type for plugin in network.plugins] == ["a", "b"]
    again = NetworkList.from_bytes(network.raw, "n.conflist", more_plugins=[("n/b.conf", b'{"type": "b"}')])
    assert [bytes(plugin.raw) for plugin in again.plugins] == [b'{"type": "a"}', b'{"type": "b"}']
    with pytest.raises(NetconfError, match=r"n/b.conf: field type: is missing"):
        NetworkList.from_bytes(raw, "n.conflist", more_plugins=[("n/b.conf", b"{}")])


def read_or_refuse(raw: bytes) -> None:
    """Either a network that its own bytes make again, or a NetconfError."""
    try:
        network = NetworkList.from_bytes(raw, "f")
    except NetconfError:
        return
    again = NetworkList.from_bytes(network.raw, "f")
    assert (again.name, again.cni_versions) == (network.name, network.cni_versions)
    assert [plugin.raw for plugin in again.plugins] == [plugin.raw for plugin in network.plugins]


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    read_or_refuse(raw)


@given(JSON)
def test_any_json(value: Any) -> None:
    read_or_refuse(json.dumps(value).encode())


@given(
    st.dictionaries(
        st.sampled_from(KEYS), JSON | st.sampled_from(["n", "1.0.0", ["1.1.0"], "true", [{"type": "a"}]])
    ),
    st.sampled_from(
        [{}, {"name": "n"}, {"name": "n", "type": "a"}, {"name": "n", "plugins": [{"type": "a"}]}]
    ),
)
def test_json_that_looks_like_a_config(fields: dict[str, Any], base: dict[str, Any]) -> None:
    read_or_refuse(json.dumps(base | fields).encode())
    read_or_refuse(json.dumps(fields | base).encode())
    read_or_refuse(json.dumps(base | {"plugins": [fields, {"type": "a"} | fields]}).encode())
