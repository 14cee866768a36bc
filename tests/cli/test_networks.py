"""Networks from the command line: options, namespaces of others, names, and networks of one's own."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.world.internet import Internet
from tests.world.people import Person

Start = Callable[..., str]


@pytest.fixture
def start(me: Person, names: list[str]) -> Start:
    """Start a container that sleeps; its name comes back."""

    def run(name: str, *flags: str) -> str:
        names.append(name)
        me.ctnr("run", "-d", "--name", name, *flags, "demo", "sleep", "1000").ok  # noqa: B018
        return name

    return run


@pytest.fixture
def own(me: Person) -> Iterator[Path]:
    """The folder of one's own networks; what a test makes there is removed."""
    folder = me.home / ".cni/net.d"
    yield folder
    for file in folder.glob("*") if folder.is_dir() else ():
        me.ctnr("net", "rm", file.stem)
        file.unlink(missing_ok=True)


def inside(me: Person, name: str, script: str) -> str:
    return me.ctnr("exec", name, "sh", "-c", script).ok.stdout


def run(me: Person, *flags: str, script: str) -> str:
    return me.ctnr("run", "--rm", *flags, "demo", "sh", "-c", script).ok.stdout


def inspected(me: Person, network: str) -> dict[str, Any]:
    [found] = json.loads(me.ctnr("net", "inspect", network).ok.stdout)
    return dict(found)


# What --network can say


def test_options_of_slirp(me: Person) -> None:
    said = run(
        me,
        "--network=slirp:mtu=65520,cidr=10.9.0.0/24",
        script="ip addr show cni0; ip route; cat /etc/resolv.conf",
    )
    assert "mtu 65520" in said
    assert "inet 10.9.0.100/24" in said
    assert "default via 10.9.0.2" in said
    assert "nameserver 10.9.0.3" in said
    said = run(
        me,
        "--network=slirp:disableDNS=true,enable_ipv6=true",
        script="cat /etc/resolv.conf; ip -6 addr show cni0",
    )
    assert "10.0.2.3" not in said
    assert "tentative" not in said


def test_ipv6_of_slirp_is_there_at_once(me: Person) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do ip -6 addr show cni0 | grep fd00: && break; sleep 0.2; done"
    said = run(me, "--network=slirp:enableIPv6=true", script=script)
    assert "fd00:" in said
    assert "tentative" not in said


def test_the_hosts_loopback_can_be_closed(me: Person) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ask = f"nc -w 2 10.0.2.2 {server.server_address[1]} </dev/null && echo came"
        assert "came" in run(me, "--network=slirp", script=ask)
        said = me.ctnr("run", "--rm", "--network=slirp:hostLoopback=false", "demo", "sh", "-c", ask)
        server.shutdown()
        assert "came" not in said.stdout


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("slirp:mtu=9", "slirp option mtu"),
        ("slirp:mto=9", "slirp option"),
        ("slirp:cidr=10.0.0.0/30", "slirp option cidr"),
        ("bridge:mtu=1500", "only slirp and pasta networks take options"),
        ("slirp:ip=10.0.2.7", "always gives the 100th address"),
        ("bridge:ip=none", "not an IP address"),
        ("slirp:mac=01:00:00:00:00:01", "not a unicast MAC"),
        ("container:", "of what?"),
        ("container:nobody", "no container has the name"),
        ("ns:/etc/passwd", "not a network namespace"),
        ("ns:/no/such", "no such file"),
        ("host,slirp", "can't be combined"),
        ("nowhere", "nowhere is not known"),
    ],
)
def test_what_is_wrong_is_told(me: Person, network: str, told: str) -> None:
    done = me.ctnr("run", "--rm", f"--network={network}", "demo", "echo", "it ran")
    assert (125, "") == (done.status, done.stdout)
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("network", ["slirp", "bridge"])
def test_addresses_of_ones_own(me: Person, network: str) -> None:
    ip = "10.9.9.100" if network == "slirp" else "10.2.0.77"
    mac = "02:42:0a:09:09:64"
    show = "ip addr show cni0"
    said = run(me, f"--network={network}", f"--ip={ip}", f"--mac-address={mac}", script=show)
    assert f"inet {ip}/24" in said
    assert mac in said
    said = run(me, f"--network={network}:ip={ip},mac={mac}", script=show)
    assert f"inet {ip}/24" in said
    assert mac in said


