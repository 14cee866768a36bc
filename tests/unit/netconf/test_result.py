from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf.conf import Dns
from netconf.errors import NetconfError, build_error, parse_error
from netconf.result import (
    Interface,
    IPConfig,
    Result,
    Route,
    convert_result,
    encode_result,
    parse_result,
    parse_versions,
)
from netconf.versions import RELEASED

RICH = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NETWORKS = st.builds(
    lambda address, prefix: f"{address}/{prefix}", st.ip_addresses(v=4), st.integers(0, 32)
) | st.builds(lambda address, prefix: f"{address}/{prefix}", st.ip_addresses(v=6), st.integers(0, 128))
ADDRESSES = st.just("") | st.ip_addresses().map(str)
NUMBERS = st.none() | st.integers(0, 2**31)
RESULTS = st.builds(
    Result,
    cni_version=st.sampled_from(RICH),
    interfaces=st.lists(
        st.builds(
            Interface,
            name=st.text(max_size=5),
            mac=st.text(max_size=3),
            mtu=NUMBERS,
            sandbox=st.sampled_from(["", "/x"]),
        )
    ).map(tuple),
    ips=st.lists(
        st.builds(IPConfig, address=NETWORKS, gateway=ADDRESSES, interface=NUMBERS), max_size=4
    ).map(tuple),
    routes=st.lists(
        st.builds(Route, dst=NETWORKS, gw=ADDRESSES, mtu=NUMBERS, table=NUMBERS), max_size=4
    ).map(tuple),
    dns=st.builds(
        Dns, nameservers=st.lists(st.text(max_size=4), max_size=2).map(tuple), domain=st.text(max_size=4)
    ),
)

RESULT_KEYS = ("cniVersion", "ips", "ip4", "routes", "dns", "interfaces", "address", "dst", "ip")
JSON_LIKE_RESULTS = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(["1.0.0", "10.0.0.2/8"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(RESULT_KEYS), inner),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode())


def typed(result: Result) -> tuple[object, ...]:
    return result.interfaces, result.ips, result.routes, result.dns


def parse(value: Any, **more: Any) -> Result:
    return parse_result(json.dumps(value).encode(), **more)


