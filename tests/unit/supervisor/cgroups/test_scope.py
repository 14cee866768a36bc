"""The one call to systemd, against a bus that reads it by the specification; tests/vm has the real one."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from supervisor.cgroups import scope
from supervisor.errors import LimitError


def read_value(data: bytes, at: int, kind: str) -> tuple[object, int, str]:
    """One value of a signature: it, where the next is, and the signature's rest."""
    if kind[0] in "ub":
        at += -at % 4
        return struct.unpack_from("=I", data, at)[0], at + 4, kind[1:]
    if kind[0] == "y":
        return data[at], at + 1, kind[1:]
    if kind[0] in "so":
        at += -at % 4
        size = struct.unpack_from("=I", data, at)[0]
        assert data[at + 4 + size] == 0
        return data[at + 4 : at + 4 + size].decode(), at + 5 + size, kind[1:]
    if kind[0] == "g":
        size = data[at]
        assert data[at + 1 + size] == 0
        return data[at + 1 : at + 1 + size].decode(), at + 2 + size, kind[1:]
    if kind[0] == "v":
        signature, at, _ = read_value(data, at, "g")
        assert isinstance(signature, str)
        value, at, rest = read_value(data, at, signature)
        assert rest == ""
        return value, at, kind[1:]
    if kind[0] == "(":
        at += -at % 8
        members, rest = [], kind[1:]
        while not rest.startswith(")"):
            value, at, rest = read_value(data, at, rest)
            members.append(value)
        return tuple(members), at, rest[1:]
    assert kind[0] == "a"
    at += -at % 4
    size = struct.unpack_from("=I", data, at)[0]
    at += 4
    at += -at % (8 if kind[1] == "(" else 4)
    end, items = at + size, []
    rest = ""
    while at < end:
        value, at, rest = read_value(data, at, kind[1:])
        items.append(value)
    assert at == end
    return items, at, rest or _after(kind[1:])


def _after(kind: str) -> str:
    depth = 0
    for at, one in enumerate(kind):
        depth += (one == "(") - (one == ")")
        if depth == 0 and one != "a":
            return kind[at + 1 :]
    return ""


class Bus:
    """Takes one client. `answer` is what systemd says to the call: None to agree, else an error's text."""

    def __init__(self) -> None:
        self.answer: str | None = None
        self.calls: list[tuple[dict[int, object], list[object]]] = []
        self.auth = b""

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n" not in data:
                data += await stream.receive_some(100)
            self.auth, _, data = data.partition(b"\r\n")
            await stream.send_all(b"OK 0123456789abcdef\r\n")
            while b"BEGIN\r\n" not in data:
                data += await stream.receive_some(100)
            data = data.removeprefix(b"BEGIN\r\n")
            while True:
                while len(data) < 16 or len(data) < self._size(data):
                    if not (more := await stream.receive_some(4096)):
                        return
                    data += more
                self._note(data[: self._size(data)])
                data = data[self._size(data) :]
                hello = len(self.calls) == 1
                if hello or self.answer is None:
                    await stream.send_all(
                        self._message(2, b"") + (self._message(4, b"signal") if hello else b"")
                    )
                else:
                    text = self.answer.encode()
                    await stream.send_all(self._message(3, struct.pack("=I", len(text)) + text + b"\0"))

    @staticmethod
    def _size(data: bytes) -> int:
        body, _, fields = struct.unpack_from("=III", data, 4)
        return int(16 + fields + -fields % 8 + body)

    def _note(self, message: bytes) -> None:
        assert message[1] == 1
        fields, at, _ = read_value(message, 12, "a(yv)")
        named = dict(fields)  # type: ignore[call-overload]
        body, values, rest = message[at + -at % 8 :], [], named.get(8, "")
        at = 0
        while rest:
            value, at, rest = read_value(body, at, rest)
            values.append(value)
        assert at == len(body)
        self.calls.append((named, values))

    @staticmethod
    def _message(kind: int, body: bytes) -> bytes:
        fields = bytes((5, 1)) + b"u\0" + struct.pack("=I", 1)
        return struct.pack("=BBBBIII", ord("l"), kind, 0, 1, len(body), 7, len(fields)) + fields + body


@pytest.fixture
async def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bus]:
    made = Bus()
    monkeypatch.setattr(scope, "USER_BUS", f"{tmp_path}/bus")
    async with _served(made, f"{tmp_path}/bus"):
        yield made


@asynccontextmanager
async def _served(bus: Bus, path: str) -> AsyncIterator[None]:
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as listener:
        await listener.bind(path)
        listener.listen(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, bus.serve, [trio.SocketListener(listener)])
            yield
            nursery.cancel_scope.cancel()


async def test_what_is_asked(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = iter(["/login", "/login", "/login", "/login", "/scope", "/scope", None])
    monkeypatch.setattr(scope, "_cgroup_of", lambda pid: next(groups))
    await scope.enter_scope([11, 12, 13], 1000)
    assert bus.auth == b"\0AUTH EXTERNAL 31303030"
    (hello, nothing), (call, values) = bus.calls
    assert (hello[3], hello[6], nothing) == ("Hello", "org.freedesktop.DBus", [])
    assert call == {
        1: "/org/freedesktop/systemd1",
        2: "org.freedesktop.systemd1.Manager",
        3: "StartTransientUnit",
        6: "org.freedesktop.systemd1",
        8: "ssa(sv)a(sa(sv))",
    }
    name, mode, properties, auxiliary = values
    assert isinstance(name, str)
    assert name.startswith("ctnr-")
    assert name.endswith(".scope")
    assert (mode, auxiliary) == ("fail", [])
    assert ("PIDs", [11, 12, 13]) in properties  # type: ignore[operator]
    assert ("Delegate", 1) in properties  # type: ignore[operator]
    assert next(groups, "all asked") == "all asked"


async def test_systemd_refuses(bus: Bus) -> None:
    bus.answer = "Interactive authentication required."
    with pytest.raises(LimitError, match=r"ask systemd for a scope: .*Interactive authentication required"):
        await scope.enter_scope([os.getpid()], 1000)


async def test_a_scope_that_is_never_entered(
    bus: Bus, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scope, "_cgroup_of", lambda pid: "/login")
    with pytest.raises(LimitError, match="the scope was not started after 10 s"):
        await scope.enter_scope([1], 1000)
    assert len(bus.calls) == 2


async def test_nobody_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "USER_BUS", f"{tmp_path}/none")
    with pytest.raises(LimitError, match="No such file"):
        await scope.enter_scope([os.getpid()], 1000)
    assert scope.offered(str(tmp_path), 1000) == frozenset()


def test_what_a_scope_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "USER_BUS", f"{tmp_path}/bus")
    monkeypatch.setattr(scope, "SYSTEM_BUS", f"{tmp_path}/bus")
    (tmp_path / "bus").touch()
    manager = tmp_path / "user.slice/user-1000.slice/user@1000.service"
    manager.mkdir(parents=True)
    (manager / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert scope.offered(str(tmp_path), 1000) == {"cpu", "memory", "pids", "freeze", "devices"}
    assert scope.offered(str(tmp_path), 1001) == frozenset()
    assert "cpuset" in scope.offered(str(tmp_path), 0)
