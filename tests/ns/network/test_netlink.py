"""Netlink over sockets that a helper program opened in another netns and passed out."""

from __future__ import annotations

import array
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import pytest
import trio

from supervisor.network.netlink import Link, Netlink, NetlinkFailed, Route, open_socket, preload
from supervisor.network.rtnetlink import link_exists

OPEN_AND_PASS = """
import array, socket, sys
out = socket.socket(fileno=int(sys.argv[1]))
nl = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
out.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [nl.fileno()]))])
"""

Ip = Callable[..., str]


def socket_from(netns: str) -> socket.socket:
    """As init does it: opened inside, passed out."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [f"--net={netns}", sys.executable, "-I", "-S", "-c", OPEN_AND_PASS, str(theirs.fileno())]
        subprocess.run(["nsenter", *command], pass_fds=[theirs.fileno()], check=True)
        _, rights, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    return socket.socket(fileno=array.array("i", rights[0][2])[0])


@pytest.fixture
async def netlink(netns: str) -> AsyncIterator[Netlink]:
    with Netlink(socket_from(netns)) as netlink:
        yield netlink


@pytest.fixture
def veth(netns: str, ip: Ip) -> str:
    ip(netns, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    return netns


async def the(netlink: Netlink, name: str) -> Link:
    link = await netlink.link(name)
    assert link is not None
    return link


async def test_links_of_the_other_netns(netlink: Netlink, veth: str) -> None:
    await preload()
    links = {link.name: link for link in await netlink.links()}
    assert set(links) == {"lo", "veth0", "veth1"}
    assert links["veth0"].kind == "veth"
    assert links["veth0"].peer == links["veth1"].index
    assert links["lo"].mtu == 65536
    assert await netlink.link("nope") is None


async def test_changes_and_counters(netlink: Netlink, veth: str, ip: Ip) -> None:
    one, other = await the(netlink, "veth0"), await the(netlink, "veth1")
    await netlink.rename(one, "cni0")
    await netlink.set_mtu(one, 1400)
    await netlink.set_up(one)
    await netlink.set_up(other)
    one = await the(netlink, "cni0")
    assert (one.up, one.mtu) == (True, 1400)
    for _ in range(200):  # IPv6's own messages
        if (await the(netlink, "cni0")).sent_bytes:
            break
        await trio.sleep(0.01)
    else:
        raise AssertionError("nothing was counted")
    await netlink.set_down(one)
    assert not (await the(netlink, "cni0")).up
    await netlink.delete(one)
    assert await netlink.link("veth1") is None


async def test_addresses_and_routes(netlink: Netlink, veth: str) -> None:
    one = await the(netlink, "veth0")
    await netlink.set_up(one)
    await netlink.set_up(await the(netlink, "veth1"))
    await netlink.add_address(one, "10.1.2.3/24")
    await netlink.add_address(one, "fd01::3/64")
    found = {address.address: address for address in await netlink.addresses(one)}
    assert {"10.1.2.3/24", "fd01::3/64"} <= set(found)
    assert not found["fd01::3/64"].tentative
    with pytest.raises(NetlinkFailed, match=r"add address 10.1.2.3/24 to veth0: .*") as caught:
        await netlink.add_address(one, "10.1.2.3/24")
    assert caught.value.errno == 17
    default = Route(dst="0.0.0.0/0", gateway="10.1.2.1", link=one.index)
    six = Route(dst="fd09::/32", gateway="fd01::1", link=one.index, priority=7)
    await netlink.add_route(default)
    await netlink.add_route(six)
    routes = await netlink.routes()
    assert default in routes
    assert six in routes
    assert Route(dst="10.1.2.0/24", link=one.index) in routes
    await netlink.del_route(default)
    assert default not in await netlink.routes()
    await netlink.del_address(one, "10.1.2.3/24")
    assert "10.1.2.3/24" not in {address.address for address in await netlink.addresses()}


async def test_link_exists_needs_no_pyroute2(netns: str, veth: str) -> None:
    with socket_from(netns) as sock:
        assert link_exists(sock, "veth0")
        assert not link_exists(sock, "cni0")
    with open_socket() as own:
        assert link_exists(own, "lo")
        assert not link_exists(own, "veth0")
    program = "import sys, supervisor.network.netlink; assert 'pyroute2' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: ASYNC221


async def test_many_links_and_tasks_at_once(netlink: Netlink, netns: str, ip: Ip) -> None:
    for number in range(60):
        ip(netns, "link", "add", f"dummy{number}", "type", "bridge")
    seen: list[int] = []

    async def ask() -> None:
        seen.append(len(await netlink.links()))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
    assert seen == [61] * 5


def test_cancelled_at_each_step_the_next_question_is_answered(netns: str) -> None:
    async def once(n: int) -> bool:
        with Netlink(socket_from(netns)) as netlink:
            with trio.CancelScope() as scope:
                for _ in range(n):
                    scope.deadline = -1 if _ == n - 1 else float("inf")
                    await netlink.links()
            return [link.name for link in await netlink.links()] == ["lo"]

    for n in itertools.count(1):
        assert trio.run(once, n)
        if n == 4:
            break


def test_closed_with_its_block(netns: str) -> None:
    sock = socket_from(netns)
    number = sock.fileno()

    async def story() -> None:
        with Netlink(sock):
            pass

    trio.run(story)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