def test_an_address_that_is_taken(me: Person, start: Start) -> None:
    start("a", "--network=bridge", "--ip=10.2.0.50")
    done = me.ctnr("run", "--rm", "--network=bridge", "--ip=10.2.0.50", "demo", "true")
    assert done.status == 125
    assert "10.2.0.50" in done.stderr


def test_the_network_of_another_container(me: Person, start: Start) -> None:
    start("peer", "--network=slirp,bridge", "--hostname=peer")
    show = "readlink /proc/self/ns/net; cat /etc/resolv.conf"
    assert inside(me, "peer", show) == run(me, "--network=container:peer", script=show)
    done = me.ctnr("run", "--rm", "--network=container:peer", "-p", "80", "demo", "true")
    assert "-p can't be had" in done.stderr
    me.ctnr("rm", "-f", "peer").ok  # noqa: B018
    assert "no container has the name" in me.ctnr("run", "--network=container:peer", "demo", "true").stderr


def test_the_hosts_network_of_another_container(me: Person, start: Start) -> None:
    start("a", "--network=host")
    show = "readlink /proc/self/ns/net"
    assert os.readlink("/proc/self/ns/net") + "\n" == run(me, "--network=container:a", script=show)


def test_ports_on_the_hosts_network_are_left_out_and_told(me: Person) -> None:
    done = me.ctnr(
        "run", "--rm", "--network=host", "-p", "8080:80", "-p=53/udp", "-P", "demo", "echo", "ran"
    )
    assert done.ok.stdout == "ran\n"
    assert done.stderr == (
        "ctnr: warning: --network=host: -p 8080:80 -p 53/udp -P is left out, for the host's network has every port of "
        "the program\n"
    )
    assert me.ctnr("run", "--rm", "--network=host", "demo", "true").ok.stderr == ""


def test_a_network_namespace_by_its_file(me: Person) -> None:
    if me.uid != 0:  # one that this user may enter: of a user namespace of theirs
        command = ["unshare", "--user", "--map-root-user", "--net", "sleep", "1000"]
    else:
        command = ["unshare", "--net", "sleep", "1000"]
    with me.popen(command) as holder:
        try:
            path = f"/proc/{holder.pid}/ns/net"
            here = os.readlink("/proc/self/ns/net")
            while (inner := os.readlink(path)) == here:
                pass
            done = me.ctnr("run", "--rm", f"--network=ns:{path}", "demo", "readlink", "/proc/self/ns/net")
            if me.uid == 0:
                assert done.ok.stdout == f"{inner}\n"
            else:
                assert done.status == 125
                assert done.stdout == ""
        finally:
            holder.kill()


# Names


def test_names_on_a_bridge(me: Person, start: Start, internet: Internet) -> None:
    start("a", "--network=bridge", "--network-alias=web", "--hostname=box")
    start("b", "--network=bridge")
    assert "nameserver 10.2.0.1\n" == inside(me, "b", "grep nameserver /etc/resolv.conf")
    [address] = inside(me, "a", "hostname -i").split()
    for name in ("a", "web", "box"):
        assert address in inside(me, "b", f"nslookup -type=a {name}")
    assert "name = a" in inside(me, "b", f"nslookup {address}")
    assert "Example Domain" in inside(me, "b", "wget -qO- http://example.org/")
    done = me.ctnr("exec", "b", "nslookup", "-type=a", "nobody.example.org")
    assert "NXDOMAIN" in done.stdout + done.stderr


