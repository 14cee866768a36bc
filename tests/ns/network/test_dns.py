"""The name server over real sockets: those of a netns, passed out; upstream servers on the host's loopback."""

from __future__ import annotations

import array
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest
import trio
import trio.testing

from supervisor.network.dns import Forwarder, run_name_server
from supervisor.network.dns_names import Names

Inside = Callable[..., Any]
Ip = Callable[..., str]
GATEWAY = "10.2.0.1"

OPEN_AND_PASS = """
import array, socket, sys
out = socket.socket(fileno=int(sys.argv[1]))
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("10.2.0.1", 53))
tcp = socket.create_server(("10.2.0.1", 53))
out.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [udp.fileno(), tcp.fileno()]))])
"""

# argv: names, seconds, queries a second; prints asked, answered
FLOOD = """
import selectors, socket, struct, sys, time
names = sys.argv[1].split(","); seconds = float(sys.argv[2]); rate = int(sys.argv[3])
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
sock.connect(("10.2.0.1", 53))
sock.setblocking(False)
def packet(number):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in names[number % len(names)].split("."))
    return struct.pack("!6H", number & 0xFFFF, 0x100, 1, 0, 0, 0) + labels + b"\\0\\0\\1\\0\\1"
total, sent, right, began = int(seconds * rate), 0, 0, time.monotonic()
while time.monotonic() - began < seconds + 1 and right < total:
    while sent < total and sent < (time.monotonic() - began) * rate:
        sock.send(packet(sent)); sent += 1
    try:
        while True:
            reply = sock.recv(600)
            right += reply[3] & 15 == 0 and reply[6:8] != b"\\0\\0"
    except BlockingIOError:
        time.sleep(0.001)
print(sent, right)
"""


@pytest.fixture
async def upstream(nursery: trio.Nursery) -> AsyncIterator[Upstream]:
    server = Upstream()
    await nursery.start(server.run)
    yield server
    server.stop()


@pytest.fixture
async def server(netns: str, ip: Ip, upstream: Upstream, nursery: trio.Nursery) -> AsyncIterator[Names]:
    """A server at 10.2.0.1 inside the netns, which forwards to `upstream`."""
    ip(netns, "link", "set", "lo", "up")
    ip(netns, "address", "add", f"{GATEWAY}/24", "dev", "lo")
    ip(netns, "address", "add", "10.2.0.2/24", "dev", "lo")
    udp, tcp = sockets_from(netns)
    names = Names()
    names.add_network("net", ["10.2.0.0/24"])
    names.add("net", "c1", names=["web"], addresses=["10.2.0.2"])
    scope = trio.CancelScope()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        with scope:
            serve = partial(run_name_server, names, "net", udp=[udp], tcp=[tcp])
            await serve(
                forwarder=Forwarder(lambda: [upstream.endpoint], seconds=1.0), task_status=task_status
            )

    await nursery.start(run)
    yield names
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert udp.fileno() == -1
    assert tcp.fileno() == -1


def sockets_from(netns: str) -> list[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [f"--net={netns}", sys.executable, "-I", "-S", "-c", OPEN_AND_PASS, str(theirs.fileno())]
        subprocess.run(["nsenter", *command], pass_fds=[theirs.fileno()], check=True)
        _, rights, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC)
    return [socket.socket(fileno=fd) for fd in array.array("i", rights[0][2])]


