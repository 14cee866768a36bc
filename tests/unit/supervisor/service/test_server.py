"""The service against clients that are broken or hostile: whatever one sends, the next one is answered."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.service.server import Connection, Server

VERSION = "1"
DEEP = b"[" * 100_000


class Say(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="say"):
    version: str
    text: str = ""
    linger: bool = False


async def say(request: Say, connection: Connection) -> Any:
    if request.linger:
        await trio.sleep_forever()
    return request.text


def frame(body: bytes, length: int | None = None) -> bytes:
    return (len(body) if length is None else length).to_bytes(4, "big") + body


def asked(**fields: Any) -> bytes:
    return frame(json.dumps({"op": "say", "version": VERSION, **fields}).encode())


LINGER = asked(linger=True)


@asynccontextmanager
async def serving(handler: Any = say) -> AsyncIterator[Callable[[], trio.socket.SocketType]]:
    """A server that accepts on a real socket; gives a function that connects to it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()

    def connect() -> trio.socket.SocketType:
        client = socket.socket(socket.AF_UNIX)
        client.connect(listener.getsockname())
        return trio.socket.from_stdlib_socket(client)

    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Server({Say: handler}, version=VERSION).serve, listener)
            yield connect
            nursery.cancel_scope.cancel()


async def exchange(client: trio.socket.SocketType, *parts: bytes, close: bool = True) -> list[Any]:
    """Send, and give the events that come until the service closes."""
    with client:
        try:
            for part in parts:
                while part:
                    part = part[await client.send(part) :]
            if close:
                client.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough
        data = b""
        try:
            while piece := await client.recv(1 << 16):
                data += piece
        except ConnectionResetError:
            pass
    events = []
    while data:
        length = int.from_bytes(data[:4], "big")
        events.append(json.loads(data[4 : 4 + length]))
        data = data[4 + length :]
    return events


async def expect_alive(connect: Callable[[], trio.socket.SocketType]) -> None:
    assert [{"event": "result", "value": "hi"}] == await exchange(connect(), asked(text="hi"), close=False)


@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(frame)
    | st.binary(max_size=100).map(LINGER.__add__)
)
@example(frame(b"{}", 0xFFFFFFFF))
@example(frame(b"{", 100))
@example(frame(DEEP))
@example(frame(b'{"version": "1", "x": ' + DEEP + b"}"))
@example(frame(b'{"op": "say", "version": "1", "text": ' + DEEP + b"}"))
@example(frame(b'{"op": "say", "version": "\xff"}'))
@example(frame(b'{"op": "say", "version": "1", "text": "\xff"}'))
@example(LINGER + frame(b"", 0xFFFFFFFF))
@example(LINGER + frame(DEEP))
@example(LINGER + frame(b'{"op": "\xff"}'))
def test_any_bytes_do_no_harm_to_others(data: bytes) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            async with serving() as connect:
                for event in await exchange(connect(), data):
                    assert event["event"] in ("error", "result")
                await expect_alive(connect)

    trio.run(main)


@given(
    st.dictionaries(
        st.sampled_from(["op", "version", "text", "linger", "x"]),
        st.none() | st.text() | st.lists(st.integers()),
    )
)
@example({"op": "a\nb"})
@example({"version": "\n"})
def test_any_object_is_answered_or_refused_in_words(fields: dict[str, Any]) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            async with serving() as connect:
                [event] = await exchange(
                    connect(), frame(json.dumps({"version": VERSION, **fields}).encode()), close=False
                )
                assert event["event"] in ("error", "result")
                assert "\n" not in event.get("message", "")

    trio.run(main)


@pytest.mark.parametrize("answer", ["\udcff", object(), {"x": 1j}])
async def test_an_answer_that_cannot_be_sent_is_an_error(answer: Any) -> None:
    async def give(request: Say, connection: Connection) -> Any:
        return answer if request.text == "give" else request.text

    async with serving(give) as connect:
        events = await exchange(connect(), asked(text="give"), close=False)
        assert ["error"] == [event["event"] for event in events]
        await expect_alive(connect)


async def test_a_name_of_any_bytes_is_told() -> None:
    async def fail(request: Say, connection: Connection) -> Any:
        raise FileNotFoundError(errno.ENOENT, "no such file", "a\udcffb")

    async with serving(fail) as connect:
        [event] = await exchange(connect(), asked(), close=False)
        assert "a\\udcffb: no such file" == event["message"]


async def test_descriptors_are_bounded_and_do_not_stay() -> None:
    async with serving() as connect:
        before = len(os.listdir("/proc/self/fd"))
        read, written = os.pipe()
        for count, frames in ((20, 1), (10, 1), (10, 30)):
            with connect() as client:
                try:
                    for number in range(frames):
                        data = LINGER if not number else frame(b"{}")
                        await client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                            b"".join(read.to_bytes(4, "little") for _ in range(count)))])  # fmt: skip
                except (BrokenPipeError, ConnectionResetError):
                    pass
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert len(os.listdir("/proc/self/fd")) < before + 40
        os.close(read)
        os.close(written)
        with trio.fail_after(5):
            while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110 -- closed when the service gets to it
                await trio.sleep(0.001)
        await expect_alive(connect)


async def test_what_a_client_says_too_early_is_bounded() -> None:
    """Before anybody listens to its controls, a client may say some, but it can't fill our memory."""
    async with serving() as connect:
        events = await exchange(connect(), LINGER, frame(b'{"op": "signal", "signal": 2}') * 100_000)
        assert [] == events
        await expect_alive(connect)


async def test_no_descriptor_left_for_a_new_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """accept(2) says EMFILE; that is no reason to end: some will be closed again."""
    failures = [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]
    with trio.socket.socket() as any_socket:
        kind: Any = type(any_socket)

    async def accept(self: Any) -> Any:
        if failures:
            raise OSError(failures.pop(), "as told")
        return await original(self)

    original = kind.accept
    monkeypatch.setattr(kind, "accept", accept)
    with trio.fail_after(5):
        async with serving() as connect:
            await expect_alive(connect)
    assert not failures
