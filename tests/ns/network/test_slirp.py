"""slirp4netns for real: ready and gone, died and restarted, ports, options, cancelled at every step."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor.errors import SlirpError
from supervisor.network.ports import PortTaken, parse_ports, reserve_ports
from supervisor.network.restarts import Restarts
from supervisor.network.slirp import SlirpEnded, SlirpEvent, SlirpRestarted, open_slirp
from supervisor.network.slirp_conf import SlirpConfError, SlirpOptions, ipv6_address, ipv6_sysctl_argv
from tests.ns.network.conftest import pinned_netns, until

ROOT = Path(__file__).parents[3]
Inside = Callable[..., Any]
Ip = Callable[..., str]

CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as s:
    print(s.recv(100).decode())
"""
SERVE_PEER = """
import socket, sys
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as s:
    for _ in range(int(sys.argv[2])):
        c, peer = s.accept()
        c.sendall(peer[0].encode())
        c.close()
"""


@pytest.fixture
def api_socket() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="ctnrtest-")
    yield f"{directory}/api.sock"
    os.rmdir(directory)  # fails if the socket was left


def alive(pid: int) -> bool:
    """A zombie is dead: an orphan waits for the test run, its subreaper, to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


async def test_ready_means_that_traffic_flows_and_left_means_gone(
    netns: str, inside: Inside, ip: Ip, echo_peer: int
) -> None:
    async with open_slirp(SlirpOptions(), netns_path=netns) as slirp:
        pid = slirp.pid
        shown = ip(netns, "address", "show", "cni0")
        assert "10.0.2.100/24" in shown
        assert "mtu 1500" in shown
        assert str(slirp.mac) in shown
        assert await inside(netns, CONNECT, "10.0.2.2", str(echo_peer)) == "127.0.0.1"
        assert slirp.sandboxed
    assert not os.path.exists(f"/proc/{pid}")  # reaped, not just dead
    assert "cni0" not in ip(netns, "link")
    assert os.path.exists(netns)
    assert slirp.result()["interfaces"] == [
        {"name": "cni0", "mtu": 1500, "sandbox": netns, "mac": slirp.mac}
    ]


async def test_its_sandbox_leaves_the_hosts_mounts_alone(netns: str) -> None:
    mountinfo = Path("/proc/self/mountinfo")
    before = mountinfo.read_text()
    for _ in range(2):
        async with open_slirp(SlirpOptions(), netns_path=netns) as slirp:
            assert slirp.sandboxed
    assert mountinfo.read_text() == before


async def test_options_reach_the_interface(netns: str, inside: Inside, ip: Ip, echo_peer: int) -> None:
    options = SlirpOptions(mtu=9000, cidr="10.9.0.0/24", host_loopback=False)
    async with open_slirp(options, netns_path=netns, ifname="cni7", mac="02:00:00:00:00:07") as slirp:
        shown = ip(netns, "address", "show", "cni7")
        assert "mtu 9000" in shown
        assert "10.9.0.100/24" in shown
        assert "02:00:00:00:00:07" in shown
        assert "via 10.9.0.2 " in ip(netns, "route")
        assert slirp.result()["dns"] == {"nameservers": ["10.9.0.3"]}
        with pytest.raises(AssertionError, match="Error"):
            await inside(netns, CONNECT, "10.9.0.2", str(echo_peer))


async def test_ipv6_address_is_the_one_of_the_result_and_not_tentative(netns: str, ip: Ip) -> None:
    subprocess.run(["nsenter", f"--net={netns}", *ipv6_sysctl_argv()], check=True)  # noqa: ASYNC221
    async with open_slirp(SlirpOptions(enable_ipv6=True), netns_path=netns) as slirp:
        address = slirp.result()["ips"][1]["address"]
        assert address == f"{ipv6_address(str(slirp.mac))}/64"
        await until(lambda: address in ip(netns, "-6", "address", "show", "cni0"))
        assert "tentative" not in ip(netns, "-6", "address", "show", "cni0")


async def test_disabled_dns_is_not_in_the_result(netns: str) -> None:
    async with open_slirp(SlirpOptions(disable_dns=True), netns_path=netns) as slirp:
        assert slirp.result()["dns"] == {}


async def test_killed_slirp_runs_again_in_the_same_netns_with_the_same_ports(
    netns: str, inside: Inside, ip: Ip, echo_peer: int, api_socket: str, nursery: trio.Nursery
) -> None:
    events: list[SlirpEvent] = []
    async with open_slirp(
        SlirpOptions(), netns_path=netns, api_socket=api_socket, on_event=events.append
    ) as slirp:
        first, mac = slirp.pid, slirp.mac
        mapping = await slirp.publish(parse_ports("127.0.0.1::7777")[0])
        nursery.start_soon(inside, netns, SERVE_PEER, "7777", "2")
        assert await connect("127.0.0.1", mapping.host_port) == "10.0.2.2"
        os.kill(first, signal.SIGKILL)
        await until(lambda: slirp.restarts == 1)
        assert slirp.pid != first
        assert str(mac) in ip(netns, "link", "show", "cni0")
        assert await inside(netns, CONNECT, "10.0.2.2", str(echo_peer)) == "127.0.0.1"
        assert await connect("127.0.0.1", mapping.host_port) == "10.0.2.2"
        assert [forward["host_port"] for forward in await slirp.forwards()] == [mapping.host_port]
        assert [type(event) for event in events] == [SlirpEnded, SlirpRestarted]
        assert events[1].lost == ()  # type: ignore[union-attr]
        assert "signal 9" in events[0].reason  # type: ignore[union-attr]


async def test_publish_during_a_restart_waits_for_it(netns: str, api_socket: str) -> None:
    restarts = Restarts(first_seconds=0.2)
    async with open_slirp(
        SlirpOptions(), netns_path=netns, api_socket=api_socket, restarts=restarts
    ) as slirp:
        os.kill(slirp.pid, signal.SIGKILL)
        with trio.fail_after(5):
            mapping = await slirp.publish(parse_ports("80")[0])
        assert slirp.published == (mapping,)


async def test_too_many_deaths_end_the_block(netns: str) -> None:
    events: list[SlirpEvent] = []
    restarts = Restarts(limit=2, first_seconds=0.001)

    async def story() -> None:
        async with open_slirp(
            SlirpOptions(), netns_path=netns, on_event=events.append, restarts=restarts
        ) as slirp:
            for number in range(3):
                await until(lambda number=number: slirp.restarts == number)  # type: ignore[misc]
                os.kill(slirp.pid, signal.SIGKILL)
            await trio.sleep_forever()

    with pytest.raises(
        SlirpError, match=r"ended 3 times within 60 s, the last time with killed by signal 9"
    ):
        await story()
    assert [type(event) for event in events] == [SlirpEnded, SlirpRestarted] * 2


async def test_a_netns_that_is_gone_is_not_waited_for(netns: str) -> None:
    async def story() -> None:
        async with open_slirp(SlirpOptions(), netns_path=netns) as slirp:
            subprocess.run(["umount", netns], check=True)  # noqa: ASYNC221
            os.unlink(netns)
            os.kill(slirp.pid, signal.SIGKILL)
            with trio.fail_after(5):
                await trio.sleep_forever()

    with pytest.raises(SlirpError, match="and so has its netns"):
        await story()


async def test_end_closes_it_beside_other_work(netns: str, ip: Ip) -> None:
    async with open_slirp(SlirpOptions(), netns_path=netns) as slirp:
        slirp.end()
        slirp.end()
        await until(lambda: "cni0" not in ip(netns, "link"))
        with pytest.raises(SlirpError, match="without an API socket"):
            await slirp.forwards()
    assert slirp.restarts == 0


OWNER = """
import sys, trio
from supervisor.network.slirp import SlirpOptions, open_slirp