class Upstream:
    """A resolver on loopback with example.org, big.example.org (60 addresses); UDP and TCP."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.endpoint = ("127.0.0.1", self.tcp.getsockname()[1])
        self.udp = socket.socket(type=socket.SOCK_DGRAM)
        self.udp.bind(self.endpoint)
        self.mute = False
        self.asked = 0

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self.tcp))
        with self.scope, trio.socket.from_stdlib_socket(self.udp) as udp:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self.serve_tcp, [listener])
                task_status.started()
                while True:
                    packet, peer = await udp.recvfrom(4096)
                    self.asked += 1
                    if not self.mute:
                        await udp.sendto(b"junk", peer)
                        await udp.sendto(self.reply(packet, 65535 if self.asked < 0 else 1232), peer)

    def stop(self) -> None:
        self.scope.cancel()

    async def serve_tcp(self, stream: trio.SocketStream) -> None:
        async with stream:
            size = await stream.receive_some(2)
            reply = self.reply(bytes(await stream.receive_some(int.from_bytes(size, "big"))), 65535)
            await stream.send_all(len(reply).to_bytes(2, "big") + reply)

    def reply(self, packet: bytes, limit: int) -> bytes:
        query = dns.message.from_wire(packet)
        answer = dns.message.make_response(query)
        name = query.question[0].name
        hosts = {"example.org.": ["192.0.2.7"], "big.example.org.": [f"192.0.2.{n}" for n in range(1, 61)]}
        if found := hosts.get(name.to_text().lower()):
            answer.answer.append(dns.rrset.from_text_list(name, 60, "IN", "A", found))
        elif name.to_text() == "refused.example.org.":
            answer.set_rcode(dns.rcode.REFUSED)
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        wire = answer.to_wire(max_size=65535)
        if len(wire) <= limit:
            return wire
        answer.answer.clear()
        answer.flags |= dns.flags.TC
        return answer.to_wire()


async def dig(netns: str, *words: str) -> str:
    command = ["nsenter", f"--net={netns}", "dig", f"@{GATEWAY}", "+time=3", "+tries=1", *words]
    with trio.fail_after(10):
        done = await trio.run_process(command, capture_stdout=True, check=False)
    return done.stdout.decode()


async def test_names_and_the_rest_of_the_world(netns: str, server: Names, upstream: Upstream) -> None:
    assert (await dig(netns, "+short", "web")).split() == ["10.2.0.2"]
    assert (await dig(netns, "+short", "+tcp", "web")).split() == ["10.2.0.2"]
    assert (await dig(netns, "+short", "-x", "10.2.0.2")).split() == ["web."]
    assert (await dig(netns, "+short", "example.org")).split() == ["192.0.2.7"]
    assert "status: NXDOMAIN" in await dig(netns, "nothing.example.org")
    assert "status: NOERROR" in await dig(netns, "web", "AAAA")
    assert "status: REFUSED" in await dig(netns, "refused.example.org")
    assert upstream.asked >= 3


async def test_big_answers_are_truncated_and_complete_over_tcp(netns: str, server: Names) -> None:
    assert len((await dig(netns, "+short", "big.example.org")).split()) == 60  # dig asks again over TCP
    cut = await dig(netns, "+ignore", "+noedns", "big.example.org")
    assert "flags: qr tc" in cut or " tc " in cut
    assert len((await dig(netns, "+short", "+tcp", "big.example.org")).split()) == 60


async def test_upstream_down_is_servfail_in_time(netns: str, server: Names, upstream: Upstream) -> None:
    upstream.mute = True
    began = time.monotonic()
    assert "status: SERVFAIL" in await dig(netns, "example.org")
    assert time.monotonic() - began < 3
    assert (await dig(netns, "+short", "web")).split() == ["10.2.0.2"]
    upstream.mute = False
    assert (await dig(netns, "+short", "example.org")).split() == ["192.0.2.7"]
    upstream.stop()  # the port is closed: ICMP tells at once
    await trio.testing.wait_all_tasks_blocked()
    began = time.monotonic()
    assert "status: SERVFAIL" in await dig(netns, "example.org")
    assert time.monotonic() - began < 0.9


async def test_the_next_upstream_is_asked(upstream: Upstream) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        dead = closed.getsockname()
    with socket.socket(type=socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        forwarder = Forwarder(lambda: [dead, mute.getsockname(), upstream.endpoint], seconds=1.2)
        query = dns.message.make_query("example.org", "A")
        for seconds in (0.6, 0.1):  # the second time the good one goes first
            with trio.fail_after(seconds):
                reply = dns.message.from_wire(await forwarder.ask(query.to_wire(), tcp=False))
            assert query.is_response(reply)
            assert reply.rcode() == dns.rcode.NOERROR


async def test_floods_and_broken_packets_are_survived(
    netns: str, server: Names, upstream: Upstream, inside: Inside
) -> None:
    upstream.mute = True
    program = """
import os, random, socket, struct
sock = socket.socket(type=socket.SOCK_DGRAM); sock.connect(("10.2.0.1", 53)); sock.setblocking(False)
for n in range(3000):
    head = struct.pack("!6H", n, 0x100, 1, 0, 0, random.choice((0, 1)))
    for data in (os.urandom(random.randrange(200)), head + os.urandom(40),
                 head[:10] + b"\\0\\0" + b"\\7x%06d\\0\\0\\1\\0\\1" % n):
        try: sock.send(data)
        except OSError: pass
connections = [socket.create_connection(("10.2.0.1", 53)) for _ in range(60)]
for c in connections[:20]: c.sendall(b"\\xff\\xff" + os.urandom(100))
"""
    await inside(netns, program)
    asking = ("+short", "+tries=3", "web")  # the flooder, which this is, may be muted for a second
    assert (await dig(netns, *asking)).split()[-1:] == ["10.2.0.2"]
    assert (await dig(netns, "+short", "+tcp", "web")).split() == ["10.2.0.2"]
    upstream.mute = False
    await trio.sleep(1.5)  # the forwarder's own deadline of 1 s: all places are free again
    assert (await dig(netns, "+short", "example.org")).split() == ["192.0.2.7"]


async def test_two_thousand_a_second_without_loss(netns: str, server: Names, inside: Inside) -> None:
    """40 containers' worth of names, asked for by 4 programs."""
    for number in range(40):
        server.add("net", f"m{number}", names=[f"m{number}"], addresses=[f"10.2.0.{100 + number}"])
    results: list[str] = []
    everybody = ",".join(f"m{number}" for number in range(40))

    async def ask() -> None:
        results.append(await inside(netns, FLOOD, everybody, "1", "600"))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ask)
    assert results == ["600 600"] * 4


async def test_cancelled_at_random_moments_closes_everything(netns: str, ip: Ip, upstream: Upstream) -> None:
    ip(netns, "link", "set", "lo", "up")
    ip(netns, "address", "add", f"{GATEWAY}/24", "dev", "lo")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(8):
        udp, tcp = sockets_from(netns)
        with trio.move_on_after(secrets.randbelow(20) / 1000):
            forwarder = Forwarder(lambda: [upstream.endpoint])
            await run_name_server(Names(), "net", udp=[udp], tcp=[tcp], forwarder=forwarder)
        assert (udp.fileno(), tcp.fileno()) == (-1, -1)
    assert len(os.listdir("/proc/self/fd")) == before
