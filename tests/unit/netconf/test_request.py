from __future__ import annotations

import json
from typing import Any

import pytest

from netconf.conf import NetworkList
from netconf.errors import NetconfError
from netconf.request import (
    AttachmentArgs,
    build_env,
    build_request,
    build_version_request,
    format_cni_args,
    parse_cni_args,
)

ARGS = AttachmentArgs(container_id="c1", ifname="cni0", netns="/proc/1/ns/net", cni_path=("/a", "/b"))
RAW_PLUGIN = (
    '{"type": "a", "name": "mine", "cniVersion": "0.1.0", "capabilities": {"ips": true, "mac": false}, '
    '"cni.dev/valid-attachments": [], "prevResult": {}, "args": {"cni": {"ips": []}}, '
    '"float": 1.50, "big": 123456789012345678901234567890}'
)


def a_network(version: str = "1.1.0", plugin: str = RAW_PLUGIN) -> NetworkList:
    raw = f'{{"name": "n", "cniVersion": "{version}", "plugins": [{plugin}]}}'
    return NetworkList.from_bytes(raw.encode(), "f.conflist")


def asked(**more: Any) -> dict[str, Any]:
    command = more.pop("command", "ADD")
    prev = more.pop("prev", None)
    network = more.pop("network", None) or a_network()
    request: dict[str, Any] = json.loads(
        build_request(network, 0, more.pop("args", ARGS), prev, command, **more)
    )
    return request


def test_derivation() -> None:
    request = asked()
    assert (request["name"], request["cniVersion"]) == ("n", "1.1.0")
    assert set(request) == {"cniVersion", "name", "type", "args", "float", "big"}
    raw = build_request(a_network(), 0, ARGS, None, "ADD")
    assert b'"float":1.50' in raw
    assert b'"big":123456789012345678901234567890' in raw


def test_runtime_config_holds_enabled_capabilities_only() -> None:
    args = AttachmentArgs(
        container_id="c",
        ifname="i",
        netns="/x",
        capability_args={"ips": ["10.0.0.2/24"], "mac": "m", "dns": {}},
    )
    for command in ("ADD", "DEL"):
        assert asked(args=args, command=command)["runtimeConfig"] == {"ips": ["10.0.0.2/24"]}
    assert "runtimeConfig" not in asked(args=args, command="STATUS")


def test_previous_result_is_passed_byte_for_byte() -> None:
    prev = b'{"cniVersion":"1.1.0",  "ips":[], "x": 1.0}'
    assert prev in build_request(a_network(), 0, ARGS, prev + b"\n", "ADD")
    assert b"prevResult" not in build_request(a_network("0.3.1"), 0, ARGS, b'{"cniVersion":"0.3.1"}', "DEL")
    assert asked(prev=prev, version="0.4.0")["prevResult"] == {"cniVersion": "0.4.0", "ips": [], "x": 1.0}


def test_gc() -> None:
    request = asked(command="GC", args=None, valid_attachments=[("c1", "cni0")])
    assert request["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "cni0"}]
    assert request["cni.dev/attachments"] == request["cni.dev/valid-attachments"]
    assert asked(command="GC", args=None)["cni.dev/valid-attachments"] == []
    assert "cni.dev/valid-attachments" not in asked(command="STATUS", args=None)


@pytest.mark.parametrize(("command", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")])
def test_commands_that_a_version_does_not_know(command: str, version: str) -> None:
    with pytest.raises(NetconfError, match=f"CNI {version} does not know {command}"):
        asked(command=command, network=a_network(version))


def test_check_needs_a_result() -> None:
    with pytest.raises(NetconfError, match="needs the result"):
        asked(command="CHECK")


def test_lease_directory() -> None:
    plain = a_network(plugin='{"type": "a", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}')
    assert asked(network=plain, lease_dir="/l")["ipam"] == {
        "type": "host-local",
        "subnet": "10.0.0.0/24",
        "dataDir": "/l",
    }
    assert "dataDir" not in asked(network=plain)["ipam"]
    own = a_network(plugin='{"type": "a", "ipam": {"type": "host-local", "dataDir": "/mine"}}')
    assert asked(network=own, lease_dir="/l")["ipam"]["dataDir"] == "/mine"
    other = a_network(plugin='{"type": "a", "ipam": {"type": "dhcp"}}')
    assert asked(network=other, lease_dir="/l")["ipam"] == {"type": "dhcp"}


def test_version_request() -> None:
    assert build_version_request("1.1.0") == b'{"cniVersion":"1.1.0"}'


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
def test_env_of_an_attachment(command: str) -> None:
    assert build_env(command, ARGS) == {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/1/ns/net",
        "CNI_IFNAME": "cni0",
        "CNI_ARGS": "",
        "CNI_PATH": "/a:/b",
    }


def test_env_of_the_others() -> None:
    assert build_env("VERSION") == {"CNI_COMMAND": "VERSION"}
    assert build_env("GC", cni_path=["/a", "/b"]) == {"CNI_COMMAND": "GC", "CNI_PATH": "/a:/b"}
    assert build_env("STATUS", cni_path=["/a"]) == {"CNI_COMMAND": "STATUS", "CNI_PATH": "/a"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (AttachmentArgs(container_id="", ifname="cni0", netns="/x"), "container id is empty"),
        (AttachmentArgs(container_id="-c", ifname="cni0", netns="/x"), "'-c' is not allowed"),
        (AttachmentArgs(container_id="c", ifname="interface-name-x", netns="/x"), "too long"),
        (AttachmentArgs(container_id="c", ifname="a/b", netns="/x"), "'a/b' is not allowed"),
        (AttachmentArgs(container_id="c", ifname="eth%d", netns="/x"), "not allowed"),
        (AttachmentArgs(container_id="c", ifname="..", netns="/x"), "not allowed"),
        (AttachmentArgs(container_id="c", ifname="cni0", netns=""), "needs the path"),
        (AttachmentArgs(container_id="c", ifname="cni0", netns="x"), "not a path"),
        (
            AttachmentArgs(container_id="c", ifname="cni0", netns="/x", cni_path=("relative",)),
            "can't be in CNI_PATH",
        ),
        (
            AttachmentArgs(container_id="c", ifname="cni0", netns="/x", cni_args=(("K", "a;b"),)),
            "CNI_ARGS can't hold",
        ),
    ],
)
def test_env_refuses(args: AttachmentArgs, words: str) -> None:
    with pytest.raises(NetconfError, match=words):
        build_env("ADD", args)


def test_del_needs_no_netns() -> None:
    assert build_env("DEL", AttachmentArgs(container_id="c", ifname="cni0"))["CNI_NETNS"] == ""


def test_cni_args() -> None:
    assert parse_cni_args("A=1;B=x=y;;C=") == (("A", "1"), ("B", "x=y"), ("C", ""))
    assert format_cni_args(parse_cni_args("A=1;B=x=y")) == "A=1;B=x=y"
    for bad in ("A", "=x"):
        with pytest.raises(NetconfError):
            parse_cni_args(bad)
