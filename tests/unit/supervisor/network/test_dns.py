"""The table of names and its packets, judged by dnspython."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.tsigkeyring
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.network.dns import HostResolvers, _parse_fully
from supervisor.network.dns_names import (
    FORMERR,
    NOTIMP,
    Names,
    Query,
    Verdict,
    build_failure,
    encode_name,
    parse_query,
    truncate,
)


@pytest.fixture
def names() -> Names:
    names = Names()
    names.add_network("one", ["10.2.0.0/24", "fd01::/64"])
    names.add("one", "c1", names=["web", "WWW.shop", "abc123"], addresses=["10.2.0.2", "fd01::2"])
    names.add("one", "c2", names=["db"], addresses=["10.2.0.3"])
    names.add("two", "c2", names=["db", "only-two"], addresses=["10.3.0.3"])
    names.add("two", "c3", names=["secret"], addresses=["10.3.0.9"])
    return names


def ask(
    names: Names, name: str, kind: str = "A", *, source: str = "10.2.0.2", tcp: bool = False, **more: object
):
    query = dns.message.make_query(name, kind, **more)
    reply = names.answer("one", source, query.to_wire(), tcp=tcp)
    if isinstance(reply, Verdict):
        return reply
    message = dns.message.from_wire(reply)
    assert query.is_response(message)
    return message


def values(message: dns.message.Message) -> list[str]:
    return sorted(str(record) for rrset in message.answer for record in rrset)


@pytest.mark.parametrize(
    "name", ["web", "WEB.", "www.shop", "abc123", "web.ctnr.internal", "Web.CTNR.internal"]
)
def test_names_aliases_and_hostnames_in_any_case(names: Names, name: str) -> None:
    assert values(ask(names, name)) == ["10.2.0.2"]
    assert values(ask(names, name, "AAAA")) == ["fd01::2"]
    assert values(ask(names, name, "ANY")) == ["10.2.0.2", "fd01::2"]


def test_a_name_without_such_an_address_exists_all_the_same(names: Names) -> None:
    for kind in ("AAAA", "MX", "HTTPS"):
        message = ask(names, "db", kind)
        assert (message.rcode(), message.answer) == (dns.rcode.NOERROR, [])


def test_only_shared_networks_are_seen(names: Names) -> None:
    assert ask(names, "secret", source="10.2.0.2") is Verdict.FORWARD
    assert values(ask(names, "secret", source="10.2.0.3")) == ["10.3.0.9"]  # c2 is on both
    assert values(ask(names, "db", source="10.2.0.3")) == ["10.2.0.3", "10.3.0.3"]
    assert values(ask(names, "db", source="10.2.0.77")) == ["10.2.0.3"]
    assert ask(names, "secret", source="not an address") is Verdict.FORWARD
    assert ask(names, "secret.ctnr.internal").rcode() == dns.rcode.NXDOMAIN
    assert ask(names, "ctnr.internal").rcode() == dns.rcode.NXDOMAIN


def test_reverse_names(names: Names) -> None:
    def reverse(address: str, source: str = "10.2.0.2"):
        return ask(names, dns.reversename.from_address(address).to_text(), "PTR", source=source)

    assert values(reverse("10.2.0.2")) == ["web."]
    assert values(reverse("fd01::2")) == ["web."]
    assert reverse("10.2.0.99").rcode() == dns.rcode.NXDOMAIN
    assert reverse("fd01::99").rcode() == dns.rcode.NXDOMAIN
    assert reverse("10.3.0.9") is Verdict.FORWARD
    assert values(reverse("10.3.0.9", source="10.2.0.3")) == ["secret."]
    assert reverse("192.0.2.1") is Verdict.FORWARD
    assert ask(names, "0.2.10.in-addr.arpa", "PTR") is Verdict.FORWARD
    assert ask(names, "x.1.1.1.in-addr.arpa", "PTR") is Verdict.FORWARD


def test_removed_and_replaced(names: Names) -> None:
    names.add("one", "c1", names=["web"], addresses=["10.2.0.50"])
    assert values(ask(names, "web")) == ["10.2.0.50"]
    assert ask(names, "abc123") is Verdict.FORWARD
    names.remove("one", "c1")
    names.remove("one", "c1")
    assert ask(names, "web") is Verdict.FORWARD
    names.remove_network("two")
    assert ask(names, "only-two", source="10.2.0.3") is Verdict.FORWARD
    assert values(ask(names, "db")) == ["10.2.0.3"]


def test_an_alias_of_many_takes_turns_and_is_truncated(names: Names) -> None:
    for number in range(40):
        names.add("one", f"m{number}", names=[f"m{number}", "all"], addresses=[f"10.2.0.{100 + number}"])
    first = {str(ask(names, "all", tcp=True).answer[0][0]) for _ in range(40)}
    assert len(first) > 1
    cut = ask(names, "all")
    assert cut.flags & dns.flags.TC
    assert cut.answer == []
    assert len(values(ask(names, "all", tcp=True))) == 40
    assert len(values(ask(names, "all", payload=4096))) == 40
    cut = ask(names, "all", payload=520)
    assert cut.flags & dns.flags.TC
    assert cut.edns == 0


def test_edns(names: Names) -> None:
    assert ask(names, "web").edns == -1
    assert ask(names, "web", use_edns=0).edns == 0
    assert ask(names, "web", use_edns=0, want_dnssec=True).rcode() == dns.rcode.NOERROR
    assert ask(names, "web", use_edns=1).rcode() == dns.rcode.BADVERS
    cookie = dns.edns.GenericOption(10, b"12345678")
    assert values(ask(names, "web", use_edns=0, options=[cookie])) == ["10.2.0.2"]


def test_other_classes_are_refused(names: Names) -> None:
    assert ask(names, "web", rdclass="CH").rcode() == dns.rcode.REFUSED


def test_odd_packets_are_judged_by_dnspython() -> None:
    query = dns.message.make_query("web", "A")
    query.use_tsig(dns.tsigkeyring.from_text({"key.": "c2VjcmV0"}))
    packet = query.to_wire()
    assert parse_query(packet) is Verdict.ODD
    parsed = _parse_fully(packet)
    assert isinstance(parsed, Query)
    assert (parsed.name, parsed.kind) == (b"web", 1)
    notify = bytearray(dns.message.make_query("web", "SOA").to_wire())
    notify[2] |= 4 << 3
    assert _parse_fully(bytes(notify)) == NOTIMP
    assert dns.message.from_wire(build_failure(bytes(notify), NOTIMP)).rcode() == dns.rcode.NOTIMP
    assert _parse_fully(struct.pack("!6H", 1, 0, 2, 0, 0, 0)) == FORMERR
    assert parse_query(b"short") is Verdict.IGNORE
    assert parse_query(dns.message.make_response(query).to_wire()) is Verdict.IGNORE


@given(st.binary(max_size=600))
def test_no_packet_breaks_it(packet: bytes) -> None:
    table = Names()
    table.add("one", "c", names=["a"], addresses=["10.2.0.2"])
    for data in (packet, struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + packet):
        reply = table.answer("one", "10.2.0.2", data, tcp=False)
        if reply is Verdict.ODD:
            judged = _parse_fully(data)
            reply = build_failure(data, judged) if isinstance(judged, int) else build_failure(data, NOTIMP)
        if isinstance(reply, bytes):
            assert reply[:2] == data[:2]
            assert reply[2] & 0x80


@given(st.text(max_size=80))
def test_names_are_checked(name: str) -> None:
    try:
        key = encode_name(name)
    except ValueError:
        return
    table = Names()
    table.add("one", "c", names=[name], addresses=["10.2.0.2"])
    labels = b"".join(bytes([len(label)]) + label for label in key.split(b".")) + b"\0"
    packet = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!HH", 1, 1)
    reply = table.answer("one", "x", packet, tcp=False)
    if not key.endswith((b".in-addr.arpa", b".ip6.arpa", b".ctnr.internal")):
        assert isinstance(reply, bytes)
        assert reply.endswith(bytes([10, 2, 0, 2]))


def test_truncated_answer_of_another_server() -> None:
    query = dns.message.make_query("example.org", "TXT", use_edns=0)
    answer = dns.message.make_response(query)
    parsed = parse_query(query.to_wire())
    assert isinstance(parsed, Query)
    cut = dns.message.from_wire(truncate(parsed, answer.to_wire()))
    assert cut.flags & dns.flags.TC
    assert cut.question == query.question
    assert cut.edns == 0


def test_host_resolvers_follow_the_file(tmp_path) -> None:
    path = tmp_path / "resolv.conf"
    resolvers = HostResolvers(str(path))
    assert resolvers() == (("127.0.0.1", 53),)
    path.write_text(
        "search a\nnameserver 192.0.2.1\nnameserver fe80::1%eth0 # x\nnameserver nonsense\nnameserver\n"
    )
    assert resolvers() == (("192.0.2.1", 53), ("fe80::1%eth0", 53))
    path.write_text("nameserver 192.0.2.55\n")
    assert resolvers() == (("192.0.2.55", 53),)
