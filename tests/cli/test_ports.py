"""Published ports, used from the host: slirp, bridge behind the uplink, and default with portmap."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.world import images
from tests.world.internet import MACHINE_ADDRESS6, ROUTER_ADDRESS, ROUTER_ADDRESS6, Internet
from tests.world.machine import Machine
from tests.world.people import Person

SERVE = """
import http.server, socket, socketserver, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        peer = self.client_address[0].removeprefix("::ffff:")
        pages = {"/": socket.gethostname(), "/peer": peer, "/port": str(self.client_address[1])}
        self.wfile.write(pages[self.path].encode())
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        said = self.request[0] if self.request[0] != b"peer" else self.client_address[0].encode()
        self.request[1].sendto(said, self.client_address)
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
servers = [Server(("::", port), Page) for port in (80, 81)]
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

    def start(
        network: str,
        *ports: str,
        name: str = "served",
        image: str = "demo",
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> str:
        names.append(name)
        published = [flag for port in ports for flag in ("-p", port)]
        words = [
            "run",
            "-d",
            "--name",
            name,
            "--hostname",
            name,
            f"--network={network}",
            *published,
            *flags,
            *PYTHON,
        ]
        done = me.ctnr(*words, image, "/usr/bin/python3", "-ISc", SERVE, env=env)
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
    name = serve(network, "8080:80", "9007:7/udp")
    assert peers_seen(me, name, internet) == {"tcp": ROUTER_ADDRESS, "udp": ROUTER_ADDRESS}


def peers_seen(me: Person, name: str, internet: Internet) -> dict[str, str]:
    """Whom the container sees when another host asks, by protocol; that ctnr tells it truly is asserted here."""
    assert fetch(8080, internet.machine_address)
    url = f"http://{internet.machine_address}:8080/peer"
    ask = f"""
import socket
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.settimeout(5)
sock.sendto(b"peer", ("{internet.machine_address}", 9007))
print(sock.recv(100).decode(), end="")
"""
    peers = {
        "tcp": internet.run("busybox", "wget", "-qO-", url).decode(),
        "udp": internet.run("/usr/bin/python3", "-c", ask).decode(),
    }
    for told in (
        json.loads(me.ctnr("port", "--format=json", name).ok.stdout),
        json.loads(me.ctnr("ps", "--format=json").ok.stdout)[0]["ports"],
        json.loads(me.ctnr("inspect", name).ok.stdout)[0]["Ctnr"]["Ports"],
    ):
        assert {one["protocol"]: one["source_kept"] for one in told} == {
            protocol: peer == ROUTER_ADDRESS for protocol, peer in peers.items()
        }
    return peers


def test_two_containers_publish_side_by_side(me: Person, network: str, serve: Callable[..., str]) -> None:
    serve(network, "8080:80", name="one")
    serve(network, "8081:80", name="two")
    assert ("one", "two") == (fetch(8080), fetch(8081))
    me.ctnr("rm", "-f", "one").ok  # noqa: B018
    assert fetch(8081) == "two"


def test_ports_come_and_go_while_it_runs(me: Person, network: str, serve: Callable[..., str]) -> None:
    name = serve(network, "8080:80")
    assert "0.0.0.0:8081->81/tcp\n" == me.ctnr("port", "add", name, "8081:81").ok.stdout
    me.ctnr("port", "add", name, "127.0.0.1:9007:7/udp", "82").ok  # noqa: B018
    assert fetch(8080) == fetch(8081) == name
    assert echo(9007) == b"hello"
    assert not is_free(8081)
    rules, taken = nat_rules(), me.ctnr("port", name).ok.stdout
    done = me.ctnr("port", "add", name, "8083:80", "8080:82")
    assert done.status == 125
    assert "in use" in done.stderr
    assert (is_free(8083), nat_rules(), me.ctnr("port", name).ok.stdout) == (True, rules, taken), (
        "all or none"
    )
    me.ctnr("port", "rm", name, "8081:81", "7/udp", "82").ok  # noqa: B018
    assert is_free(8081)
    assert is_free(9007, socket.SOCK_DGRAM)
    assert "80/tcp -> 0.0.0.0:8080\n" == me.ctnr("port", name).ok.stdout
    assert "does not publish" in me.ctnr("port", "rm", name, "8080:80", "8081:81").stderr
    assert "does not publish 81/tcp;" in me.ctnr("port", "rm", name, "81").stderr
    assert fetch(8080) == name, "all or none"
    with pytest.raises(OSError, match=r"refused|timed out"):
        fetch(8081, seconds=0)
    me.ctnr("port", "add", name, "8081:81").ok  # noqa: B018
    assert fetch(8081) == name
    me.ctnr("rm", "-f", name).ok  # noqa: B018
    assert is_free(8080)
    assert is_free(8081)


def test_what_came_and_went_holds_after_a_restart(
    me: Person, network: str, serve: Callable[..., str]
) -> None:
    serve(network, "8481:80", "82", flags=("--restart=always",))
    me.ctnr("port", "add", "served", "8482:81").ok  # noqa: B018
    me.ctnr("port", "rm", "served", "8481:80").ok  # noqa: B018
    me.ctnr("restart", "-t", "0", "served").ok  # noqa: B018
    assert fetch(8482) == "served"
    assert is_free(8481)
    shown = me.ctnr("port", "served").ok.stdout
    assert ("81/tcp -> " in shown, "82/tcp -> " in shown, "80/tcp" in shown) == (True, True, False), shown
    me.ctnr("port", "rm", "served", "82").ok  # noqa: B018
    me.ctnr("restart", "-t", "0", "served").ok  # noqa: B018
    assert fetch(8482) == "served"
    assert "82/tcp" not in me.ctnr("port", "served").ok.stdout


def nat_rules() -> list[str]:
    """Of the host; those that the sandbox has do not show here."""
    done = subprocess.run(["iptables", "-t", "nat", "-S"], capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


def test_the_callers_port_arrives_too(
    me: Person, network: str, serve: Callable[..., str], internet: Internet
) -> None:
    name = serve(network, "8080:80")
    assert fetch(8080) == name
    for _ in range(3):  # the port is free again at once: whoever closes first, it is not we who wait
        ask = f"""
import http.client, socket
asked = http.client.HTTPConnection("{internet.machine_address}", 8080, source_address=("{ROUTER_ADDRESS}", 4711))
asked.connect()
asked.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
asked.request("GET", "/port")
print(asked.getresponse().read().decode(), end="")
"""
        assert internet.run("/usr/bin/python3", "-c", ask) == b"4711"


def test_the_hosts_own_calls_come_from_the_gateway(
    me: Person, network: str, serve: Callable[..., str]
) -> None:
    """Not from the container's own loopback, which servers tend to trust."""
    name = serve(network, "8080:80")
    assert fetch(8080) == name
    [first, *_] = json.loads(me.ctnr("inspect", name).ok.stdout)[0]["NetworkSettings"]["Networks"].values()
    assert fetch(8080, path="peer") == first["Gateway"]


@pytest.mark.parametrize("handler", ["rootlesskit", "slirp4netns"])
def test_either_port_handler_of_podman_keeps_the_callers_address(
    me: Person, serve: Callable[..., str], internet: Internet, handler: str
) -> None:
    name = serve(f"slirp:port_handler={handler}", "8080:80", "9007:7/udp")
    assert peers_seen(me, name, internet) == {"tcp": ROUTER_ADDRESS, "udp": ROUTER_ADDRESS}
    me.ctnr("port", "add", name, "8082:81").ok  # noqa: B018
    assert fetch(8082) == name


def test_tcp_over_ipv6_reaches_containers_without_ipv6(
    me: Person, serve: Callable[..., str], internet: Internet
) -> None:
    """Their peer is the gateway then, and that is told."""
    for network in ("slirp", "bridge") if me.uid else ("slirp",):
        name = serve(network, f"[{MACHINE_ADDRESS6}]:8080:80", "[::1]:8081:81", name=f"six-{network}")
        assert fetch(8081, "[::1]") == name
        url = f"http://[{MACHINE_ADDRESS6}]:8080/peer"
        assert internet.run("busybox", "wget", "-qO-", url).decode() == fetch(8081, "[::1]", path="peer")
        ports = json.loads(me.ctnr("port", "--format=json", name).ok.stdout)
        assert {one["source_kept"] for one in ports} == {False}
        me.ctnr("rm", "-f", name).ok  # noqa: B018


def test_another_plugin_maps_ports_at_the_start_only(
    me: Person, serve: Callable[..., str], machine: Machine
) -> None:
    """Who maps ports is told by the capability. What it does with them, nobody can know."""
    programs, configs = me.home / "mappers", me.home / "mapped.d"
    programs.mkdir(exist_ok=True)
    configs.mkdir(exist_ok=True)
    os.chown(configs, me.uid, -1)
    mapper = programs / "mapper"
    mapper.write_text('#!/bin/sh\nexec /usr/lib/cni/portmap "$@"\n')
    mapper.chmod(0o755)
    bridge = {"type": "bridge", "bridge": "ctnr-mapped", "isGateway": True, "ipMasq": True}
    bridge["ipam"] = {"type": "host-local", "subnet": "10.77.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
    plugins = [bridge, {"type": "mapper", "capabilities": {"portMappings": True}}]
    conf = {"cniVersion": "1.0.0", "name": "mapped", "plugins": plugins}
    (configs / "mapped.conflist").write_text(json.dumps(conf))
    env = {"NETCONFPATH": str(configs), "CNI_PATH": f"{programs}:/usr/lib/cni"}
    name = serve("mapped", "8080:80", env=env)
    assert fetch(8080) == name
    [port] = json.loads(me.ctnr("port", "--format=json", name).ok.stdout)
    assert (port["host_port"], port["source_kept"]) == (8080, None)
    for words in (("add", name, "8081:81"), ("rm", name, "8080:80")):
        done = me.ctnr("port", *words)
        assert (125, "its plugin mapper maps the ports" in done.stderr) == (done.status, True), done.stderr
    assert (fetch(8080), is_free(8081)) == (name, True)
    me.ctnr("rm", "-f", name).ok  # noqa: B018
    assert is_free(8080)
    me.ctnr("net", "rm", "mapped", env=env).ok  # noqa: B018


def test_a_relay_that_is_not_known_is_told(me: Person) -> None:
    done = me.ctnr("run", "--network=slirp:portHandler=pigeon", "demo", "true")
    assert done.status == 125
    assert "option portHandler: relay or slirp4netns, not 'pigeon'" in done.stderr


def test_ports_of_ended_and_unknown_containers(me: Person, serve: Callable[..., str]) -> None:
    name = serve("bridge")
    assert "does not publish 80/tcp" in me.ctnr("port", name, "80").stderr
    assert "no container" in me.ctnr("port", "nobody").stderr
    me.ctnr("stop", "-t0", name).ok  # noqa: B018
    done = me.ctnr("port", "add", name, "8080:80")
    assert (125, f"container {name} is not running" in done.stderr) == (done.status, True)
    assert is_free(8080)


def test_the_other_ports_of_a_range_stay_while_one_goes(
    me: Person, network: str, serve: Callable[..., str]
) -> None:
    name = serve(network, "8080-8081:80-81")
    assert fetch(8080) == fetch(8081) == name
    missed, fetched, ending = [], 0, threading.Event()

    def keep_asking() -> None:
        nonlocal fetched
        while not ending.is_set():
            try:
                fetch(8081, seconds=0)
                fetched += 1
            except OSError as error:
                missed.append(str(error))

    asker = threading.Thread(target=keep_asking)
    asker.start()
    try:
        for _ in range(3):
            me.ctnr("port", "rm", name, "8080:80").ok  # noqa: B018
            assert is_free(8080)
            me.ctnr("port", "add", name, "8080:80").ok  # noqa: B018
    finally:
        ending.set()
        asker.join()
    assert (missed, fetched > 3) == ([], True)
    assert fetch(8080) == fetch(8081) == name


@pytest.fixture(scope="module")
def exposing(me: Person, machine: Machine, busybox_rootfs: Path) -> str:
    """An image that names ports."""
    ports: dict[str, dict[str, str]] = {"80/tcp": {}, "7/udp": {}, "90-91": {}}
    layers = [images.tar_folder(busybox_rootfs)]
    layout = images.write_image(machine.root / f"exposing-{me.uid}", layers, {"ExposedPorts": ports})
    return me.ctnr("pull", "--quiet", "--image-policy=insecure", f"oci:{layout}").ok.stdout.strip()


def test_all_ports_that_the_image_names(
    me: Person, network: str, exposing: str, serve: Callable[..., str]
) -> None:
    name = serve(
        network, "8080:80", flags=["-P", "--expose=81", "--expose", "8090-8091/udp"], image=exposing
    )
    ports = json.loads(me.ctnr("port", "--format=json", name).ok.stdout)
    chosen = {f"{one['container_port']}/{one['protocol']}": one["host_port"] for one in ports}
    assert {"80/tcp", "81/tcp", "90/tcp", "91/tcp", "7/udp", "8090/udp", "8091/udp"} == set(chosen)
    assert (len(ports), chosen["80/tcp"]) == (len(chosen), 8080), "what -p has opened is not opened twice"
    assert all(port >= 1024 for port in chosen.values())
    assert fetch(8080) == fetch(chosen["81/tcp"]) == name
    assert echo(chosen["7/udp"]) == b"hello"


def test_exposed_ports_stay_closed_unless_asked(
    me: Person, exposing: str, serve: Callable[..., str]
) -> None:
    name = serve("slirp", flags=["--expose=81"], image=exposing)
    assert me.ctnr("port", name).ok.stdout == ""
    for wrong in ("8080:80", "80/sctp", "many"):
        done = me.ctnr("run", f"--expose={wrong}", exposing, "true")
        assert (125, f"port '{wrong}'" in done.stderr) == (done.status, True)


def test_publishing_on_ipv6_by_a_bridge_that_has_it(
    me: Person, serve: Callable[..., str], internet: Internet
) -> None:
    me.ctnr("net", "create", "six", "--ipv6").ok  # noqa: B018
    try:
        name = serve("six", f"[{MACHINE_ADDRESS6}]:8080:80", "8081:81")
        assert fetch(8081) == name
        url = f"http://[{MACHINE_ADDRESS6}]:8080/"
        assert name == internet.run("busybox", "wget", "-qO-", url).decode()
        assert ROUTER_ADDRESS6 == internet.run("busybox", "wget", "-qO-", f"{url}peer").decode()
        me.ctnr("port", "add", name, f"[{MACHINE_ADDRESS6}]:8082:81").ok  # noqa: B018
        assert name == internet.run("busybox", "wget", "-qO-", url.replace("8080", "8082")).decode()
        me.ctnr("rm", "-f", name).ok  # noqa: B018
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((MACHINE_ADDRESS6, 8080), timeout=3)
    finally:
        me.ctnr("rm", "-f", "served")
        me.ctnr("net", "rm", "six").ok  # noqa: B018


def test_publishing_on_ipv6_is_refused_where_the_stack_below_can_not(me: Person) -> None:
    wrong = ("slirp", "[::1]:8080:80/udp"), ("slirp:port_handler=slirp4netns", "[::1]:8080:80")
    refused = dict.fromkeys(wrong, "slirp4netns forwards IPv4 only")
    if me.uid == 0:
        refused["bridge", "[::1]:8080:80"] = "gives its containers no IPv6 address"
    else:
        refused["bridge", "[::1]:8080:80/udp"] = "slirp4netns forwards IPv4 only"
    for (network, port), why in refused.items():
        done = me.ctnr("create", f"--network={network}", "-p", port, "no-such-image")
        assert (125, why in done.stderr) == (done.status, True), done.stderr
        assert "publish host port [::1]:8080/" in done.stderr


def test_answers_leave_by_the_network_that_was_asked(
    me: Person, serve: Callable[..., str], internet: Internet
) -> None:
    name = serve("bridge", "8080:80")
    me.ctnr("net", "connect", "slirp", name).ok  # noqa: B018 -- its default route, and 10.0.2.0/24, where our address is from
    assert fetch(8080) == name
    url = f"http://{internet.machine_address}:8080/"
    assert internet.run("busybox", "wget", "-qO-", url).decode() == name
    assert me.ctnr("exec", name, "ip", "rule").ok.stdout.count("lookup 10") == 2