def test_names_beside_slirp(me: Person, start: Start, internet: Internet) -> None:
    """The seed's --network=slirp,bridge: names of the bridge, and of the world, by the bridge's server."""
    start("a", "--network=slirp,bridge")
    start("b", "--network=slirp,bridge")
    assert "10.2.0." in inside(me, "b", "nslookup -type=a a | tail -n +3")
    assert "Example Domain" in inside(me, "b", "wget -qO- http://example.org/")


# Networks of one's own


def test_create_use_and_remove(me: Person, own: Path, start: Start, internet: Internet) -> None:
    assert me.ctnr("net", "create", "mine", "--mtu=1400").ok.stdout == "mine\n"
    made = inspected(me, "mine")
    [subnet] = made["subnets"]
    assert (own / "mine.conflist").is_file()
    assert "mine" in me.ctnr("net", "ls", "-q").ok.stdout.split()
    start("a", "--network=mine")
    start("b", "--network=mine")
    assert "mtu 1400" in inside(me, "a", "ip addr show cni0")
    assert subnet.rpartition(".")[0] in inside(me, "a", "nslookup -type=a b | tail -n +3")
    assert "Example Domain" in inside(me, "a", "wget -qO- http://example.org/")
    done = me.ctnr("net", "rm", "mine")
    assert done.status == 125
    assert "in use by a, b" in done.stderr
    assert ["a", "b"] == inspected(me, "mine")["containers"]
    me.ctnr("rm", "-f", "a", "b").ok  # noqa: B018
    assert me.ctnr("net", "rm", "mine").ok.stdout == "mine\n"
    assert not (own / "mine.conflist").exists()
    me.ctnr("net", "create", "mine", "--subnet=10.77.0.0/24", "--gateway=10.77.0.9").ok  # noqa: B018
    assert "via 10.77.0.9" in run(me, "--network=mine", script="ip route"), (
        "the old bridge is not in the way"
    )


SERVE6 = "nc -ll -p 80 -e sh -c 'read line; printf \"HTTP/1.0 200 OK\\r\\n\\r\\nhello\"'"


def test_a_bridge_with_ipv6(me: Person, own: Path, start: Start) -> None:
    me.ctnr("net", "create", "six", "--ipv6").ok  # noqa: B018
    me.ctnr("net", "create", "other6", "--ipv6", "--internal").ok  # noqa: B018
    four, six = inspected(me, "six")["subnets"]
    assert (ipaddress.ip_network(four).version, ipaddress.ip_network(six).prefixlen) == (4, 64)
    assert ipaddress.ip_network(six).subnet_of(ipaddress.ip_network("fd00::/8"))
    assert six != inspected(me, "other6")["subnets"][1]
    start("a", "--network=six", "--cap-add=NET_RAW")
    start("b", "--network=six")
    addresses = {name: address6(me, name) for name in ("a", "b")}
    assert all(ipaddress.ip_address(one) in ipaddress.ip_network(six) for one in addresses.values())
    assert "tentative" not in inside(me, "a", "ip -6 addr show cni0")
    assert "1 packets received" in inside(me, "a", f"ping -6 -c1 -W5 {addresses['b']}")
    assert addresses["b"] in inside(me, "a", "nslookup -type=aaaa b | tail -n +3")
    assert four.rpartition(".")[0] in inside(me, "a", "nslookup -type=a b | tail -n +3")
    assert "name = b" in inside(me, "a", f"nslookup {addresses['b']} | tail -n +3")
    me.ctnr("exec", "-d", "b", "sh", "-c", SERVE6).ok  # noqa: B018
    once = f"wget -qO- 'http://[{addresses['b']}]/' | grep hello && exit"
    fetch = f"for i in $(seq 50); do {once}; usleep 100000; done; exit 1"
    assert inside(me, "a", fetch).strip() == "hello"
    start("c", "--network=other6")
    assert "default" in inside(me, "a", "ip -6 route")
    assert "default" not in inside(me, "c", "ip -6 route")
    me.ctnr("rm", "-f", "a", "b", "c").ok  # noqa: B018
    start("a", "--network=six")
    assert address6(me, "a") not in addresses.values(), "the next free ones first, as with IPv4"


