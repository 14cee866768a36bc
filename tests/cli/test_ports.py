"""Published ports, used from the host: slirp, bridge behind the uplink, and default with portmap."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Callable

import pytest

from tests.world.internet import ROUTER_ADDRESS, Internet
from tests.world.people import Person

SERVE = """
import http.server, socket, socketserver, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write((socket.gethostname() if self.path == "/" else self.client_address[0]).encode())
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(self.request[0], self.client_address)
servers = [http.server.ThreadingHTTPServer(("", port), Page) for port in (80, 81)]
for server in (*servers, socketserver.UDPServer(("", 7), Echo)):
    threading.Thread(target=server.serve_forever).start()
"""
PYTHON = [flag for path in ("/usr", "/lib", "/lib64") for flag in ("-v", f"{path}:{path}:ro")]
"""the host's, for busybox has no UDP server"""
NETWORKS = ["slirp", "bridge", "default"]


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, me: Person) -> str:
    if request.param == "default" and me.uid != 0:
        request.param = "slirp,bridge"  # the first one publishes
    return str(request.param)


@pytest.fixture
def serve(me: Person, names: list[str]) -> Callable[..., str]:
    """Start a container with a web server on 80 and 81 and UDP echo on 7; it is called `name`."""

    def start(network: str, *ports: str, name: str = "served") -> str:
        names.append(name)
        flags = [flag for port in ports for flag in ("-p", port)]
        words = ["run", "-d", "--name", name, "--hostname", name, f"--network={network}", *flags, *PYTHON]
        done = me.ctnr(*words, "demo", "/usr/bin/python3", "-ISc", SERVE)
        assert done.status == 0, done.stderr
        return name

    return start