def test_1_0_0() -> None:
    raw = json.dumps(
        {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "veth1", "mac": "m"},
                {"name": "cni0", "sandbox": "/x", "mtu": 1500, "pciID": "p"},
            ],
            "ips": [
                {"address": "10.2.0.2/24", "gateway": "10.2.0.1", "interface": 1},
                {"address": "fd00::1/64", "interface": 0},
            ],
            "routes": [{"dst": "0.0.0.0/0", "priority": 5}],
            "dns": {"nameservers": ["10.2.0.1"], "search": None},
            "x-vendor": 1,
        }
    ).encode()
    result = parse_result(raw)
    assert result.interfaces[1] == Interface(name="cni0", sandbox="/x", mtu=1500, pci_id="p")
    assert result.container_ips() == (IPConfig(address="10.2.0.2/24", gateway="10.2.0.1", interface=1),)
    assert result.routes == (Route(dst="0.0.0.0/0", priority=5),)
    assert result.dns == Dns(nameservers=("10.2.0.1",))
    assert bytes(result.raw) == raw


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_old_shape(version: str) -> None:
    old = {
        "cniVersion": version,
        "ip4": {"ip": "10.2.0.2/24", "gateway": "10.2.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::2/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
        "dns": {"domain": "d"},
    }
    result = parse(old)
    assert [ip.address for ip in result.container_ips()] == ["10.2.0.2/24", "fd00::2/64"]
    assert result.routes == (Route(dst="0.0.0.0/0"), Route(dst="::/0", gw="fd00::1"))
    assert json.loads(encode_result(result, version)) == old


def test_version_not_told() -> None:
    assert parse({"ip4": {"ip": "10.0.0.2/8"}}).cni_version == "0.1.0"
    result = parse({"ips": [{"address": "10.0.0.2/8"}], "x": 1}, version="1.0.0")
    assert json.loads(bytes(result.raw)) == {
        "ips": [{"address": "10.0.0.2/8"}],
        "x": 1,
        "cniVersion": "1.0.0",
    }
    assert parse({"cniVersion": None}, version="0.4.0").cni_version == "0.4.0"


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        ([], None, "is a list, expected an object"),
        ({"cniVersion": "9.9.9"}, "cniVersion", "9.9.9 is not known"),
        ({"cniVersion": "x"}, "cniVersion", "not a version"),
        ({"cniVersion": 1}, "cniVersion", "expected a string"),
        ({"cniVersion": "1.0.0", "ips": {}}, "ips", "expected a list"),
        ({"cniVersion": "1.0.0", "ips": [{}]}, "ips[0].address", "is missing"),
        (
            {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1"}]},
            "ips[0].address",
            "expected an address such as",
        ),
        (
            {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/255.0.0.0"}]},
            "ips[0].address",
            "expected an address",
        ),
        (
            {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/33"}]},
            "ips[0].address",
            "expected an address",
        ),
        (
            {"cniVersion": "1.0.0", "ips": [{"address": "1.0.0.1/8", "gateway": "x"}]},
            "ips[0].gateway",
            "'x'",
        ),
        (
            {"cniVersion": "1.0.0", "ips": [{"address": "1.0.0.1/8", "interface": -1}]},
            "ips[0].interface",
            "-1",
        ),
        ({"cniVersion": "1.0.0", "routes": [{"dst": "default"}]}, "routes[0].dst", "'default'"),
        ({"cniVersion": "0.2.0", "ip4": {"ip": 4}}, "ip4.ip", "expected a string"),
    ],
)
def test_errors(value: Any, field: str | None, words: str) -> None:
    with pytest.raises(NetconfError) as caught:
        parse(value)
    assert caught.value.field == field
    assert words in caught.value.message


def test_conversion_keeps_what_nobody_knows() -> None:
    raw = b'{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/8","x":1.50}],"interfaces":[{"name":"a","y":2}],"z":3}'
    down = json.loads(convert_result(raw, "0.4.0"))
    assert down["ips"] == [{"version": "4", "address": "10.0.0.2/8", "x": 1.5}]
    assert (down["interfaces"], down["z"], down["cniVersion"]) == ([{"name": "a", "y": 2}], 3, "0.4.0")
    up = json.loads(convert_result(json.dumps(down).encode(), "1.1.0"))
    assert up == json.loads(raw) | {"cniVersion": "1.1.0"}
    old = json.loads(convert_result(raw, "0.2.0"))
    assert old == {"cniVersion": "0.2.0", "z": 3, "ip4": {"ip": "10.0.0.2/8"}}


def test_same_version_is_byte_for_byte() -> None:
    raw = b'{ "cniVersion" : "1.0.0" , "x" : 1.50 }'
    assert convert_result(raw + b"\n", "1.0.0") == raw


def test_old_versions_need_an_address() -> None:
    with pytest.raises(NetconfError, match="no address"):
        convert_result(b'{"cniVersion":"1.0.0"}', "0.2.0")


@given(RESULTS, st.sampled_from(RICH), st.sampled_from(RICH))
def test_rich_versions_hold_the_same(result: Result, first: str, second: str) -> None:
    encoded = encode_result(result, first)
    assert typed(parse_result(encoded)) == typed(result)
    converted = convert_result(encoded, second)
    assert parse_result(converted).cni_version == second
    assert typed(parse_result(converted)) == typed(result)
    assert json.loads(convert_result(converted, first)) == json.loads(encoded)
    for ip in json.loads(encoded)["ips"]:
        assert ("version" in ip) == (first < "1.0.0")


@given(RESULTS, st.sampled_from(RICH), st.sampled_from(["0.1.0", "0.2.0"]))
def test_old_versions_hold_one_address_of_each_family(result: Result, rich: str, old: str) -> None:
    if not result.ips:
        return
    back = parse_result(convert_result(convert_result(encode_result(result, rich), old), rich))
    for number in (4, 6):
        wanted = [(ip.address, ip.gateway) for ip in result.ips if ip.version == number][:1]
        assert [(ip.address, ip.gateway) for ip in back.ips if ip.version == number] == wanted
    assert back.dns == result.dns


@given(st.binary(max_size=100) | JSON_LIKE_RESULTS, st.sampled_from(RELEASED))
def test_any_bytes(raw: bytes, version: str) -> None:
    with contextlib.suppress(NetconfError):
        result = parse_result(raw, version=version)
        assert parse_result(convert_result(result.raw, version)).cni_version == version
    with contextlib.suppress(NetconfError):
        parse_versions(raw)
    parse_error(raw)


def test_versions_reply() -> None:
    raw = b'{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "0.4.0", "3.0.0"]}'
    assert parse_versions(raw) == ("0.4.0", "1.0.0")
    with pytest.raises(NetconfError, match="supportedVersions: is missing"):
        parse_versions(b"{}")


def test_error_reply() -> None:
    reply = parse_error(build_error(7, "bad", "very", cni_version="1.0.0"))
    assert reply is not None
    assert (reply.code, reply.msg, reply.details, reply.cni_version) == (7, "bad", "very", "1.0.0")
    for raw in (b"", b"{}", b"[]", b"Usage", b'{"code": 0}', b'{"code": "x"}', b"\xff", b"[" * 100_000):
        assert parse_error(raw) is None
