"""A small internet in a network namespace: a router, a DNS server, a web server and echo, on documentation addresses.

The machine gets one uplink to it, a default route and a name server, like any machine behind a plain connection.
Traffic can't reach anything else: the machine has no other way out.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.world.machine import run

MACHINE_ADDRESS, ROUTER_ADDRESS = "203.0.113.10", "203.0.113.1"
MACHINE_ADDRESS6, ROUTER_ADDRESS6 = "2001:db8:1::10", "2001:db8:1::1"
DNS_ADDRESS = "198.51.100.53"
WEB_ADDRESS, WEB_ADDRESS6 = "192.0.2.80", "2001:db8:80::80"
HOSTS = ("example.org", "www.example.org", "example.com")
BIG_NAME, BIG_COUNT = "big.example.org", 120
"""a name with so many addresses that its answer is cut short over UDP"""

_UPLINK = "uplink"


class Internet:
    """The running internet. `address` is example.org's."""

    address, address6, dns = WEB_ADDRESS, WEB_ADDRESS6, DNS_ADDRESS
    machine_address = MACHINE_ADDRESS

    def __init__(self) -> None:
        host = Path(__file__).with_name("internet_host.py")
        self._processes = [_start(["unshare", "--net", "--", "/usr/bin/python3", "-I", str(host)])]
        pid = self._processes[0].pid
        try:
            _wait(
                lambda: os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"),
                "its namespace",
            )
            self._enter = ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]
            self._wire(pid)
            self._processes.append(_start([*self._enter, *_dnsmasq()]))
            _wait(lambda: _connects(WEB_ADDRESS, 80), "the web server")
            _wait(lambda: _connects(DNS_ADDRESS, 53), "the name server")
        except BaseException:
            self.close()
            raise

    def run(self, *argv: str) -> bytes:
        """Run a program on the internet's side of the wire, and give its stdout."""
        return run([*self._enter, *argv])

    def close(self) -> None:
        """Pull the plug: both ends of the wire go with the namespace."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        _wait(lambda: not os.path.exists(f"/proc/self/net/dev_snmp6/{_UPLINK}"), "the end of the uplink")

    def _wire(self, pid: int) -> None:
        _ip("link add", _UPLINK, "type veth peer name eth0 netns", str(pid))
        _ip("address add", f"{MACHINE_ADDRESS}/24 dev", _UPLINK)
        _ip("address add", f"{MACHINE_ADDRESS6}/64 dev", _UPLINK, "nodad")
        _ip("link set", _UPLINK, "up")
        for line in (
            f"address add {ROUTER_ADDRESS}/24 dev eth0",
            f"address add {ROUTER_ADDRESS6}/64 dev eth0 nodad",
            *(f"address add {address} dev lo" for address in (WEB_ADDRESS + "/32", DNS_ADDRESS + "/32")),
            f"address add {WEB_ADDRESS6}/128 dev lo nodad",
            "link set lo up",
            "link set eth0 up",
        ):
            self.run("ip", *line.split())
        _ip("route add default via", ROUTER_ADDRESS)
        _ip("-6 route add default via", ROUTER_ADDRESS6)


@contextlib.contextmanager
def name_server_is(address: str) -> Iterator[None]:
    """While it lasts, the machine's /etc/resolv.conf names `address`."""
    conf = Path(os.path.realpath("/etc/resolv.conf"))
    was = conf.read_bytes()
    conf.write_text(f"nameserver {address}\n")
    try:
        yield
    finally:
        conf.write_bytes(was)


def _dnsmasq() -> list[str]:
    records = [f"--host-record={name},{WEB_ADDRESS},{WEB_ADDRESS6}" for name in HOSTS]
    records += [f"--host-record={BIG_NAME},192.0.2.{n}" for n in range(100, 100 + BIG_COUNT)]
    return [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--log-facility=-",
        "--no-resolv", "--no-hosts", "--local=/#/", "--ptr-record=80.2.0.192.in-addr.arpa,example.org",
        "--txt-record=example.org,v=test", *records,
    ]  # fmt: skip


def _start(argv: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *argv],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _ip(*words: str) -> None:
    run(["ip", *" ".join(words).split()])


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait(true: Callable[[], bool], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"the test internet did not come up: waited {seconds} s for {what}")
        time.sleep(0.01)