def fetch(port: int, address: str = "127.0.0.1", seconds: float = 10, path: str = "") -> str:
    """The page at that port of the host, once the server in the container is up."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}:{port}/{path}", timeout=3) as page:
                return str(page.read().decode().strip())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def echo(port: int, address: str = "127.0.0.1", seconds: float = 10) -> bytes:
    end = time.monotonic() + seconds
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.3)
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                sock.sendto(b"hello", (address, port))
                return sock.recv(100)
    return b""


def is_free(port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> bool:
    with socket.socket(type=kind) as sock:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ended connections may wait
        try:
            sock.bind(("", port))
        except OSError:
            return False
        return True


def test_a_port_leads_in_until_the_container_ends(
    me: Person, network: str, serve: Callable[..., str]
) -> None:
    name = serve(network, "8080:80", "9007:7/udp")
    assert fetch(8080) == name
    assert echo(9007) == b"hello"
    assert "80/tcp -> 0.0.0.0:8080\n7/udp -> 0.0.0.0:9007\n" == me.ctnr("port", name).ok.stdout
    assert "0.0.0.0:9007\n" == me.ctnr("port", name, "7/udp").ok.stdout
    shown = me.ctnr("ps", "--format", "{{.Ports}}").ok.stdout
    assert "0.0.0.0:8080->80/tcp" in shown
    assert not is_free(8080)
    me.ctnr("rm", "-f", name).ok  # noqa: B018
    assert is_free(8080)
    assert is_free(9007, socket.SOCK_DGRAM)


def test_a_taken_port_is_told_before_the_start(me: Person, network: str, serve: Callable[..., str]) -> None:
    with socket.create_server(("", 8080)):
        done = me.ctnr("run", f"--network={network}", "-p", "8080:80", "demo", "echo", "it ran")
    assert (125, "") == (done.status, done.stdout)
    assert "publish host port 0.0.0.0:8080/tcp: it is in use" in done.stderr
    serve(network, "8080:80", "8081:81")
    done = me.ctnr("run", f"--network={network}", "-p", "8081:80", "demo", "echo", "it ran")
    assert (125, "") == (done.status, done.stdout), "it belongs to another container"
    assert "it is in use" in done.stderr


def test_ranges_and_random_ports(me: Person, network: str, serve: Callable[..., str]) -> None:
    name = serve(network, "8080-8081:80-81", "80")
    assert fetch(8080) == fetch(8081) == name
    ports = json.loads(me.ctnr("port", "--format=json", name).ok.stdout)
    [chosen] = [port["host_port"] for port in ports if port["host_port"] not in (8080, 8081)]
    assert fetch(chosen) == name


def test_an_address_of_the_host(
    me: Person, network: str, serve: Callable[..., str], internet: Internet
) -> None:
    name = serve(network, f"{internet.machine_address}:8080:80")
    assert fetch(8080, internet.machine_address) == name
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", 8080), timeout=3)
    assert (
        internet.run("busybox", "wget", "-qO-", f"http://{internet.machine_address}:8080/").decode().strip()
        == name
    )


def test_the_callers_address_arrives(
    me: Person, network: str, serve: Callable[..., str], internet: Internet
) -> None:
    serve(network, "8080:80")
    assert fetch(8080, internet.machine_address, path="peer")
    url = f"http://{internet.machine_address}:8080/peer"
    assert ROUTER_ADDRESS == internet.run("busybox", "wget", "-qO-", url).decode()


def test_two_containers_publish_side_by_side(me: Person, network: str, serve: Callable[..., str]) -> None:
    serve(network, "8080:80", name="one")
    serve(network, "8081:80", name="two")
    assert ("one", "two") == (fetch(8080), fetch(8081))
    me.ctnr("rm", "-f", "one").ok  # noqa: B018
    assert fetch(8081) == "two"


def test_ports_come_and_go_while_it_runs(me: Person, serve: Callable[..., str]) -> None:
    name = serve("slirp", "8080:80")
    assert "0.0.0.0:8081->81/tcp\n" == me.ctnr("port", "add", name, "8081:81").ok.stdout
    me.ctnr("port", "add", name, "127.0.0.1:9007:7/udp", "82").ok  # noqa: B018
    assert fetch(8081) == name
    assert echo(9007) == b"hello"
    done = me.ctnr("port", "add", name, "8083:80", "8080:82")
    assert done.status == 125
    assert "in use" in done.stderr
    assert is_free(8083), "all or none"
    me.ctnr("port", "rm", name, "8081:81", "7/udp", "82").ok  # noqa: B018
    assert is_free(8081)
    assert "80/tcp -> 0.0.0.0:8080\n" == me.ctnr("port", name).ok.stdout
    assert "does not publish" in me.ctnr("port", "rm", name, "8081:81").stderr


def test_the_relay_carries_tcp_ports_ipv6_too(me: Person, serve: Callable[..., str]) -> None:
    name = serve("slirp:port_handler=rootlessport", "8080:80", "[::1]:8081:81", "9007:7/udp")
    assert fetch(8080) == fetch(8081, "[::1]") == name
    assert echo(9007) == b"hello", "slirp4netns carries it"
    assert fetch(8080, path="peer") == "10.0.2.100", "its own: no other way to be as quick"
    assert "0.0.0.0:8082->81/tcp\n" == me.ctnr("port", "add", name, "8082:81").ok.stdout
    assert fetch(8082) == name
    me.ctnr("port", "rm", name, "8080:80").ok  # noqa: B018
    assert is_free(8080)
    assert fetch(8082) == name
    me.ctnr("rm", "-f", name).ok  # noqa: B018
    assert is_free(8082)


def test_a_relay_that_is_not_known_is_told(me: Person) -> None:
    done = me.ctnr("run", "--network=slirp:portHandler=pigeon", "demo", "true")
    assert done.status == 125
    assert "option portHandler: slirp4netns or relay, not 'pigeon'" in done.stderr


def test_what_can_not_be_changed_is_said(me: Person, serve: Callable[..., str]) -> None:
    name = serve("bridge")
    done = me.ctnr("port", "add", name, "8080:80")
    assert done.status == 125
    assert "can't be changed while it runs" in done.stderr
    assert "is not publish" in (said := me.ctnr("port", name, "80").stderr) or "does not publish" in said
    assert (
        "is not running" in me.ctnr("port", "nobody").stderr
        or "no container" in me.ctnr("port", "nobody").stderr
    )