def address6(me: Person, name: str) -> str:
    [row] = json.loads(me.ctnr("inspect", name).ok.stdout)
    return str(row["NetworkSettings"]["Networks"]["six" if name != "c" else "other6"]["GlobalIPv6Address"])


def test_free_subnets_are_chosen_also_by_many_at_once(me: Person, own: Path) -> None:
    with contextlib.ExitStack() as stack:
        making = [
            stack.enter_context(me.popen(["ctnr", "net", "create", f"n{number}"])) for number in range(6)
        ]
        making.append(stack.enter_context(me.popen(["ctnr", "--no-service", "net", "create", "n6"])))
        assert [0] * 7 == [process.wait(20) for process in making]
        for process in making:
            process.communicate()
    subnets = [inspected(me, f"n{number}")["subnets"][0] for number in range(7)]
    assert len(set(subnets)) == 7
    subprocess.run(["ip", "route", "add", "10.89.0.0/16", "dev", "lo"], check=True)
    try:
        me.ctnr("net", "create", "other").ok  # noqa: B018
        assert not inspected(me, "other")["subnets"][0].startswith("10.89."), "the host has a route there"
        assert "overlaps" in me.ctnr("net", "create", "x", "--subnet=10.89.7.0/24").stderr
    finally:
        subprocess.run(["ip", "route", "delete", "10.89.0.0/16", "dev", "lo"], check=True)
    assert len(me.ctnr("net", "prune").ok.stdout.split()) == 8
    assert not list(own.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("bridge", "there is a network bridge already"),
        ("none", "means something else"),
        ("x --subnet=10.2.0.128/25", "overlaps 10.2.0.0/24 of network bridge"),
        ("x --subnet=10.0.2.0/24", "overlaps"),
        ("x --subnet=10.255.2.0/24", "of the way out of bridges"),
        ("x --subnet=10.77.0.1/24", "host bits"),
        ("x --subnet=10.77.0.0/31", "from /8 to /29"),
        ("x --subnet=10.77.0.0/24 --gateway=10.78.0.1", "is not an address of"),
        ("x --gateway=10.78.0.1", "needs its subnet"),
        ("x --opt=a=b", "not known to driver bridge"),
        ("x --driver=slirp --opt=a=b", "slirp option"),
        ("x --driver=slirp --internal", "can't be internal"),
        ("x/y", "not allowed"),
        ("x --mtu=5", "mtu 5"),
    ],
)
def test_networks_that_can_not_be(me: Person, own: Path, words: str, told: str) -> None:
    done = me.ctnr("net", "create", *words.split())
    assert done.status == 125
    assert told in done.stderr
    assert not own.is_dir() or not list(own.iterdir())


def test_a_network_without_a_way_out(me: Person, own: Path, start: Start, internet: Internet) -> None:
    me.ctnr("net", "create", "inner", "--internal").ok  # noqa: B018
    start("a", "--network=inner")
    start("b", "--network=inner")
    assert "default" not in inside(me, "a", "ip route")
    assert "Address" in inside(me, "a", "nslookup -type=a b")
    done = me.ctnr("exec", "a", "nc", "-w", "2", internet.address, "80")
    assert done.status == 1
    assert "Network is unreachable" in done.stderr


def test_a_slirp_network_of_ones_own(me: Person, own: Path) -> None:
    me.ctnr("net", "create", "out", "--driver=slirp", "--mtu=9000", "--opt=enableIPv6=true").ok  # noqa: B018
    conf = json.loads((own / "out.conflist").read_text())["plugins"][0]
    assert ("slirp", 9000, True, False) == (
        conf["type"],
        conf["mtu"],
        conf["enableIPv6"],
        conf["hostLoopback"],
    )
    said = run(me, "--network=out", script="ip addr show cni0")
    assert "mtu 9000" in said
    assert conf["cidr"].replace(".0/24", ".100/24") in said


