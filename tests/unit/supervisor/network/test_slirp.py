"""What slirp4netns is told, what it gives, how its failures read. Real ones run in tests/ns/network/test_slirp.py."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import SlirpError
from supervisor.network import slirp_api
from supervisor.network.ports import parse_ports
from supervisor.network.restarts import Deaths, Restarts
from supervisor.network.slirp_conf import (
    STDERR_BYTES,
    Program,
    SlirpConfError,
    SlirpOptions,
    bounded_memfd,
    build_argv,
    build_result,
    check_mac,
    decode_options,
    explain_death,
    find_program,
    ipv6_address,
    random_mac,
    read_memfd,
)

FLAGS = """
    --configure --netns-type --ready-fd --exit-fd --mtu --cidr --userns-path --api-socket --outbound-addr
    --outbound-addr6 --macaddress --enable-ipv6 --disable-host-loopback --disable-dns --enable-sandbox --enable-seccomp
"""
ALL = Program("/usr/bin/slirp4netns", frozenset(FLAGS.split()))


def argv(options: SlirpOptions, program: Program = ALL, **more: Any) -> list[str]:
    given_: dict[str, Any] = {
        "netns_path": "/n", "userns_path": None, "ifname": "cni0", "mac": None, "ready_fd": 5, "exit_fd": 6,
        "api_socket": None, "sandbox": False,
    }  # fmt: skip
    return build_argv(program, options, **(given_ | more))


def test_the_seeds_configuration() -> None:
    options = decode_options({"name": "slirp", "type": "slirp", "mtu": 1500, "cniVersion": "0.3.1"})
    assert options == SlirpOptions()
    assert options.host_loopback
    assert argv(options) == [
        "/usr/bin/slirp4netns", "--configure", "--netns-type=path", "--ready-fd=5", "--mtu=1500", "--exit-fd=6",
        "--enable-seccomp", "/n", "cni0",
    ]  # fmt: skip


def test_every_option_reaches_the_command_line() -> None:
    conf = {
        "mtu": 65520, "cidr": "10.9.0.0/16", "enableIPv6": True, "hostLoopback": False, "outboundAddr": "192.0.2.1",
        "outboundAddr6": "eth0", "disableDNS": True,
    }  # fmt: skip
    line = argv(decode_options(conf), userns_path="/u", mac="02:00:00:00:00:01", api_socket="/s")
    assert set(line) >= {
        "--mtu=65520", "--cidr=10.9.0.0/16", "--enable-ipv6", "--disable-host-loopback", "--disable-dns",
        "--outbound-addr=192.0.2.1", "--outbound-addr6=eth0", "--userns-path=/u", "--api-socket=/s",
        "--macaddress=02:00:00:00:00:01",
    }  # fmt: skip


def test_its_sandbox_starts_where_it_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert argv(SlirpOptions(), sandbox=True)[:3] == ["unshare", "--mount", "--propagation=slave"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    line = argv(SlirpOptions(), sandbox=True, userns_path="/u")
    assert line[:2] == ["nsenter", "--user=/u"]
    assert "--userns-path=/u" not in line
    assert argv(SlirpOptions(), sandbox=True)[0] == "/usr/bin/slirp4netns"


def test_an_old_version_is_named_with_what_it_lacks() -> None:
    old = Program("/old", frozenset(ALL.flags - {"--disable-dns", "--enable-seccomp"}))
    assert "--enable-seccomp" not in argv(SlirpOptions(), old)
    with pytest.raises(SlirpError, match=r"/old\) is too old: it has no --disable-dns") as caught:
        argv(SlirpOptions(disable_dns=True), old)
    assert caught.value.cure == "install slirp4netns 1.1.9 or newer"


@pytest.mark.parametrize(
    ("conf", "option", "why"),
    [
        ({"mtu": "1500"}, "mtu", "expected `int`, got `str`"),
        ({"mtu": 10}, "mtu", "expected `int` >= 68"),
        ({"mtu": 65522}, "mtu", "expected `int` <= 65521"),
        ({"mut": 1500}, "", "unknown field `mut`"),
        ({"cidr": "10.0.2.0"}, "cidr", "prefix between /1 and /25"),
        ({"cidr": "10.0.2.0/26"}, "cidr", "prefix between /1 and /25"),
        ({"cidr": "10.0.2.1/24"}, "cidr", "host bits set"),
        ({"cidr": "fd00::/64"}, "cidr", "expected an IPv4 network"),
        ({"outboundAddr": "::1"}, "outboundAddr", "not an IPv4 address"),
        ({"outboundAddr6": "127.0.0.1"}, "outboundAddr6", "not an IPv6 address"),
        ({"outboundAddr": "no such/one"}, "outboundAddr", "nor an interface"),
        ({"enableIPv6": 1}, "enableIPv6", "expected `bool`"),
        ({"enableIPv6": True, "mtu": 1000}, "mtu", "IPv6 needs at least 1280"),
    ],
)
def test_wrong_values(conf: dict[str, Any], option: str, why: str) -> None:
    with pytest.raises(SlirpConfError) as caught:
        decode_options(conf)
    assert caught.value.option == option
    assert why in caught.value.message


def test_words_of_the_command_line_are_taken_laxly() -> None:
    found = decode_options({"mtu": "9000", "enableIPv6": "true", "hostLoopback": "false"}, lax=True)
    assert (found.mtu, found.enable_ipv6, found.host_loopback) == (9000, True, False)


@given(
    st.dictionaries(
        st.text(max_size=12), st.one_of(st.none(), st.integers(), st.text(max_size=20), st.booleans())
    )
)
def test_any_object_is_read_or_refused(conf: dict[str, Any]) -> None:
    for lax in (False, True):
        try:
            decode_options(conf, lax=lax)
        except SlirpConfError:
            continue


def test_result_follows_the_cidr() -> None:
    options = SlirpOptions(cidr="10.9.0.0/16", mtu=9000, enable_ipv6=True)
    result = build_result(options, ifname="cni3", mac="02:42:00:00:00:01", netns_path="/n")
    assert result == {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "cni3", "mtu": 9000, "sandbox": "/n", "mac": "02:42:00:00:00:01"}],
        "ips": [
            {"address": "10.9.0.100/16", "gateway": "10.9.0.2", "interface": 0},
            {"address": "fd00::42:ff:fe00:1/64", "gateway": "fd00::2", "interface": 0},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.2"}, {"dst": "::/0", "gw": "fd00::2"}],
        "dns": {"nameservers": ["10.9.0.3"]},
    }


def test_macs() -> None:
    for _ in range(20):
        mac = random_mac()
        assert check_mac(mac) == mac
        assert int(mac[:2], 16) & 3 == 2
        assert ipv6_address(mac).startswith("fd00::")
    for bad in ("", "02:00", "01:00:00:00:00:00", "00:00:00:00:00:00", "02-00-00-00-00-01"):
        with pytest.raises(SlirpConfError):
            check_mac(bad)


@pytest.mark.parametrize(
    ("stderr", "message", "cure"),
    [
        (
            'open("/dev/net/tun"): No such file or directory\nchild failed(1)',
            "it does not exist",
            "modprobe tun",
        ),
        ('open("/dev/net/tun"): Permission denied', "permission denied", "chmod 0666 /dev/net/tun"),
        ('open("/dev/net/tun"): Operation not permitted', "not permitted", "device cgroup"),
        ('open("/dev/net/tun"): No such device', "no tun driver", "modprobe tun"),
        ("ioctl(TUNSETIFF): Device or resource busy", "busy", "an interface cni0 exists in /n already"),
        ("setns(CLONE_NEWNET): Operation not permitted", "setns", "user namespace"),
        (
            "existing path expected when --netns-type=path: No such file or directory",
            "exit status 1",
            "/n does not exist",
        ),
        (
            "WARNING: Support for seccomp is experimental\nsent tapfd=5 for tap0",
            "died before it was ready",
            None,
        ),
    ],
)
def test_deaths_are_explained(stderr: str, message: str, cure: str | None) -> None:
    error = explain_death(stderr, 1, ifname="cni0", netns_path="/n")
    assert message in error.message
    assert "WARNING" not in error.message
    assert error.cure is None if cure is None else cure in str(error.cure)


def test_missing_and_wrong_programs(tmp_path: Any) -> None:
    with pytest.raises(SlirpError, match="is not installed"):
        find_program("ctnr-no-such-program")
    with pytest.raises(SlirpError, match="is no slirp4netns"):
        find_program("true")


def test_stderr_is_bounded() -> None:
    fd = bounded_memfd()
    with os.fdopen(fd, "wb", buffering=0) as file:
        file.write(b"first line\n")
        assert file.write(b"x" * STDERR_BYTES) == STDERR_BYTES - len("first line\n")
        with pytest.raises(OSError, match=r"."):
            file.write(b"x")
        assert read_memfd(fd).startswith("first line\n")


def test_pauses_double() -> None:
    restarts = Restarts(first_seconds=0.1, last_seconds=0.5)
    assert [restarts.pause(number) for number in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.5]


async def test_deaths_count_within_the_window(autojump_clock: trio.testing.MockClock) -> None:
    deaths = Deaths(Restarts(limit=2, window_seconds=10, first_seconds=1))
    assert [deaths.count(), deaths.count(), deaths.count()] == [1, 2, None]
    assert str(deaths) == "3 times within 10 s"
    await trio.sleep(11)
    assert deaths.count() == 1


def test_api_replies() -> None:
    (mapping,) = parse_ports("8080:80")
    request = slirp_api.add_hostfwd(mapping, "10.0.2.100")
    assert request["arguments"]["host_addr"] == "0.0.0.0"
    assert slirp_api.decode(request, b'{"return": {"id": 3}}') == {"id": 3}
    assert slirp_api.decode(slirp_api.list_hostfwd(), b'{"entries": []}') == {"entries": []}
    with pytest.raises(slirp_api.ApiRefused, match="refused add_hostfwd: no") as caught:
        slirp_api.decode(request, b'{"error": {"desc": "no"}}')
    assert caught.value.desc == "no"
    for reply in (b"", b"{", b"[]"):
        with pytest.raises(SlirpError):
            slirp_api.decode(request, reply)
    with pytest.raises(SlirpError, match="longer than 107 bytes"):
        slirp_api.check_path("/" + "x" * 107)
