"""Names of containers on their networks, asked from inside: who knows whom, and what the rest of the world answers."""

from __future__ import annotations

import dataclasses
import errno
import json
import socket
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.reversename
import pytest
import trio

from netconf import NetworkList, load_builtin
from supervisor import open_supervisor
from supervisor.container import Container
from supervisor.errors import AttachmentError
from supervisor.sandbox.sandbox import Sandbox
from supervisor.supervisor import Supervisor
from tests.ns.supervisor.helpers import KINDS, spec
from tests.world.internet import BIG_COUNT, BIG_NAME, Internet, name_server_is

GATEWAY = "10.2.0.1"
MANY = 40

# argv: seconds, queries a second, then a socket's descriptor and the container's name for each of them. Everybody asks
# for everybody in turn; prints how many were asked, and how many rightly answered.
ASK_EACH_OTHER = """
import select, socket, struct, sys, time
seconds, rate = float(sys.argv[1]), int(sys.argv[2])
sockets = [socket.socket(fileno=int(number)) for number in sys.argv[3::2]]
names = [name.encode() for name in sys.argv[4::2]]
poll = select.epoll()
for sock in sockets:
    sock.connect(("10.2.0.1", 53)); sock.setblocking(False); poll.register(sock, select.EPOLLIN)
by_number = {sock.fileno(): sock for sock in sockets}
total, sent, right, began = int(seconds * rate), 0, 0, time.monotonic()
while right < total and time.monotonic() - began < seconds + 2:
    while sent < total and sent < (time.monotonic() - began) * rate:
        name = names[(sent * 7 + sent // len(names)) % len(names)]
        head = struct.pack("!6H", sent & 0xFFFF, 0x100, 1, 0, 0, 0)
        sockets[sent % len(sockets)].send(head + bytes([len(name)]) + name + b"\\0\\0\\1\\0\\1")
        sent += 1
    for number, _ in poll.poll(0.001):
        try:
            while True:
                reply = by_number[number].recv(600)
                right += reply[3] & 15 == 0 and reply[6:8] == b"\\0\\1"
        except BlockingIOError:
            pass
print(sent, right)
"""


