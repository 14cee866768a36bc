"""The name server of a network: container names from `Names`, everything else from the host's resolvers.

    names, forwarder = Names(), Forwarder(HostResolvers())
    await nursery.start(partial(run_name_server, names, "web", udp=[…], tcp=[…], forwarder=forwarder))

The sockets are bound (and listening) at the network's gateway address by whoever is in that netns; queries
go upstream from sockets that `Forwarder`'s factory opens, by default here, in the supervisor's own netns, so
that a resolver on the host's loopback works. One server must survive what its containers send: floods and
broken packets cost them their own answers only.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import structlog
import trio

from supervisor.network.dns_flood import Backlog
from supervisor.network.dns_names import (
    FORMERR,
    MINIMUM_SIZE,
    NOTIMP,
    REFUSED,
    SERVFAIL,
    Names,
    Query,
    Verdict,
    build_failure,
    parse_query,
    truncate,
)

log = structlog.get_logger()

Endpoint = tuple[str, int]
OpenSocket = Callable[[socket.AddressFamily, socket.SocketKind], Awaitable[socket.socket]]

PACKETS_PER_TURN = 64  # about 1 ms, then other tasks have theirs
ODD_PER_SECOND = 200  # packets that need a full parser
TCP_IDLE_SECONDS = 10.0
TCP_CONNECTIONS, TCP_CONNECTIONS_PER_PEER = 256, 32


async def open_here(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


class HostResolvers:
    """The name servers in the host's resolv.conf, read again when the file has changed."""

    def __init__(self, path: str = "/etc/resolv.conf") -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._servers: tuple[Endpoint, ...] = ()

    def __call__(self) -> tuple[Endpoint, ...]:
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._servers = tuple(_name_servers(file.read()))
                self._seen = seen
        except OSError:
            self._seen, self._servers = None, ()
        return self._servers or (("127.0.0.1", 53),)  # what resolv.conf(5) says for a file without any


class Forwarder:
    """Asks the upstream servers; shared by all networks. Bounded in number, and per asking address."""

    def __init__(
        self,
        upstreams: Callable[[], Sequence[Endpoint]],
        *,
        open_socket: OpenSocket = open_here,
        seconds: float = 4.5,
        limit: int = 256,
        limit_per_peer: int = 128,
    ) -> None:
        self._upstreams = upstreams
        self._open_socket = open_socket
        self._seconds = seconds
        self._limit = limit
        self._limit_per_peer = limit_per_peer
        self._asking: Counter[str] = Counter()
        self._good: Endpoint | None = None

    @contextmanager
    def place(self, peer: str) -> Iterator[bool]:
        """A place among the queries under way; False if there is none for `peer`."""
        if self._asking.total() >= self._limit or self._asking[peer] >= self._limit_per_peer:
            yield False
            return
        self._asking[peer] += 1
        try:
            yield True
        finally:
            self._asking[peer] -= 1
            if not self._asking[peer]:
                del self._asking[peer]

    def has_place(self, peer: str) -> bool:
        return self._asking.total() < self._limit and self._asking[peer] < self._limit_per_peer

    async def ask(self, packet: bytes, *, tcp: bool) -> bytes:
        """The answer of the first upstream that has one, else SERVFAIL; within `seconds`."""
        servers = list(self._upstreams())
        servers.sort(key=lambda server: server != self._good)  # the one that answered last goes first
        tries = servers * 2  # a lost datagram is not a dead server
        refusal: bytes | None = None
        end = trio.current_time() + self._seconds
        for number, server in enumerate(tries):
            if trio.current_time() >= end:
                break
            pause = (end - trio.current_time()) / (len(tries) - number)
            reply = await self._ask_one(packet, server, tcp=tcp, seconds=pause)
            if reply is None:
                continue
            if reply[3] & 0xF in (SERVFAIL, REFUSED, NOTIMP):
                refusal = reply
                if number + 1 >= len(servers):
                    break
                continue
            self._good = server
            return reply
        return refusal or build_failure(packet, SERVFAIL)

    async def _ask_one(self, packet: bytes, server: Endpoint, *, tcp: bool, seconds: float) -> bytes | None:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        ident = secrets.token_bytes(2)
        with trio.move_on_after(seconds), suppress(OSError, trio.BrokenResourceError):
            opened = await self._open_socket(family, kind)
            opened.setblocking(False)
            with trio.socket.from_stdlib_socket(opened) as sock:
                await sock.connect(server)  # a closed port is told at once then, and strangers are not heard
                if tcp:
                    stream = trio.SocketStream(sock)
                    await stream.send_all(len(packet).to_bytes(2, "big") + ident + packet[2:])
                    reply = await _receive_message(stream)
                else:
                    await sock.send(ident + packet[2:])
                    reply = await sock.recv(65535)
                    while not _answers(packet, ident, reply):
                        reply = await sock.recv(65535)
                if reply is not None and _answers(packet, ident, reply):
                    return packet[:2] + reply[2:]
        return None