def test_built_in_networks_stay(me: Person) -> None:
    assert "comes with ctnr" in me.ctnr("net", "rm", "slirp").stderr
    assert "there is no network" in me.ctnr("net", "rm", "nowhere").stderr


def test_check_finds_what_is_broken(me: Person, own: Path, start: Start) -> None:
    start("a", "--network=slirp,bridge")
    done = me.ctnr("net", "check")
    assert done.status == 0, done.stdout
    assert "bridge   1 attached" in done.stdout
    own.mkdir(parents=True, exist_ok=True)
    (own / "bad.conflist").write_text(
        '{"cniVersion": "1.0.0", "name": "bad", "plugins": [{"typ": "bridge"}]}'
    )
    (own / "odd.conflist").write_text(
        '{"cniVersion": "1.0.0", "name": "odd", "plugins": [{"type": "nothing"}]}'
    )
    done = me.ctnr("net", "check")
    assert done.status == 1
    assert "plugins[0].type" in done.stdout
    assert "network plugin nothing not found" in done.stdout
    (own / "cut.conflist").write_text('{\n  "name": "cut"\n  "plugins": []\n}\n')
    listed = me.ctnr("net", "ls", "-q")
    assert {"bridge", "odd", "slirp"} <= set(listed.ok.stdout.split()), "the rest is listed all the same"
    assert sorted(listed.stderr.splitlines()) == [
        f"ctnr: warning: {own}/bad.conflist: field plugins[0].type: is missing, expected the name of a plugin, "
        'such as "bridge"',
        f"ctnr: warning: {own}/cut.conflist: is not JSON at line 3, column 3 (expected ',' or '}}')",
    ]
    assert f"no  {own}/cut.conflist  is not JSON at line 3, column 3" in me.ctnr("net", "check").stdout
    assert me.ctnr("net", "check", "bridge").status == 0
    for file in own.iterdir():
        file.unlink()
    inside_pid = me.ctnr("exec", "a", "ip", "link", "delete", "cni1")
    if inside_pid.status == 0:  # it may where it has the capability
        assert me.ctnr("net", "check", "bridge").status == 1


def test_show_draws_what_runs(me: Person, own: Path, start: Start) -> None:
    start("a", "--network=slirp", "-p", "127.0.0.1:8080:80")
    start("b", "--network=bridge")
    drawn = me.ctnr("net", "show").ok.stdout
    assert "slirp  slirp  10.0.2.0/24  gateway 10.0.2.2\n└─ a" in drawn
    assert "127.0.0.1:8080->80/tcp" in drawn
    assert "bridge ctnr-bridge  gateway 10.2.0.1\n└─ b" in drawn
    shown = json.loads(me.ctnr("net", "show", "--format=json").ok.stdout)
    [member] = next(one for one in shown if one["name"] == "bridge")["members"]
    inside(me, "b", "nc 10.2.0.1 9 || true")
    again = json.loads(me.ctnr("net", "show", "--format=json").ok.stdout)
    [later] = next(one for one in again if one["name"] == "bridge")["members"]
    assert later["sent"] > member["sent"]


# While it runs


def test_a_network_of_one_that_is_started_again_soon_is_in_use(
    me: Person, own: Path, names: list[str]
) -> None:
    me.ctnr("net", "create", "held").ok  # noqa: B018
    me.ctnr("run", "-d", "--name=often", "--network=held", "--restart=always", "demo", "false").ok  # noqa: B018
    names.append("often")
    deadline = time.monotonic() + 30
    while not me.ctnr("ps", "--filter=name=often", "--format={{.Status}}").ok.stdout.startswith(
        "Restarting"
    ):
        assert time.monotonic() < deadline
    done = me.ctnr("net", "rm", "held")
    assert (done.status, "network held is in use by often" in done.stderr) == (125, True), done.stderr
    me.ctnr("rm", "-f", "often").ok  # noqa: B018
    me.ctnr("net", "rm", "held").ok  # noqa: B018