async def main():
    async with open_slirp(SlirpOptions(), netns_path=sys.argv[1]) as slirp:
        print(slirp.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_it_ends_with_its_owner_also_by_sigkill(netns: str, ip: Ip) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, netns], stdout=subprocess.PIPE, cwd=ROOT)  # noqa: ASYNC220
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert "cni0" in ip(netns, "link")
        owner.kill()
    await until(lambda: "cni0" not in ip(netns, "link") and not alive(pid))


async def test_ports_are_published_and_withdrawn(
    netns: str, inside: Inside, api_socket: str, nursery: trio.Nursery
) -> None:
    async with open_slirp(SlirpOptions(), netns_path=netns, api_socket=api_socket) as slirp:
        mapping, _ = await slirp.publish_reserved(
            reserve_ports([*parse_ports("127.0.0.1::8080"), *parse_ports("127.0.0.1::53/udp")])
        )
        assert await slirp.publish(mapping) == mapping
        with pytest.raises(PortTaken, match="in use on this host"):
            reserve_ports([mapping])
        nursery.start_soon(inside, netns, SERVE_PEER, "8080", "1")
        assert await connect("127.0.0.1", mapping.host_port) == "10.0.2.2"
        await slirp.withdraw([mapping])
        await slirp.withdraw([mapping])
        assert [forward["proto"] for forward in await slirp.forwards()] == ["udp"]
        reserve_ports([mapping]).close()
        mapping = await slirp.publish(mapping)
    reserve_ports([mapping]).close()  # free the moment it is gone


