"""Both ends of the wire: the client's frames and the service's, and the client's JSON."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ctnr.client import jsonlite
from ctnr.client.errors import ClientError
from ctnr.client.frames import Channel
from supervisor.service.frames import FrameSocket

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def pair() -> tuple[Channel, socket.socket]:
    near, far = socket.socketpair()
    return Channel(socket.socket(fileno=near.detach())), far


def framed(message: object) -> bytes:
    body = json.dumps(message).encode()
    return len(body).to_bytes(4, "big") + body


@given(VALUES)
def test_json_is_what_json_says(value: Any) -> None:
    assert json.loads(jsonlite.encode(value)) == value
    assert msgspec.json.decode(jsonlite.encode(value)) == value
    assert jsonlite.decode(json.dumps(value).encode()) == value
    assert jsonlite.decode(msgspec.json.encode(value)) == value


@pytest.mark.parametrize("text", [b"", b"{", b"[1,]", b'{"a":1} x', b"nul", b'"\xff"'])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- whatever it says
        jsonlite.decode(text)


async def test_both_ends_understand_each_other() -> None:
    client, far = pair()
    service = FrameSocket(trio.socket.from_stdlib_socket(far))
    read, written = os.pipe()
    try:
        client.send({"op": "run", "args": ["\u2603", ""]}, (read, written))
        frame = await service.receive()
        assert frame is not None
        assert json.loads(frame) == {"op": "run", "args": ["\u2603", ""]}
        theirs = service.take_descriptors()
        assert [os.fstat(number).st_ino for number in theirs] == [
            os.fstat(number).st_ino for number in (read, written)
        ]
        await service.send({"event": "started"}, tuple(theirs[:1]))
        await service.send({"event": "exited", "status": 0})
        event, ours = client.receive() or ({}, [])
        assert (event, len(ours)) == ({"event": "started"}, 1)
        assert not os.get_inheritable(ours[0])
        assert client.receive() == ({"event": "exited", "status": 0}, [])
        client.finish_sending()
        assert await service.receive() is None
        for number in (*theirs, *ours):
            os.close(number)
    finally:
        os.close(read)
        os.close(written)
        client.close()
        service.close()


async def test_long_frames() -> None:
    client, far = pair()
    service = FrameSocket(trio.socket.from_stdlib_socket(far))
    message = {"text": "x" * 3_000_000}
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, client.send, message)
            frame = await service.receive()
        assert frame is not None
        assert json.loads(frame) == message
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.send, message)
            assert await trio.to_thread.run_sync(client.receive) == (message, [])
    finally:
        client.close()
        service.close()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x00\x00", "a frame cut short"),
        (b"\x00\x00\x00\x09{", "a frame cut short"),
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (framed([1]), "a frame that is no object"),
        (b"\x00\x00\x00\x01x", "no JSON value"),
    ],
)
def test_a_peer_that_babbles(data: bytes, said: str) -> None:
    client, far = pair()
    with far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(ClientError, match=said):
            client.receive()
    client.close()


def test_descriptors_of_a_bad_frame_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    client, far = pair()
    with far:
        socket.send_fds(far, [b"\x00\x00\x00\x01x"], [far.fileno()] * 3)
        with pytest.raises(ClientError):
            client.receive()
    client.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_too_many_descriptors_are_an_error() -> None:
    before = len(os.listdir("/proc/self/fd"))
    client, far = pair()
    with far:
        socket.send_fds(far, [framed({})], [far.fileno()] * 20)
        with pytest.raises(ClientError, match="descriptors lost on the way"):
            client.receive()
    client.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_text_that_is_not_unicode_is_told() -> None:
    client, far = pair()
    with far, pytest.raises(ClientError, match="is not UTF-8"):
        client.send({"args": ["\udcff"]})
    client.close()