def test_networks_of_the_next_round(me: Person, own: Path, start: Start) -> None:
    """What was connected and disconnected while it ran holds after `restart`, and until it is started anew."""
    start("again", "--network=bridge", "--restart=always")
    me.ctnr("net", "connect", "slirp:cidr=10.9.0.0/24", "again").ok  # noqa: B018
    me.ctnr("restart", "-t", "0", "again").ok  # noqa: B018
    assert "10.9.0.100" in inside(me, "again", "ip addr show cni1")
    me.ctnr("net", "disconnect", "bridge", "again").ok  # noqa: B018
    me.ctnr("restart", "-t", "0", "again").ok  # noqa: B018
    seen = inside(me, "again", "ip addr")
    assert "cni0" not in seen
    assert "10.9.0.100" in seen
    me.ctnr("net", "disconnect", "slirp", "again").ok  # noqa: B018
    me.ctnr("net", "connect", "slirp:cidr=10.9.0.0/24", "again").ok  # noqa: B018
    me.ctnr("restart", "-t", "0", "again").ok  # noqa: B018
    assert "10.9.0.100" in inside(me, "again", "ip addr show cni0")
    me.ctnr("stop", "-t", "0", "again").ok  # noqa: B018
    me.ctnr("start", "again").ok  # noqa: B018
    assert "10.2.0." in inside(me, "again", "ip addr show cni0")
    me.ctnr("rm", "-f", "again").ok  # noqa: B018


def test_connect_and_disconnect(me: Person, own: Path, start: Start, internet: Internet) -> None:
    start("a", "--network=bridge", "--ip=10.2.0.60")
    start("b", "--network=none")
    assert (
        me.ctnr("net", "connect", "--ip=10.2.0.61", "--alias=second", "bridge", "b").ok.stdout
        == "cni0  10.2.0.61\n"
    )
    assert "10.2.0.60" in inside(me, "b", "nslookup -type=a a")
    assert "10.2.0.61" in inside(me, "a", "nslookup -type=a second")
    assert "cni1  10.9.0.100\n" == me.ctnr("net", "connect", "slirp:cidr=10.9.0.0/24", "b").ok.stdout
    me.ctnr("net", "disconnect", "slirp", "b").ok  # noqa: B018
    assert "cni1" not in inside(me, "b", "ip addr")
    me.ctnr("net", "disconnect", "bridge", "b").ok  # noqa: B018
    assert "cni0" not in inside(me, "b", "ip addr")
    assert "10.2.0.61" not in inside(me, "a", "nslookup -type=a second || true")
    assert "cni0  10.9.0.100\n" == me.ctnr("net", "connect", "slirp:cidr=10.9.0.0/24", "b").ok.stdout
    assert "Example Domain" in inside(me, "b", "wget -qO- http://example.org/")
    assert "is on network slirp already" in me.ctnr("net", "connect", "slirp", "b").stderr
    me.ctnr("net", "disconnect", "slirp", "b").ok  # noqa: B018
    assert "cni0" not in inside(me, "b", "ip addr")
    assert "is not on network" in me.ctnr("net", "disconnect", "slirp", "b").stderr
    me.ctnr("net", "connect", "slirp", "b").ok  # noqa: B018
    me.ctnr("rm", "-f", "b").ok  # noqa: B018


def test_packets_are_large_where_no_wire_limits_them(me: Person) -> None:
    show = ["demo", "cat", "/sys/class/net/cni0/mtu"]
    expected = "1500" if me.uid == 0 else "65520"
    assert expected == me.ctnr("run", "--rm", "--network=bridge", *show).ok.stdout.strip()
    me.ctnr("net", "create", "--mtu=1400", "small").ok  # noqa: B018
    try:
        assert me.ctnr("run", "--rm", "--network=small", *show).ok.stdout.strip() == "1400"
    finally:
        me.ctnr("net", "rm", "small").ok  # noqa: B018