async def test_udp_is_published(netns: str, inside: Inside, api_socket: str, nursery: trio.Nursery) -> None:
    program = (
        "import socket; s=socket.socket(type=2); s.bind(('',53)); b,p=s.recvfrom(99); s.sendto(b+b'!',p)"
    )
    async with open_slirp(SlirpOptions(), netns_path=netns, api_socket=api_socket) as slirp:
        mapping = await slirp.publish(parse_ports("127.0.0.1::53/udp")[0])
        nursery.start_soon(inside, netns, program)
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock, trio.fail_after(5):
            await sock.connect(("127.0.0.1", mapping.host_port))
            while True:
                with trio.move_on_after(0.1):
                    await sock.send(b"hello")
                    assert await sock.recv(100) == b"hello!"
                    break


async def test_a_taken_host_port_and_ipv6_are_refused(netns: str, api_socket: str) -> None:
    async with open_slirp(SlirpOptions(), netns_path=netns, api_socket=api_socket) as slirp:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(PortTaken, match=f"publish host port 127.0.0.1:{port}/tcp: it is in use"):
                await slirp.publish(parse_ports(f"127.0.0.1:{port}:80")[0])
        with pytest.raises(SlirpError, match="forwards IPv4 only"):
            await slirp.publish(parse_ports("[::1]:8080:80")[0])
        assert slirp.published == ()