async def run_name_server(
    names: Names,
    network: str,
    *,
    udp: Sequence[socket.socket],
    tcp: Sequence[socket.socket],
    forwarder: Forwarder,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `network` on these sockets until cancelled; they are closed then. `tcp` must listen."""
    server = _Server(names, network, forwarder)
    try:
        async with trio.open_nursery() as nursery:
            for sock in (*udp, *tcp):
                sock.setblocking(False)
            for sock in udp:
                nursery.start_soon(server.serve_udp, sock, nursery)
            for sock in tcp:
                nursery.start_soon(server.serve_tcp, sock, nursery)
            task_status.started()
    finally:
        for sock in (*udp, *tcp):
            sock.close()


class _Server:
    def __init__(self, names: Names, network: str, forwarder: Forwarder) -> None:
        self._names = names
        self._network = network
        self._forwarder = forwarder
        self._under_way: set[tuple[Endpoint, bytes]] = set()
        self._connected: Counter[str] = Counter()
        self._odd_second, self._odd_count = 0, 0

    async def serve_udp(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        backlog = Backlog(sock)
        while True:
            await trio.lowlevel.wait_readable(sock)
            if (seconds := backlog.judge()) is not None:
                nursery.start_soon(self._unmute, backlog, seconds)
            for _ in range(PACKETS_PER_TURN):
                try:
                    packet, peer = sock.recvfrom(4096)
                except BlockingIOError:
                    backlog.drained()
                    break
                except OSError:  # an ICMP error of an earlier answer
                    continue
                backlog.heard(peer[0])
                reply = self._answer(packet, peer[0], tcp=False)
                if isinstance(reply, bytes):
                    _send(sock, reply, peer)
                elif reply is Verdict.FORWARD:
                    self._start_forward(sock, packet, peer, nursery)

    async def _unmute(self, backlog: Backlog, seconds: float) -> None:
        log.warning("name_server_flooded", network=self._network, muted_seconds=seconds)
        await trio.sleep(seconds)
        backlog.unmute()

    def _start_forward(
        self, sock: socket.socket, packet: bytes, peer: Endpoint, nursery: trio.Nursery
    ) -> None:
        key = (peer, packet)
        if key in self._under_way:  # the client repeats itself: one answer will do
            return
        if not self._forwarder.has_place(peer[0]):
            _send(sock, build_failure(packet, SERVFAIL), peer)
            return
        self._under_way.add(key)
        nursery.start_soon(self._forward, sock, packet, peer)

    async def _forward(self, sock: socket.socket, packet: bytes, peer: Endpoint) -> None:
        try:
            with self._forwarder.place(peer[0]) as free:
                reply = (
                    await self._forwarder.ask(packet, tcp=False) if free else build_failure(packet, SERVFAIL)
                )
        finally:
            self._under_way.discard((peer, packet))
        query = parse_query(packet)
        if len(reply) > (query.size if isinstance(query, Query) else MINIMUM_SIZE):
            reply = truncate(query, reply) if isinstance(query, Query) else build_failure(packet, SERVFAIL)
        _send(sock, reply, peer)

    async def serve_tcp(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        listener = trio.socket.from_stdlib_socket(sock)
        while True:
            try:
                accepted, peer = await listener.accept()
            except OSError:  # out of descriptors, or the peer is gone already
                await trio.sleep(0.05)
                continue
            host = str(peer[0])
            if (
                self._connected.total() >= TCP_CONNECTIONS
                or self._connected[host] >= TCP_CONNECTIONS_PER_PEER
            ):
                accepted.close()
                continue
            self._connected[host] += 1
            nursery.start_soon(self._serve_connection, accepted, host)

    async def _serve_connection(self, accepted: trio.socket.SocketType, host: str) -> None:
        try:
            with accepted, suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                stream = trio.SocketStream(accepted)
                while True:
                    with trio.move_on_after(TCP_IDLE_SECONDS):
                        packet = await _receive_message(stream)
                        reply = await self._reply_tcp(packet, host) if packet is not None else None
                        if reply is None:
                            return
                        await stream.send_all(len(reply).to_bytes(2, "big") + reply)
                        continue
                    return
        finally:
            self._connected[host] -= 1
            if not self._connected[host]:
                del self._connected[host]

    async def _reply_tcp(self, packet: bytes, host: str) -> bytes | None:
        reply = self._answer(packet, host, tcp=True)
        if reply is Verdict.FORWARD:
            with self._forwarder.place(host) as free:
                return (
                    await self._forwarder.ask(packet, tcp=True) if free else build_failure(packet, SERVFAIL)
                )
        return reply if isinstance(reply, bytes) else None

    def _answer(self, packet: bytes, host: str, *, tcp: bool) -> bytes | Verdict:
        reply = self._names.answer(self._network, host, packet, tcp=tcp)
        return self._judge_odd(packet, host, tcp=tcp) if reply is Verdict.ODD else reply

    def _judge_odd(self, packet: bytes, host: str, *, tcp: bool) -> bytes | Verdict:
        """What dnspython makes of a packet that is no common query. So many a second, the rest is
        dropped.
        """
        now = int(time.monotonic())
        if now != self._odd_second:
            self._odd_second, self._odd_count = now, 0
        self._odd_count += 1
        if self._odd_count > ODD_PER_SECOND:
            return Verdict.IGNORE
        query = _parse_fully(packet)
        if isinstance(query, int):
            return build_failure(packet, query)
        return self._names.answer_query(self._network, host, query, tcp=tcp)


def _parse_fully(packet: bytes) -> Query | int:
    """A query with anything legal in it (TSIG, several additional records), or the code of what is wrong
    with it.
    """
    import dns.exception
    import dns.message
    import dns.opcode

    try:
        message = dns.message.from_wire(packet, ignore_trailing=True, continue_on_error=False, keyring=False)
    except (dns.exception.DNSException, ValueError, IndexError):
        return FORMERR
    if message.opcode() != dns.opcode.QUERY:
        return NOTIMP
    if len(message.question) != 1:
        return FORMERR
    asked = message.question[0]
    name = asked.name.canonicalize().to_text(omit_final_dot=True).encode()
    labels = asked.name.to_wire() or b""
    question = labels + int(asked.rdtype).to_bytes(2, "big") + int(asked.rdclass).to_bytes(2, "big")
    return Query(
        ident=message.id,
        flags=int(message.flags),
        name=name,
        kind=int(asked.rdtype),
        klass=int(asked.rdclass),
        question=question,
        edns=message.edns >= 0,
        edns_version=max(0, message.edns),
        size=max(MINIMUM_SIZE, message.payload if message.edns >= 0 else 0),
    )


def _send(sock: socket.socket, packet: bytes, peer: Endpoint) -> None:
    with suppress(OSError):  # a full buffer drops it, as the network might
        sock.sendto(packet, peer)


def _answers(query: bytes, ident: bytes, reply: bytes) -> bool:
    """Is `reply` an answer to that query, sent with `ident`? It must repeat the question (RFC 5452 section
    3).
    """
    if len(reply) < 12 or reply[:2] != ident or not reply[2] & 0x80:
        return False
    parsed = parse_query(query)
    if not isinstance(parsed, Query):
        return True
    if reply[4:6] == b"\0\0":  # some servers leave the question out of an error
        return bool(reply[3] & 0xF)
    return reply[12 : 12 + len(parsed.question)].lower() == parsed.question.lower()


async def _receive_message(stream: trio.SocketStream) -> bytes | None:
    """One message with its length before it (RFC 7766), None at the end or if it is cut."""
    data, wanted = b"", 2
    while len(data) < wanted:
        part = await stream.receive_some(wanted - len(data))
        if not part:
            return None
        data += part
        if wanted == 2 and len(data) == 2:
            wanted += int.from_bytes(data, "big")
    return data[2:]


def _name_servers(text: str) -> Iterator[Endpoint]:
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        with suppress(ValueError):
            ipaddress.ip_address(words[1])
            yield words[1], 53
