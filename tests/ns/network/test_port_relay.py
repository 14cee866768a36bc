"""Ports by the relay: bytes both ways, half-closed ends, refusals, its death, and free host ports afterwards."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from supervisor.errors import AttachmentError
from supervisor.network.port_relay import PortRelay
from supervisor.network.ports import PortMapping, PortTaken, reserve_ports
from supervisor.sandbox.sandbox import Sandbox, open_sandbox
from tests.ns.supervisor.helpers import no_descriptors_for

# answers each connection with the digest of all that it got, after the client has ended its side
DIGEST = """
import hashlib, socket, sys
family = socket.AF_INET
with socket.create_server(("127.0.0.1", 80), family=family) as server:
    print("ready", flush=True)
    while True:
        peer, _ = server.accept()
        digest = hashlib.sha256()
        while data := peer.recv(1 << 16):
            digest.update(data)
        peer.sendall(digest.hexdigest().encode() * 5000)
        peer.close()
"""


@asynccontextmanager
async def served(sandbox: Sandbox, netns: str) -> AsyncIterator[None]:
    read_end, write_end = os.pipe()
    process = await sandbox.spawn(
        [os.path.realpath(sys.executable), "-I", "-S", "-c", DIGEST], netns=netns, stdout=write_end
    )
    os.close(write_end)
    async with trio.lowlevel.FdStream(read_end) as ready:
        assert await ready.receive_some(16) == b"ready\n"
        try:
            yield
        finally:
            await process.kill_and_wait()


@asynccontextmanager
async def relayed(tmp_path: Path) -> AsyncIterator[tuple[Sandbox, PortRelay]]:
    async with open_sandbox(str(tmp_path), rootless=True) as sandbox, trio.open_nursery() as nursery:
        netns = f"{sandbox.run_dir}/netns/relayed"
        await sandbox.new_netns(netns)
        async with served(sandbox, netns):
            relay = PortRelay(sandbox, netns, {"127.0.0.1": "127.0.0.1"})
            await nursery.start(relay.run)
            yield sandbox, relay
            nursery.cancel_scope.cancel()


def free(container_port: int = 80, host_ip: str = "127.0.0.1") -> PortMapping:
    wanted = PortMapping(container_port=container_port, host_ip=host_ip)
    with reserve_ports([wanted]) as reservation:
        return reservation.mappings[0]


async def ask(mapping: PortMapping, data: bytes) -> bytes:
    """Send, end our side, read to the end."""
    stream = await trio.open_tcp_stream(mapping.host_ip, mapping.host_port)
    answer = b""
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(send)
        async for part in stream:
            answer += part
    return answer


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_all_bytes_arrive_both_ways_and_ends_are_passed_on(tmp_path: Path, address: str) -> None:
    async with relayed(tmp_path) as (_, relay):
        mapping = free(host_ip=address)
        await relay.publish(mapping)
        assert (mapping,) == relay.published
        data = os.urandom(5_000_000)
        with trio.fail_after(20):
            assert hashlib.sha256(data).hexdigest().encode() * 5000 == await ask(mapping, data)


async def test_many_at_once_and_one_that_says_nothing(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (_, relay):
        mapping = free()
        await relay.publish(mapping)
        answers: list[bytes] = []

        async def one(number: int) -> None:
            answers.append(await ask(mapping, b"x" * number))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(one, number)
        assert {hashlib.sha256(b"x" * n).hexdigest().encode() * 5000 for n in range(40)} == set(answers)


async def test_connections_that_rest_hold_no_pipes(tmp_path: Path) -> None:
    """A user has 64 MiB of large pipes; past that all of his are small ones (pipe(7), pipe-user-pages-soft)."""
    async with relayed(tmp_path) as (sandbox, relay):
        mapping = free()
        await relay.publish(mapping)
        clients = [await trio.open_tcp_stream("127.0.0.1", mapping.host_port) for _ in range(30)]
        for client in clients:
            await client.send_all(b"something")
        with trio.fail_after(10):
            while not relay.pid:  # noqa: ASYNC110 -- it comes with the first port: clients may be faster
                await trio.sleep(0.01)
            links = sandbox.outer_path(f"/proc/{relay.pid}/fd")
            sockets = pipes = 0
            while sockets < 2 * len(clients) or pipes > 2 * 4:
                await trio.sleep(0.02)
                held = [os.readlink(f"{links}/{name}") for name in os.listdir(links)]
                sockets = sum(one.startswith("socket:") for one in held)
                pipes = sum(one.startswith("pipe:") for one in held)
        for client in clients:
            await client.aclose()


async def test_what_the_server_does_not_read_yet_arrives_later(tmp_path: Path) -> None:
    """More than sockets and a pipe hold; the server has one client at a time."""
    async with relayed(tmp_path) as (_, relay):
        mapping = free()
        await relay.publish(mapping)
        first = await trio.open_tcp_stream("127.0.0.1", mapping.host_port)
        data = os.urandom(30_000_000)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:

                async def second() -> None:
                    assert hashlib.sha256(data).hexdigest().encode() * 5000 == await ask(mapping, data)

                nursery.start_soon(second)
                await trio.sleep(0.5)
                await first.aclose()


async def test_nothing_listens_inside_a_client_is_reset(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (_, relay):
        mapping = free(container_port=81)
        await relay.publish(mapping)
        with trio.fail_after(5):
            with pytest.raises(ConnectionResetError):  # at the first byte, or as early as connect
                await _connect_and_read(mapping.host_port)


async def _connect_and_read(port: int) -> None:
    with trio.socket.socket() as sock:
        await sock.connect(("127.0.0.1", port))
        await sock.recv(1)


async def test_a_withdrawn_port_is_free_and_others_stay(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (_, relay):
        one, other = free(), free()
        await relay.publish(one)
        await relay.publish(other)
        await relay.withdraw(one)
        reserve_ports([one]).close()
        with pytest.raises(PortTaken):
            reserve_ports([other])
        assert await ask(other, b"hello")
        assert (other,) == relay.published


async def test_a_taken_port_is_told(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (_, relay):
        with socket.create_server(("127.0.0.1", 0)) as server:
            mapping = PortMapping(container_port=80, host_port=server.getsockname()[1], host_ip="127.0.0.1")
            with pytest.raises(PortTaken, match="in use"):
                await relay.publish(mapping)
            assert relay.published == ()


async def killed(sandbox: Sandbox, relay: PortRelay) -> tuple[PortMapping, int]:
    """A port that worked, and the process that carried it and was killed."""
    mapping = free()
    await relay.publish(mapping)
    assert await ask(mapping, b"now")
    pid = relay.pid
    await sandbox.call("kill", pid=pid, signal=9, group=False)
    return mapping, pid


async def test_a_killed_relay_is_started_again_with_its_ports(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (sandbox, relay):
        mapping, first = await killed(sandbox, relay)
        with trio.fail_after(10):
            assert await ask(mapping, b"later")  # it waits in the queue of the socket, which is ours
        assert relay.pid not in (0, first)


async def test_left_means_that_the_port_is_free_and_the_relay_gone(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (_, relay):
        mapping = free()
        await relay.publish(mapping)
    assert relay.pid == 0
    with reserve_ports([mapping]) as reservation:
        assert (mapping,) == reservation.mappings


async def test_cancelled_at_every_step_nothing_listens(tmp_path: Path) -> None:
    async with open_sandbox(str(tmp_path), rootless=True) as sandbox:
        netns = f"{sandbox.run_dir}/netns/relayed"
        await sandbox.new_netns(netns)
        finished = False
        steps = 0
        while not finished:
            steps += 1
            mapping = free()
            relay = PortRelay(sandbox, netns, {"127.0.0.1": "127.0.0.1"})
            with trio.CancelScope() as scope:
                counted = _CancelAtStep(steps, scope)
                trio.lowlevel.add_instrument(counted)
                try:
                    async with trio.open_nursery() as nursery:
                        await nursery.start(relay.run)
                        await relay.publish(mapping)
                        nursery.cancel_scope.cancel()
                finally:
                    trio.lowlevel.remove_instrument(counted)
                finished = not scope.cancel_called
            reserve_ports([mapping]).close()
            assert relay.pid == 0
        assert steps > 5


class _CancelAtStep(trio.abc.Instrument):
    def __init__(self, left: int, scope: trio.CancelScope) -> None:
        self._left, self._scope = left, scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def test_without_ipv6_the_addresses_of_ipv4_callers_arrive_all_the_same(tmp_path: Path) -> None:
    async with open_sandbox(str(tmp_path), rootless=True) as sandbox, trio.open_nursery() as nursery:
        netns = f"{sandbox.run_dir}/netns/relayed"
        await sandbox.new_netns(netns)
        await sandbox.call("sysctl", netns=netns, settings={"net/ipv6/conf/all/disable_ipv6": "1"})
        relay = PortRelay(sandbox, netns, {"10.0.2.100": "10.0.2.2", "fd00::100": "fd00::2"})
        await nursery.start(relay.run)
        four, six = free(), free(host_ip="::1")
        await relay.publish(four)
        await relay.publish(six)
        assert (relay.keeps_source(four), relay.keeps_source(six)) == (True, False)
        nursery.cancel_scope.cancel()


async def test_who_came_when_there_was_no_descriptor_is_served_when_there_is(tmp_path: Path) -> None:
    """It may be the machine that has no more of them: none of the relay's own connections ends then."""
    async with relayed(tmp_path) as (sandbox, relay):
        mapping = free()
        await relay.publish(mapping)
        with trio.fail_after(20):
            assert await ask(mapping, b"before")
            pid = sandbox.host_pid(relay.pid)
            assert pid is not None
            with no_descriptors_for(pid):
                first = await trio.open_tcp_stream("127.0.0.1", mapping.host_port)
                await trio.sleep(0.3)
            await first.send_eof()
            assert len(await first.receive_some(1)) == 1
            await first.aclose()


async def test_a_port_for_which_the_relay_has_no_descriptor_leaves_it_alive(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (sandbox, relay):
        one, other = free(), free()
        await relay.publish(one)
        client = await trio.open_tcp_stream("127.0.0.1", one.host_port)
        await client.send_all(b"so far")
        await trio.sleep(0.1)
        first, pid = relay.pid, sandbox.host_pid(relay.pid)
        assert pid is not None
        with no_descriptors_for(pid), pytest.raises(AttachmentError, match="no descriptor left"):
            await relay.publish(other)
        assert (relay.published, relay.pid) == ((one,), first)
        await relay.publish(other)
        await client.send_eof()
        with trio.fail_after(10):
            assert (await client.receive_some(64)).startswith(hashlib.sha256(b"so far").hexdigest().encode())
        await client.aclose()


async def test_a_relay_that_cannot_be_started_again_at_once_comes_later(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (sandbox, relay):
        mapping, _ = await killed(sandbox, relay)
        with no_descriptors_for(os.getpid()):
            await trio.sleep(0.2)
            assert relay.pid == 0
        with trio.fail_after(10):
            assert await ask(mapping, b"later")
