from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.network.ports import (
    PortMapping,
    PortSpecError,
    PortTaken,
    from_cni,
    parse_all_ports,
    parse_ports,
    reserve_ports,
)

ports = st.integers(1, 65535)
protocols = st.sampled_from(["tcp", "udp"])


def mapping(container: int, host: int = 0, protocol: str = "tcp", ip: str = "") -> PortMapping:
    return from_cni(
        {"containerPort": container, "hostPort": host or 1, "protocol": protocol, "hostIP": ip}
    ).__class__(
        container_port=container, host_port=host, protocol="udp" if protocol == "udp" else "tcp", host_ip=ip
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("80", [mapping(80)]),
        ("8080:80", [mapping(80, 8080)]),
        (":80", [mapping(80)]),
        ("53:53/UDP", [mapping(53, 53, "udp")]),
        ("127.0.0.1:8080:80", [mapping(80, 8080, ip="127.0.0.1")]),
        ("127.0.0.1::80", [mapping(80, ip="127.0.0.1")]),
        ("0.0.0.0:1:2", [mapping(2, 1, ip="0.0.0.0")]),
        ("[::1]:8080:80", [mapping(80, 8080, ip="::1")]),
        ("[2001:DB8:0::1]::80/tcp", [mapping(80, ip="2001:db8::1")]),
        ("8000-8001:80-81", [mapping(80, 8000), mapping(81, 8001)]),
        ("80-81/udp", [mapping(80, protocol="udp"), mapping(81, protocol="udp")]),
    ],
)
def test_what_it_means(spec: str, expected: list[PortMapping]) -> None:
    assert list(parse_ports(spec)) == expected


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("", "the container port is missing"),
        ("80:", "the container port is missing"),
        ("0:80", "not between 1 and 65535"),
        ("65536", "not between 1 and 65535"),
        ("http", "is not a number or a range"),
        ("٣", "is not a number or a range"),
        ("-80", "is not a number or a range"),
        ("90-80", "runs backwards"),
        ("8000-8002:80-81", "3 host ports for 2 container ports"),
        ("8000-8002:80", "3 host ports for 1 container ports"),
        ("80/sctp", "protocol 'sctp' can't be published"),
        ("80/", "protocol '' can't be published"),
        ("1:2:3:4", "too many colons"),
        ("localhost:1:2", "'localhost' is not an IP address"),
        ("::1:80:80", "too many colons"),
        ("[::1]:80", "needs both ports"),
        ("[::1]80:80", r"written \[ADDRESS\]"),
        ("[127.0.0.1]:80:80", "is not an IPv6 address"),
        ("[fe80::1%eth0]:80:80", "is not an IPv6 address"),
        ("::80", None),
    ],
)
def test_bad_specs(spec: str, why: str | None) -> None:
    if why is None:  # IP and HOST both empty
        assert parse_ports(spec) == (mapping(80),)
        return
    with pytest.raises(PortSpecError, match=why) as caught:
        parse_ports(spec)
    assert caught.value.cure


@given(st.text(alphabet="0123456789:-/[].tcpudx%", max_size=30))
def test_anything_parses_or_is_refused(spec: str) -> None:
    try:
        found = parse_ports(spec)
    except PortSpecError:
        return
    assert found
    assert all(1 <= each.container_port <= 65535 and 0 <= each.host_port <= 65535 for each in found)


@given(st.one_of(st.just(""), st.ip_addresses().map(str)), st.one_of(st.just(0), ports), ports, protocols)
def test_written_and_read_again(ip: str, host: int, container: int, protocol: str) -> None:
    shown = f"[{ip}]" if ":" in ip else ip
    spec = f"{shown}:{host or ''}:{container}/{protocol}" if ip else f"{host or ''}:{container}/{protocol}"
    (found,) = parse_ports(spec)
    assert found == PortMapping(
        container_port=container, host_port=host, protocol="udp" if protocol == "udp" else "tcp", host_ip=ip
    )
    if host:
        assert from_cni(found.to_cni()) == found


@given(ports, st.integers(1, 50), ports)
def test_ranges_have_one_mapping_for_each_port(first: int, count: int, inner: int) -> None:
    if first + count > 65536 or inner + count > 65536:
        return
    found = parse_ports(f"{first}-{first + count - 1}:{inner}-{inner + count - 1}")
    assert [(each.host_port, each.container_port) for each in found] == [
        (first + number, inner + number) for number in range(count)
    ]


def test_all_of_a_container() -> None:
    found = parse_all_ports(
        ["80", "8080:80", "8080:80", "8080:80/udp", "127.0.0.1:81:80", "127.0.0.2:81:80"]
    )
    assert len(found) == 5
    for other in ("8080:90", "0.0.0.0:8080:90", "10.0.0.1:8080:90"):
        with pytest.raises(PortSpecError, match="asked for twice, also by '8080:80'"):
            parse_all_ports(["8080:80", other])
    assert len(parse_all_ports(["8080:80", "[::]:8080:80"])) == 2


def test_reserved_ports_are_taken_for_others_only() -> None:
    with reserve_ports(parse_all_ports(["127.0.0.1::80", "127.0.0.1::80/udp"])) as reservation:
        tcp, udp = reservation.mappings
        assert tcp.host_port
        assert udp.host_port
        for each in (tcp, udp):
            with pytest.raises(PortTaken, match="it is in use on this host") as caught:
                reserve_ports([each])
            assert "ss -lnp" in str(caught.value.cure)
        with socket.socket() as slirp:  # as slirp4netns does it
            slirp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            slirp.bind(("127.0.0.1", tcp.host_port))
            slirp.listen()
            reservation.close()
            with pytest.raises(PortTaken):
                reserve_ports([tcp])
    with reserve_ports([tcp, udp]):
        pass


def test_a_port_with_ended_connections_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
    accepted.close()  # the server's side goes first: FIN_WAIT, then TIME_WAIT on our port
    with reserve_ports([mapping(80, port, ip="127.0.0.1")]):
        pass
    client.close()
    with reserve_ports([mapping(80, port, ip="127.0.0.1")]):
        pass


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(PortTaken, match=r"203.0.113.9 is not an address of this host"):
        reserve_ports([mapping(80, 8080, ip="203.0.113.9")])


def test_nothing_stays_bound_when_one_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = server.getsockname()[1], other.getsockname()[1]
        other.close()
        with pytest.raises(PortTaken):
            reserve_ports([mapping(1, free, ip="127.0.0.1"), mapping(2, taken, ip="127.0.0.1")])
        reserve_ports([mapping(1, free, ip="127.0.0.1")]).close()


@pytest.mark.parametrize(
    "entry",
    [1, {}, {"hostPort": "1", "containerPort": 2}, {"hostPort": 1, "containerPort": 2, "protocol": "sctp"},
     {"hostPort": 1, "containerPort": 2, "hostIP": "x"}],
)  # fmt: skip
def test_bad_capability_arguments(entry: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_cni(entry)
