"""The built-in network pasta: the host's own addresses inside, published ports, DNS, restarts."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_networks import inside, run
from tests.cli.test_ports import fetch, is_free, peers_seen
from tests.cli.test_ports import serve as serve
from tests.world.internet import MACHINE_ADDRESS, MACHINE_ADDRESS6, ROUTER_ADDRESS, ROUTER_ADDRESS6, Internet
from tests.world.leaks import descendants
from tests.world.people import Person

pytestmark = pytest.mark.usefixtures("internet")


def test_it_reaches_the_world_with_the_hosts_addresses(me: Person) -> None:
    said = run(me, "--network=pasta", script="ip addr show cni0; ip route; wget -qO- http://example.org/")
    assert f"inet {MACHINE_ADDRESS}/24" in said
    assert f"inet6 {MACHINE_ADDRESS6}/64" in said
    assert "tentative" not in said
    assert f"default via {ROUTER_ADDRESS}" in said
    assert "Example Domain" in said
    assert "192.0.2.80" in run(me, "--network=pasta", script="nslookup -type=a example.org | tail -n +3")


def test_options(me: Person) -> None:
    said = run(me, "--network=pasta:mtu=1400,enable_ipv6=false", script="ip addr show cni0")
    assert "mtu 1400" in said
    assert MACHINE_ADDRESS6 not in said
    done = me.ctnr("run", "--network=pasta:cidr=10.0.0.0/24", "demo", "true")
    assert (125, "unknown field `cidr`" in done.stderr) == (done.status, True), done.stderr
    done = me.ctnr("run", "--network=pasta", "--ip=10.0.0.9", "demo", "true")
    assert (125, "pasta gives the host's own address" in done.stderr) == (done.status, True)


class Greeter(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"reached")


@pytest.mark.parametrize("opened", [False, True], ids=["closed", "open"])
def test_the_hosts_loopback_is_closed_unless_asked(me: Person, opened: bool) -> None:
    network = "pasta:hostLoopback=true" if opened else "pasta"
    with socketserver.TCPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever).start()
        port = server.server_address[1]
        tries = [
            f"echo {address} $(timeout 2 nc {address} {port} </dev/null)"
            for address in (ROUTER_ADDRESS, "127.0.0.1")
        ]
        said = run(me, f"--network={network}", script="; ".join(tries)).splitlines()
        server.shutdown()
    assert said == [f"{ROUTER_ADDRESS} reached" if opened else ROUTER_ADDRESS, "127.0.0.1"]


def test_ports_lead_in_and_the_callers_address_arrives(
    me: Person, serve: Callable[..., str], internet: Internet
) -> None:
    name = serve("pasta", "8080:80", "9007:7/udp", f"[{MACHINE_ADDRESS6}]:8081:81", "127.0.0.1::80")
    assert fetch(8080) == name
    assert peers_seen(me, name, internet) == {"tcp": ROUTER_ADDRESS, "udp": ROUTER_ADDRESS}
    url = f"http://[{MACHINE_ADDRESS6}]:8081/peer"
    assert ROUTER_ADDRESS6 == internet.run("busybox", "wget", "-qO-", url).decode()
    ports = json.loads(me.ctnr("port", "--format=json", name).ok.stdout)
    [chosen] = [one["host_port"] for one in ports if one["host_ip"] == "127.0.0.1"]
    assert fetch(chosen) == name
    for words in (("add", name, "8082:80"), ("rm", name, "8080:80")):
        done = me.ctnr("port", *words)
        assert (125, "pasta takes them at its start only" in done.stderr) == (done.status, True)
    done = me.ctnr("run", "--network=pasta", "-p", "8080:80", "demo", "echo", "it ran")
    assert (125, "", "it is in use" in done.stderr) == (done.status, done.stdout, True)
    me.ctnr("rm", "-f", name).ok  # noqa: B018
    assert is_free(8080)
    assert is_free(9007, socket.SOCK_DGRAM)


def test_it_is_started_again_with_its_ports(me: Person, serve: Callable[..., str]) -> None:
    name = serve("pasta", "8080:80")
    assert fetch(8080) == name
    [pid] = pastas()
    os.kill(pid, signal.SIGKILL)
    assert fetch(8080) == name
    assert pastas() != [pid]
    assert "Example Domain" in inside(me, name, "wget -qO- http://example.org/")
    told = me.ctnr("events", "--since=1m", "--stream=false", "--format=json").ok.stdout
    assert [word in told for word in ("pasta_died", "pasta_restarted")] == [True, True], told
    assert "1 attached" in me.ctnr("net", "check", "pasta").ok.stdout
    me.ctnr("rm", "-f", name).ok  # noqa: B018
    assert pastas() == []


def pastas() -> list[int]:
    def program(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]
        except OSError:
            return ""

    return [pid for pid in descendants(os.getpid()) if os.path.basename(program(pid)) == "pasta"]


def test_connect_and_disconnect(me: Person, names: list[str]) -> None:
    me.ctnr("net", "create", "closed", "--internal").ok  # noqa: B018
    names.append("late")
    me.ctnr("run", "-d", "--name=late", "--network=closed", "demo", "sleep", "1000").ok  # noqa: B018
    try:
        me.ctnr("net", "connect", "pasta", "late").ok  # noqa: B018
        assert f"default via {ROUTER_ADDRESS} dev cni1" in inside(me, "late", "ip route")
        assert "Example Domain" in inside(
            me, "late", "wget -qO- http://192.0.2.80/ --header 'Host: example.org'"
        )
        me.ctnr("net", "disconnect", "pasta", "late").ok  # noqa: B018
        assert "cni1" not in inside(me, "late", "ip addr")
    finally:
        me.ctnr("rm", "-f", "late").ok  # noqa: B018
        me.ctnr("net", "rm", "closed").ok  # noqa: B018


def test_networks_of_ones_own(me: Person) -> None:
    me.ctnr("net", "create", "-d", "pasta", "--mtu=1300", "mine").ok  # noqa: B018
    try:
        [made] = json.loads(me.ctnr("net", "inspect", "mine").ok.stdout)
        assert (made["driver"], made["mtu"], made["subnets"]) == ("pasta", 1300, [])
        assert "mtu 1300" in run(me, "--network=mine", script="ip addr show cni0")
        assert "ready" in me.ctnr("net", "check", "mine").ok.stdout
        done = me.ctnr("net", "create", "-d", "pasta", "--subnet=10.7.0.0/24", "other")
        assert (125, "no --subnet" in done.stderr) == (done.status, True)
    finally:
        me.ctnr("net", "rm", "mine").ok  # noqa: B018


def test_where_it_is_not_installed(me: Person) -> None:
    assert "/pasta" in me.ctnr("info").ok.stdout
    subprocess.run(["mount", "--bind", "/dev/null", os.path.realpath("/usr/bin/pasta")], check=True)
    try:
        done = me.ctnr("run", "--network=pasta", "demo", "echo", "it ran")
        assert (125, "") == (done.status, done.stdout)
        assert "pasta is not installed; apt-get install passt" in done.stderr
        assert "apt-get install passt" in me.ctnr("info").ok.stdout
        assert "pasta is not installed" in me.ctnr("net", "check", "pasta").ok.stdout, "a pity, not a fault"
    finally:
        subprocess.run(["umount", os.path.realpath("/usr/bin/pasta")], check=True)