def bridge(name: str, subnet: str, **more: object) -> NetworkList:
    """A bridge whose configuration names no name server."""
    plugin = {"type": "bridge", "bridge": f"ctnr-{name}", "isGateway": True, "ipMasq": True, **more,
              "ipam": {"type": "host-local", "subnet": subnet, "routes": [{"dst": "0.0.0.0/0"}]}}  # fmt: skip
    conf = {"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}
    return NetworkList.from_bytes(json.dumps(conf).encode(), "test")


async def query(
    container: Container, name: str, kind: str = "A", *, server: str = GATEWAY, tcp: bool = False
) -> dns.message.Message:
    """The answer to a question from the container's network namespace."""
    asked = dns.message.make_query(name, kind).to_wire()
    stream = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    opened = await container.sandbox.open_socket(socket.AF_INET, stream, netns=container.netns)
    opened.setblocking(False)
    with trio.fail_after(8), trio.socket.from_stdlib_socket(opened) as sock:
        await sock.connect((server, 53))
        await sock.send((len(asked).to_bytes(2, "big") if tcp else b"") + asked)
        answer = await sock.recv(65535)
        while tcp and (len(answer) < 2 or len(answer) < 2 + int.from_bytes(answer[:2], "big")):
            answer += await sock.recv(65535)
        return dns.message.from_wire(answer[2:] if tcp else answer)


async def ask(container: Container, name: str, kind: str = "A", **how: Any) -> list[str]:
    """The records of the answer, over TCP too where the first was cut short."""
    answer = await query(container, name, kind, **how)
    if answer.flags & dns.flags.TC:
        answer = await query(container, name, kind, **how, tcp=True)
    return [record.to_text() for rrset in answer.answer for record in rrset]


async def ask_again(container: Container, name: str, **how: Any) -> list[str]:
    """As a resolver does: asked again after a second, three times at most (resolv.conf(5): timeout, attempts)."""
    for _ in range(3):
        with trio.move_on_after(1):
            return await ask(container, name, **how)
    raise AssertionError(f"{container.name} gets no answer")


async def code(container: Container, name: str, **how: Any) -> str:
    return dns.rcode.to_text((await query(container, name, **how)).rcode())


def reversed_name(address: str) -> str:
    return str(dns.reversename.from_address(address))


async def start(supervisor: Supervisor, bundle: Path, rootless: bool, name: str, **more: Any) -> Container:
    aliases = more.pop("aliases", ())
    made = dataclasses.replace(spec(bundle, ["sleep", "1000"], name=name, **more), aliases=aliases)
    return await supervisor.start(made, rootless=rootless)


@KINDS
async def test_two_containers_know_each_other_by_name(bundle: Path, rootless: bool) -> None:
    async with open_supervisor() as supervisor:
        networks = [load_builtin("bridge")]
        a = await start(supervisor, bundle, rootless, "a", networks=networks, aliases=("web", "not..usable"))
        b = await start(supervisor, bundle, rootless, "B", networks=networks)
        assert (GATEWAY,) == a.attachments[0].nameservers
        assert list(b.attachments[0].addresses) == await ask(a, "b")
        assert list(a.attachments[0].addresses) == await ask(b, "web")
        assert list(a.attachments[0].addresses) == await ask(b, "a.ctnr.internal", tcp=True)
        assert ["a."] == await ask(b, reversed_name(a.attachments[0].addresses[0]), "PTR")
        await a.stop(0)
        assert await code(b, "a.ctnr.internal") == "NXDOMAIN"
        await b.stop(0)
        again = await start(supervisor, bundle, rootless, "c", networks=networks)  # opened once more
        assert list(again.attachments[0].addresses) == await ask(again, "c")
        await again.stop(0)
        await again.wait_gone()
        service = (await supervisor.realm(rootless=rootless)).networks.name_service
        assert not service.names._networks, "networks come and go; a service stays"


@KINDS
async def test_the_rest_of_the_world_is_asked_on_the_host(
    bundle: Path, rootless: bool, internet: Internet
) -> None:
    async with open_supervisor() as supervisor:
        one = await start(supervisor, bundle, rootless, "one", networks=[load_builtin("bridge")])
        assert [internet.address] == await ask(one, "example.org")
        assert len(await ask(one, BIG_NAME)) == BIG_COUNT, "cut short over UDP, whole over TCP"
        assert ["example.org."] == await ask(one, reversed_name(internet.address), "PTR")
        assert await code(one, "nobody.example.org") == "NXDOMAIN"
        fetch = ["busybox", "wget", "-qO-", f"http://{internet.address}/"]
        page = await one.sandbox.run(fetch, netns=one.netns)
        assert b"Example Domain" in page.stdout


@KINDS
async def test_names_stay_on_their_networks(bundle: Path, rootless: bool, internet: Internet) -> None:
    async with open_supervisor() as supervisor:
        left, right = bridge("left", "10.81.0.0/24"), bridge("right", "10.82.0.0/24")
        a = await start(supervisor, bundle, rootless, "a", networks=[left])
        b = await start(supervisor, bundle, rootless, "b", networks=[right])
        both = await start(supervisor, bundle, rootless, "both", networks=[left, right])
        assert ("10.81.0.1",) == a.attachments[0].nameservers, "no name server is configured: ours is put in"
        assert [] == await ask(a, "b", server="10.81.0.1")
        assert [] == await ask(b, "a", server="10.82.0.1")
        assert [both.attachments[0].addresses[0]] == await ask(a, "both", server="10.81.0.1")
        assert list(b.attachments[0].addresses) == await ask(both, "b", server="10.81.0.1"), "it is on both"


@KINDS
async def test_a_network_without_a_way_out_forwards_nothing(
    bundle: Path, rootless: bool, internet: Internet
) -> None:
    conf = {"cniVersion": "1.0.0", "name": "inner", "plugins": [{
        "type": "bridge", "bridge": "ctnr-inner", "isGateway": True,
        "ipam": {"type": "host-local", "subnet": "10.83.0.0/24"}}]}  # fmt: skip
    network = NetworkList.from_bytes(json.dumps(conf).encode(), "test")
    async with open_supervisor() as supervisor:
        a = await start(supervisor, bundle, rootless, "a", networks=[network])
        assert list(a.attachments[0].addresses) == await ask(a, "a", server="10.83.0.1")
        assert await code(a, "example.org", server="10.83.0.1") == "SERVFAIL"


async def test_where_the_port_is_taken_nothing_is_served(bundle: Path) -> None:
    """Privileged, the host's own name server may listen on every address: it is left alone."""
    taken = await trio.open_tcp_listeners(53, host="0.0.0.0")
    try:
        async with open_supervisor() as supervisor:
            a = await start(supervisor, bundle, False, "a", networks=[bridge("plain", "10.84.0.0/24")])
            assert () == a.attachments[0].nameservers
    finally:
        for listener in taken:
            await listener.aclose()


async def test_where_no_socket_is_to_be_had_no_container_is_without_names(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_socket = Sandbox.open_socket

    async def open_no_stream(
        self: Sandbox, family: int, kind: int, *args: Any, **more: Any
    ) -> socket.socket:
        if kind == socket.SOCK_STREAM:
            raise OSError(errno.EMFILE, "Too many open files")
        return await open_socket(self, family, kind, *args, **more)

    monkeypatch.setattr(Sandbox, "open_socket", open_no_stream)
    async with open_supervisor() as supervisor:
        with pytest.raises(AttachmentError, match=f"open the name server at {GATEWAY}: Too many open files"):
            await start(supervisor, bundle, False, "a", networks=[load_builtin("bridge")])
        monkeypatch.undo()
        container = await start(supervisor, bundle, False, "a", networks=[load_builtin("bridge")])
        assert (await container.exec(["nslookup", "a", GATEWAY])).status == 0


@KINDS
async def test_of_two_networks_the_one_with_names_is_known(bundle: Path, rootless: bool) -> None:
    async with open_supervisor() as supervisor:
        networks = [load_builtin("slirp"), load_builtin("bridge")]
        one = await start(supervisor, bundle, rootless, "one", networks=networks)
        assert [False, True] == [attachment.knows_names for attachment in one.attachments]
        assert one.attachments[1].forwards_names


# argv: a connected socket's descriptor. Garbage, cut headers, what needs a full parser, names to be forwarded.
FLOOD = """
import os, random, socket, struct, sys, time
sock = socket.socket(fileno=int(sys.argv[1])); sock.setblocking(False)
end, number = time.monotonic() + 3, 0
while time.monotonic() < end:
    number += 1
    head = struct.pack("!6H", number & 0xFFFF, 0x100, 1, 0, 0, random.choice((0, 1, 9)))
    for data in (os.urandom(random.randrange(60)), head[:number % 12], head + os.urandom(40),
                 head[:10] + b"\\0\\0\\7x%06d\\0\\0\\1\\0\\1" % (number % 1000000)):
        try:
            sock.send(data)
        except OSError:
            pass
"""


@KINDS
async def test_a_container_that_floods_gets_no_others_answers(
    bundle: Path, rootless: bool, internet: Internet
) -> None:
    """Broken packets and names without end from one; its neighbour finds containers and the world all the while."""
    async with open_supervisor() as supervisor:
        networks = [load_builtin("bridge")]
        rude = await start(supervisor, bundle, rootless, "rude", networks=networks)
        calm = await start(supervisor, bundle, rootless, "calm", networks=networks)
        with await rude.sandbox.open_socket(socket.AF_INET, socket.SOCK_DGRAM, netns=rude.netns) as sock:
            sock.connect((GATEWAY, 53))
            command = [sys.executable, "-I", "-S", "-c", FLOOD, str(sock.fileno())]
            async with trio.open_nursery() as nursery:
                flood = await nursery.start(partial(trio.run_process, command, pass_fds=[sock.fileno()]))
                asked = 0
                while flood.poll() is None:
                    assert list(rude.attachments[0].addresses) == await ask_again(calm, "rude")
                    assert [internet.address] == await ask_again(calm, "example.org", tcp=True)
                    asked += 1
        assert asked >= 30, "each lost answer costs a second"
        await trio.sleep(4)
        assert list(calm.attachments[0].addresses) == await ask_again(rude, "calm"), (
            "it is no outcast for ever"
        )


@KINDS
async def test_an_upstream_that_is_down_is_told_in_time(
    bundle: Path, rootless: bool, internet: Internet
) -> None:
    with name_server_is("198.51.100.99"):  # nobody answers there, and nobody says so
        async with open_supervisor() as supervisor:
            one = await start(supervisor, bundle, rootless, "one", networks=[load_builtin("bridge")])
            for tcp in (False, True):
                with trio.fail_after(5):
                    assert await code(one, "example.org", tcp=tcp) == "SERVFAIL"
            assert list(one.attachments[0].addresses) == await ask(one, "one")


@KINDS
async def test_forty_containers_ask_for_each_other(bundle: Path, rootless: bool) -> None:
    """2 000 queries a second, and none is lost."""
    async with open_supervisor() as supervisor:
        made: list[Container] = []

        async def add(name: str) -> None:
            made.append(await start(supervisor, bundle, rootless, name, networks=[load_builtin("bridge")]))

        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(add, f"c{number}")
        with ExitStack() as stack:
            arguments, sockets = [], []
            for one in made:
                sock = await one.sandbox.open_socket(socket.AF_INET, socket.SOCK_DGRAM, netns=one.netns)
                sockets.append(stack.enter_context(sock))
                arguments += [str(sock.fileno()), one.name]
            command = [sys.executable, "-I", "-S", "-c", ASK_EACH_OTHER, "3", "2000", *arguments]
            with trio.fail_after(20):
                done = await trio.run_process(
                    command, pass_fds=[sock.fileno() for sock in sockets], capture_stdout=True
                )
        assert done.stdout.split() == [b"6000", b"6000"]