async def test_the_peers_address_arrives(
    netns: str, inside: Inside, ip: Ip, api_socket: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """From the host's loopback it is the gateway's; from another machine it is that machine's."""
    with pinned_netns(tmp_path / "other") as other:
        for words in (
            ["link", "add", "ctnrtest0", "type", "veth", "peer", "name", "eth0", "netns", other],
            ["address", "add", "198.51.100.1/24", "dev", "ctnrtest0"],
            ["link", "set", "ctnrtest0", "up"],
        ):
            subprocess.run(["ip", *words], check=True)  # noqa: ASYNC221
        ip(other, "address", "add", "198.51.100.2/24", "dev", "eth0")
        ip(other, "link", "set", "eth0", "up")
        async with open_slirp(SlirpOptions(), netns_path=netns, api_socket=api_socket) as slirp:
            mapping = await slirp.publish(parse_ports("8080")[0])
            nursery.start_soon(inside, netns, SERVE_PEER, "8080", "2")
            assert await connect("127.0.0.9", mapping.host_port) == "10.0.2.2"
            assert await inside(other, CONNECT, "198.51.100.1", str(mapping.host_port)) == "198.51.100.2"
        subprocess.run(["ip", "link", "delete", "ctnrtest0"], check=True)  # noqa: ASYNC221


async def test_early_death_tells_why(netns: str) -> None:
    with pytest.raises(SlirpError, match="died before it was ready") as caught:
        async with open_slirp(SlirpOptions(), netns_path="/run/netns/ctnrtest-none"):
            pass
    assert "does not exist" in str(caught.value.cure)
    async with open_slirp(SlirpOptions(), netns_path=netns):
        with pytest.raises(SlirpError) as caught:
            async with open_slirp(SlirpOptions(), netns_path=netns):
                pass
    assert "exists in" in str(caught.value.cure)


async def test_missing_program_and_bad_mac(netns: str) -> None:
    with pytest.raises(SlirpError, match="no-such-program is not installed") as caught:
        async with open_slirp(SlirpOptions(), netns_path=netns, program="no-such-program"):
            pass
    assert "apt-get install slirp4netns" in str(caught.value.cure)
    with pytest.raises(SlirpConfError, match="unicast MAC"):
        async with open_slirp(SlirpOptions(), netns_path=netns, mac="01:00:00:00:00:00"):
            pass


async def test_the_blocks_own_error_comes_out_bare(netns: str) -> None:
    with pytest.raises(KeyError):
        async with open_slirp(SlirpOptions(), netns_path=netns):
            raise KeyError("mine")


async def test_a_stopped_slirp_is_killed_after_its_grace(netns: str) -> None:
    async with open_slirp(SlirpOptions(), netns_path=netns) as slirp:
        os.kill(slirp.pid, signal.SIGSTOP)
        began = time.monotonic()
    assert 0.9 < time.monotonic() - began < 3


@pytest.mark.parametrize("kill", [False, True])
def test_cancelled_at_each_step_leaves_nothing(netns: str, ip: Ip, kill: bool) -> None:
    async def story() -> None:
        async with open_slirp(
            SlirpOptions(), netns_path=netns, restarts=Restarts(first_seconds=0.001)
        ) as slirp:
            if kill:
                os.kill(slirp.pid, signal.SIGKILL)
                await until(lambda: slirp.restarts == 1)

    open_files = len(os.listdir("/proc/self/fd"))
    for n in itertools.count(1):
        at = CancelAtStep(n)

        async def once(at: CancelAtStep = at) -> None:
            with at.scope, trio.fail_after(20):
                await story()

        trio.run(once, instruments=[at])
        assert "cni0" not in ip(netns, "link"), n
        assert len(os.listdir("/proc/self/fd")) == open_files, n
        if at.left > 0:
            break
    assert n > 10


class CancelAtStep(trio.abc.Instrument):
    def __init__(self, n: int) -> None:
        self.left, self.scope = n, trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


STORY = """
import subprocess, sys, trio
from supervisor.network.slirp import SlirpOptions, open_slirp
from supervisor.network.ports import parse_ports

holder = subprocess.Popen(["unshare", "-Urn", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
holder.stdout.readline()
ns = f"/proc/{holder.pid}/ns"
enter = ["nsenter", f"--user={ns}/user", f"--net={ns}/net", "--preserve-credentials", sys.executable, "-I", "-S", "-c"]

async def main():
    async with open_slirp(
        SlirpOptions(), netns_path=f"{ns}/net", userns_path=f"{ns}/user", api_socket=sys.argv[1]
    ) as slirp:
        mapping = await slirp.publish(parse_ports("127.0.0.1::8080")[0])
        print(slirp.sandboxed, len(await slirp.forwards()), flush=True)
        await trio.run_process([*enter, sys.argv[2], "10.0.2.2", sys.argv[3]])

try:
    trio.run(main)
finally:
    holder.kill()
    holder.wait()
"""


async def test_as_an_unprivileged_user_into_a_user_namespace_of_his(echo_peer: int) -> None:
    """The whole program runs as ctnrdev; slirp4netns's own sandbox works there, too."""
    with tempfile.TemporaryDirectory(prefix="ctnrtest-") as directory:
        os.chmod(directory, 0o777)
        command = [
            "setpriv",
            "--reuid=ctnrdev",
            "--regid=ctnrdev",
            "--init-groups",
            sys.executable,
            "-c",
            STORY,
        ]
        done = await trio.run_process(
            [*command, f"{directory}/api.sock", CONNECT, str(echo_peer)],
            capture_stdout=True,
            cwd=ROOT,
        )
    assert done.stdout.decode().split() == ["True", "1", "127.0.0.1"]


async def connect(host: str, port: int) -> str:
    """What the server sends; tried until it listens."""
    with trio.fail_after(5):
        while True:
            try:
                async with await trio.open_tcp_stream(host, port) as stream:
                    if answer := await stream.receive_some(100):
                        return bytes(answer).decode()
            except (OSError, trio.BrokenResourceError):
                pass
            await trio.sleep(0.02)
