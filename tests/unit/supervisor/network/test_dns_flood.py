"""The filter on a real socket, and who is muted by it."""

from __future__ import annotations

import socket

import pytest

from supervisor.network import dns_flood
from supervisor.network.dns_flood import Backlog, set_filter


def receiver(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.setblocking(False)
    return sock


def send(sock: socket.socket, source: str, data: bytes) -> None:
    with socket.socket(sock.family, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(data, sock.getsockname()[:2])


def heard(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(100))
        except BlockingIOError:
            return found


def test_only_those_addresses_are_dropped() -> None:
    with receiver("127.0.0.1") as sock:
        for muted, expected in (
            ([], [b"one", b"two", b"three"]),
            (["127.0.0.2"], [b"one", b"three"]),
            (["127.0.0.1", "127.0.0.3", "fd00::1"], [b"two"]),
            ([], [b"one", b"two", b"three"]),
        ):
            set_filter(sock, muted)
            for number, data in enumerate((b"one", b"two", b"three"), 1):
                send(sock, f"127.0.0.{number}", data)
            assert heard(sock) == expected


def test_addresses_of_version_6() -> None:
    try:
        sock = receiver("::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with sock:
        set_filter(sock, ["fd00::1", "::2"])
        send(sock, "::1", b"a")
        assert heard(sock) == [b"a"]
        set_filter(sock, ["fd00::1", "::1"])
        send(sock, "::1", b"b")
        assert heard(sock) == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(dns_flood.time, "monotonic", lambda: now[0])
    return now


def test_who_fills_the_queue_is_muted_longer_each_time(clock: list[float]) -> None:
    with receiver("127.0.0.1") as sock:
        backlog = Backlog(sock)
        for seconds in (1, 2, 4, 8, 16, 30, 30):
            for _ in range(100):
                backlog.heard("127.0.0.2")
                backlog.heard("127.0.0.1")
                backlog.heard("127.0.0.2")
            assert backlog.judge() is None, "not at once"
            clock[0] += 0.2
            assert backlog.judge() == seconds
            send(sock, "127.0.0.2", b"loud")
            send(sock, "127.0.0.1", b"calm")
            assert heard(sock) == [b"calm"]
            clock[0] += seconds
            backlog.unmute()
            send(sock, "127.0.0.2", b"again")
            assert heard(sock) == [b"again"]


def test_nobody_is_muted_who_is_one_of_many_or_whom_we_keep_up_with(clock: list[float]) -> None:
    with receiver("127.0.0.1") as sock:
        backlog = Backlog(sock)
        for number in range(40):
            for _ in range(100):
                backlog.heard(f"10.2.0.{number}")
        clock[0] += 1
        assert backlog.judge() is None
        for _ in range(1000):
            backlog.heard("10.2.0.1")
            clock[0] += 0.01
            backlog.drained()
            assert backlog.judge() is None
