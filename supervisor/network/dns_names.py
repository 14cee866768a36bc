"""The names of containers: who is called what on which network, who may know it, and the answer as a packet.

The common query (one question, at most an OPT record) is read and answered here with struct alone, about 4
µs each, which leaves the service its processor. `answer` says FORWARD for what is not ours and ODD for what
only a full parser should judge. RFC 1035, 6891 (EDNS), 2308 (no data), 8020 (no such name).
"""

from __future__ import annotations

import enum
import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

A, NS, PTR, AAAA, OPT, ANY = 1, 2, 12, 28, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
MINIMUM_SIZE, OUR_SIZE, MAXIMUM_TCP = 512, 1232, 65535  # 1232: fits every path's MTU (DNS flag day 2020)

_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHHIH")  # pointer to the name, type, class, ttl, length
_OPT = struct.Struct("!BHHBBHH")  # root, type, size, extended rcode, version, flags, length
_TTL = 0  # a restarted container has another address at once


class Verdict(enum.Enum):
    """What is not answered here."""

    FORWARD = enum.auto()
    ODD = enum.auto()
    IGNORE = enum.auto()  # not a query: an answer to it could start a loop


@dataclass(slots=True)
class Query:
    """The part of a query that decides. `name` is in lower case, labels joined by dots, without the root."""

    ident: int
    flags: int
    name: bytes
    kind: int
    klass: int
    question: bytes  # as it came, its case is the client's (RFC 5452, 0x20)
    edns: bool
    edns_version: int
    size: int  # the largest UDP answer


@dataclass(slots=True)
class _Member:
    names: tuple[bytes, ...]
    addresses: tuple[bytes, ...]  # packed


@dataclass(slots=True)
class _Network:
    members: dict[str, _Member] = field(default_factory=dict)
    by_name: dict[bytes, list[_Member]] = field(default_factory=dict)
    by_address: dict[bytes, str] = field(default_factory=dict)
    subnets: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()


class Names:
    """All networks' names. A container sees those of the networks that it is on itself, and no others."""

    def __init__(self, domain: str = "ctnr.internal") -> None:
        self._networks: dict[str, _Network] = {}
        self._of_container: dict[str, list[str]] = {}
        self._suffix = b"." + domain.lower().encode()
        self._turn = 0

    def add_network(self, network: str, subnets: Iterable[str] = ()) -> None:
        """Reverse names inside `subnets` are ours alone: an unknown one does not exist."""
        self._network(network).subnets = tuple(ipaddress.ip_network(subnet) for subnet in subnets)

    def remove_network(self, network: str) -> None:
        for container in list(self._network(network).members):
            self.remove(network, container)
        del self._networks[network]

    def add(self, network: str, container: str, *, names: Iterable[str], addresses: Iterable[str]) -> None:
        """`names` are the container's name, aliases and hostname, the first is told for its addresses (PTR).

        Replaces what it had on that network. Raises: ValueError for a name that DNS can't carry, or a bad
        address.
        """
        keys = tuple(dict.fromkeys(encode_name(name) for name in names))
        packed = tuple(ipaddress.ip_address(address).packed for address in addresses)
        self.remove(network, container)
        at, member = self._network(network), _Member(keys, packed)
        at.members[container] = member
        self._of_container.setdefault(container, []).append(network)
        for key in keys:
            at.by_name.setdefault(key, []).append(member)
        for address in packed:
            at.by_address[address] = container

    def remove(self, network: str, container: str) -> None:
        """Idempotent."""
        at = self._networks.get(network)
        member = at.members.pop(container, None) if at else None
        if at is None or member is None:
            return
        for key in member.names:
            at.by_name[key] = rest = [other for other in at.by_name[key] if other is not member]
            if not rest:
                del at.by_name[key]
        for address in member.addresses:
            if at.by_address.get(address) == container:
                del at.by_address[address]
        self._of_container[container].remove(network)
        if not self._of_container[container]:
            del self._of_container[container]

    def answer(self, network: str, source: str, packet: bytes, *, tcp: bool) -> bytes | Verdict:
        """The reply to a query that came from `source` to the server of `network`, or what else to do with
        it.
        """
        query = parse_query(packet)
        if isinstance(query, Verdict):
            return query
        return self.answer_query(network, source, query, tcp=tcp)

    def answer_query(self, network: str, source: str, query: Query, *, tcp: bool) -> bytes | Verdict:
        if query.edns_version:
            return build_reply(query, BADVERS)
        if query.klass != IN:
            return build_reply(query, REFUSED)
        scopes = self._scopes(network, source)
        if query.name.endswith((b".in-addr.arpa", b".ip6.arpa")):
            return self._reverse(scopes, query, tcp=tcp)
        ours = query.name.endswith(self._suffix)
        key = query.name[: -len(self._suffix)] if ours else query.name
        members = [member for at in scopes for member in at.by_name.get(key, ())]
        if not members:
            return (
                build_reply(query, NXDOMAIN) if ours or query.name == self._suffix[1:] else Verdict.FORWARD
            )
        records = []
        for kind, length in ((A, 4), (AAAA, 16)):
            if query.kind in (kind, ANY):
                found = {
                    address: None
                    for member in members
                    for address in member.addresses
                    if len(address) == length
                }
                records += [_RECORD.pack(0xC00C, kind, IN, _TTL, length) + address for address in found]
        if len(records) > 1:  # take turns
            self._turn += 1
            cut = self._turn % len(records)
            records = records[cut:] + records[:cut]
        return build_reply(query, NOERROR, records, tcp=tcp)

    def _reverse(self, scopes: list[_Network], query: Query, *, tcp: bool) -> bytes | Verdict:
        address = _reverse_address(query.name)
        if address is None:
            return Verdict.FORWARD
        for at in scopes:
            container = at.by_address.get(address)
            if container is not None and at.members[container].names:
                if query.kind not in (PTR, ANY):
                    return build_reply(query, NOERROR)
                target = _labels(at.members[container].names[0])
                return build_reply(
                    query, NOERROR, [_RECORD.pack(0xC00C, PTR, IN, _TTL, len(target)) + target], tcp=tcp
                )
        ip = ipaddress.ip_address(address)
        if any(ip in subnet for at in scopes for subnet in at.subnets):
            return build_reply(query, NXDOMAIN)
        return Verdict.FORWARD

    def _scopes(self, network: str, source: str) -> list[_Network]:
        """The network asked first, then the others that the asking container is on."""
        at = self._network(network)
        try:
            packed = socket.inet_pton(
                socket.AF_INET6 if ":" in source else socket.AF_INET, source.partition("%")[0]
            )
        except OSError:
            return [at]
        container = at.by_address.get(packed)
        if container is None:
            return [at]
        return [at, *(self._networks[name] for name in self._of_container[container] if name != network)]

    def _network(self, network: str) -> _Network:
        return self._networks.setdefault(network, _Network())


