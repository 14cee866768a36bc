"""How much goes through the networks: out of a container, and into a published port; round trips too."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.pairs import Engine, Pair, Row, show

SECONDS = 3
ROUNDS = 3
HOST = "10.0.2.2"
PORT = 5201
ROUND_TRIPS = 2000


def add_iperf3(rootfs: Path) -> None:
    """iperf3 and its libraries, at the places where they are here."""
    program = shutil.which("iperf3")
    assert program is not None
    libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in [program, *[word for word in libraries.split() if word.startswith("/")]]:
        target = rootfs / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def rows(pair: Pair) -> Iterator[Row]:
    with _host_server():
        for mtu in (1500, 65520):
            yield pair.measure(
                f"iperf3 out of a slirp container, mtu {mtu}", 1.0, lambda e, mtu=mtu: _out(e, e.slirp(mtu)),
                rounds=ROUNDS, unit="Gbit/s", more_is_better=True,
            )  # fmt: skip
        if shutil.which("pasta"):
            value = _out(
                pair.ctnr,
                "--network=pasta:hostLoopback=true",
                "$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')",
            )
            yield show(Row("iperf3 out of a pasta container", None, value, None, "Gbit/s", True))
    ways = {
        "slirp4netns's own way": (
            "--network=slirp4netns:port_handler=slirp4netns",
            "--network=slirp:mtu=65520,portHandler=slirp4netns",
        ),
        "slirp": ("--network=slirp4netns", "--network=slirp"),
        "bridge": ("--network=bridge", "--network=bridge"),
    }
    for name, networks in ways.items():
        of = dict(zip(("podman", "ctnr"), networks, strict=True))
        yield pair.measure(
            f"iperf3 into a published port: {name}", 1.0, lambda e, of=of: _into(e, of[e.name]),
            rounds=ROUNDS, unit="Gbit/s", more_is_better=True,
        )  # fmt: skip
        yield pair.measure(
            f"round trip through a published port: {name}", 1.0, lambda e, of=of: _round_trip(e, of[e.name]),
            rounds=ROUNDS, unit="µs",
        )  # fmt: skip


@contextlib.contextmanager
def _host_server() -> Iterator[None]:
    process = subprocess.Popen(["iperf3", "-s", "-p", str(PORT)], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _out(engine: Engine, network: str, host: str = HOST) -> float:
    command = f"iperf3 -c {host} -p {PORT} -t {SECONDS} -J"
    return _gigabits(engine.do("run", "--rm", network, "traffic", "sh", "-c", command))


def _into(engine: Engine, network: str) -> float:
    with _published(engine, network, "iperf3", "-s", "-p", str(PORT)) as port:
        command = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(SECONDS), "-J"]
        return _until_it_answers(
            lambda: _gigabits(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
        )


def _round_trip(engine: Engine, network: str) -> float:
    """Median of a byte there and back, in µs."""
    with _published(engine, network, "nc", "-ll", "-p", str(PORT), "-e", "cat") as port:
        return _until_it_answers(lambda: _time_round_trips(port))


def _time_round_trips(port: int) -> float:
    taken = []
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            sock.sendall(b"x")
            if sock.recv(1) != b"x":
                raise OSError("no echo yet")
            taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def _until_it_answers(ask: Callable[[], float]) -> float:
    """The forwarder may take a connection before there is a server behind it."""
    deadline = time.monotonic() + 15
    while True:
        try:
            return ask()
        except (OSError, KeyError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def _published(engine: Engine, network: str, *command: str) -> Iterator[int]:
    port = 15201 if engine.is_podman else 15202
    engine.start("p", network, "-p", f"127.0.0.1:{port}:{PORT}", "traffic", *command)
    try:
        yield port
    finally:
        engine.remove("p")


def _gigabits(said: str) -> float:
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9
