"""What docs/security.md says of ctnr's defaults, seen from inside a container and beside it."""

from __future__ import annotations

import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctnr.bundles.capabilities import NAMES
from supervisor.network import uplink
from tests.world.people import Person

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
STATUS = "cat /proc/self/status"


def inside(me: Person, script: str, *flags: str) -> str:
    return me.ctnr("run", "--rm", "--network=none", *flags, "demo", "sh", "-c", script).ok.stdout


def field(status: str, name: str) -> str:
    found = re.search(rf"^{name}:\s*(\S+)", status, re.MULTILINE)
    assert found is not None
    return found[1]


def names_of(mask: str) -> list[str]:
    return [name.removeprefix("CAP_") for bit, name in enumerate(NAMES) if int(mask, 16) >> bit & 1]


def test_capabilities_and_filter_are_those_of_the_table(me: Person) -> None:
    row = re.search(r"^\| capabilities \| ([A-Z_ ]+) \| the same \|$", SECURITY.read_text(), re.MULTILINE)
    assert row is not None
    status = inside(me, STATUS)
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert sorted(row[1].split()) == sorted(names_of(field(status, kind)))
    assert field(status, "CapAmb").strip("0") == ""
    assert field(status, "Seccomp") == "2"
    assert field(status, "NoNewPrivs") == "0"
    assert field(inside(me, STATUS, "--no-new-privileges"), "NoNewPrivs") == "1"
    assert field(inside(me, STATUS, "-u", "1000"), "CapEff").strip("0") == "", "not root: none in effect"


def test_kernel_interfaces(me: Person) -> None:
    script = """
for path in /proc/sys/kernel/domainname /proc/sysrq-trigger /sys/x; do
    (echo x >$path) 2>/dev/null && echo "writable: $path"
done
for path in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do [ -e $path ] && head -c1 $path; done
ls -A /sys/firmware /proc/acpi 2>/dev/null | grep -v :
df -k /dev/shm | tail -n1 | tr -s ' ' | cut -d' ' -f2
ls /sys/fs/cgroup | head -n1
"""
    assert inside(me, script).split() == ["65536"]


def test_ids_are_the_users_and_its_range(me: Person) -> None:
    lines = [tuple(map(int, line.split())) for line in inside(me, "cat /proc/self/uid_map").splitlines()]
    if me.uid:
        assert [(0, me.uid, 1), (1, me.machine.first_subid, 65_536)] == lines
    else:
        assert lines[0][:2] == (0, 0), "root's is root"


def test_privileged_lifts_them(me: Person) -> None:
    status = inside(me, STATUS, "--privileged")
    assert len(names_of(field(status, "CapEff"))) > 30
    assert field(status, "Seccomp") == "0"
    assert inside(me, "ls -d /dev/net/tun", "--privileged") == "/dev/net/tun\n"


@pytest.fixture
def host_service() -> Iterator[int]:
    """A service on the host's 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                peer.sendall(b"reached\n")
                peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_who_reaches_the_hosts_loopback(me: Person, host_service: int) -> None:
    me.ctnr("net", "create", "--driver=slirp", "closed").ok  # noqa: B018

    def reaches(network: str, address: str) -> bool:
        script = f"nc -w 2 {address} {host_service} </dev/null"
        done = me.ctnr("run", "--rm", f"--network={network}", "demo", "sh", "-c", script)
        return "reached" in done.stdout

    try:
        assert reaches("slirp", "10.0.2.2"), "the seed's network: open"
        assert not reaches("slirp:hostLoopback=false", "10.0.2.2")
        closed = me.ctnr("run", "--rm", "--network=closed", "demo", "ip", "route").ok.stdout.split()
        assert not reaches("closed", closed[closed.index("via") + 1])
        assert not reaches("bridge", uplink.OPTIONS.gateway), "the uplink's"
    finally:
        me.ctnr("net", "rm", "closed").ok  # noqa: B018


def test_the_service_and_the_store_are_the_users_alone(me: Person) -> None:
    inside(me, "true")
    service = me.runtime_dir / "service.sock"
    assert stat.S_IMODE(service.stat().st_mode) == 0o600
    assert stat.S_IMODE(me.runtime_dir.stat().st_mode) == 0o700
    assert {me.uid} == {os.stat(path).st_uid for path in (service, me.runtime_dir, me.store_dir)}
    assert stat.S_IMODE(me.store_dir.stat().st_mode) & 0o077 == 0


def test_containers_take_no_keys_of_the_users_quota(me: Person, names: list[str]) -> None:
    def keys() -> int:
        uses = [line.split() for line in Path("/proc/key-users").read_text().splitlines()]
        return next((int(words[2].partition("/")[0]) for words in uses if words[0] == f"{me.uid}:"), 0)

    inside(me, "true")
    before = keys()
    for number in range(4):
        names.append(f"k{number}")
        me.ctnr("run", "-d", "--name", names[-1], "--network=none", "demo", "sleep", "100").ok  # noqa: B018
    assert keys() < before + 4  # other programs of the user take and give back keys, too