def encode_name(name: str) -> bytes:
    """`name` as a key of the table. Raises: ValueError if it has an empty or too long label, or is not
    ASCII.
    """
    text = name.rstrip(".").lower()
    labels = text.split(".")
    if not text.isascii() or len(text) > 253 or not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"{name!r} can't be a name in DNS")
    return text.encode()


def parse_query(packet: bytes) -> Query | Verdict:
    """The common query; ODD for everything else, IGNORE for what is no query."""
    if len(packet) < 12:
        return Verdict.IGNORE
    ident, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(packet)
    if flags & QR:
        return Verdict.IGNORE
    if flags & 0x7800 or questions != 1 or answers or authorities or additionals > 1:
        return Verdict.ODD
    labels, offset, end = [], 12, len(packet)
    while offset < end and (length := packet[offset]):
        if length > 63:
            return Verdict.ODD
        labels.append(packet[offset + 1 : offset + 1 + length])
        offset += 1 + length
    offset += 5
    if offset > end or offset > 12 + 255 + 4:
        return Verdict.ODD
    kind, klass = struct.unpack_from("!HH", packet, offset - 4)
    edns, version, size = False, 0, MINIMUM_SIZE
    if additionals:
        if end - offset < _OPT.size:
            return Verdict.ODD
        root, extra, size, _, version, _, length = _OPT.unpack_from(packet, offset)
        if root or extra != OPT or offset + _OPT.size + length != end:
            return Verdict.ODD
        edns, size = True, max(size, MINIMUM_SIZE)
    elif offset != end:
        return Verdict.ODD
    name = b".".join(labels).lower()
    return Query(ident, flags, name, kind, klass, packet[12:offset], edns, version, size)


def build_reply(query: Query, code: int, records: Iterable[bytes] = (), *, tcp: bool = False) -> bytes:
    """An authoritative reply, cut down to header and question with TC if it is larger than the client
    takes.
    """
    flags = QR | AA | RA | (query.flags & RD) | (code & 0xF)
    tail = _OPT.pack(0, OPT, OUR_SIZE, code >> 4, 0, 0, 0) if query.edns else b""
    body = list(records)
    size = 12 + len(query.question) + sum(map(len, body)) + len(tail)
    if size > (MAXIMUM_TCP if tcp else query.size):
        flags, body = flags | TC, []
    header = _HEADER.pack(query.ident, flags, 1, len(body), 0, 1 if tail else 0)
    return b"".join((header, query.question, *body, tail))


def build_failure(packet: bytes, code: int) -> bytes:
    """A reply that says only that it failed; works with the header of anything."""
    query = parse_query(packet)
    if isinstance(query, Query):
        reply = bytearray(build_reply(query, code))
        reply[2] &= ~(AA >> 8) & 0xFF
        return bytes(reply)
    ident, flags = struct.unpack_from("!HH", packet)
    return _HEADER.pack(ident, QR | RA | (flags & (0x7800 | RD)) | code, 0, 0, 0, 0)


def truncate(query: Query, reply: bytes) -> bytes:
    """`reply` of another server without its records, and TC: the client asks again over TCP."""
    flags = struct.unpack_from("!H", reply, 2)[0] | TC
    tail = _OPT.pack(0, OPT, OUR_SIZE, 0, 0, 0, 0) if query.edns else b""
    return _HEADER.pack(query.ident, flags, 1, 0, 0, 1 if tail else 0) + query.question + tail


def _labels(name: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in name.split(b".")) + b"\0"


def _reverse_address(name: bytes) -> bytes | None:
    """The packed address of a complete reverse name, None for a part of one."""
    labels = name.split(b".")
    try:
        if labels[-2] == b"in-addr":
            return bytes(int(label) for label in reversed(labels[:-2])) if len(labels) == 6 else None
        digits = b"".join(reversed(labels[:-2]))
        return bytes.fromhex(digits.decode()) if len(digits) == 32 and len(labels) == 34 else None
    except ValueError:
        return None
