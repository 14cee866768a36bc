"""What people and their files may hold: any text is understood, or one line says why not."""

from __future__ import annotations

import json
import os
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctnr.cli.request import read_env_file, resolve_env, resolve_mount, resolve_volume, words
from ctnr.client import jsonlite
from ctnr.client.errors import ClientError
from ctnr.client.frames import Channel


@given(st.binary(max_size=120) | st.text("AB=#*\t \r\n\ufeff\0é", max_size=60).map(str.encode))
@example(b"A=1\0B=2")
@example(b"\xff=1")
@example(b"=")
@example(b"*")
def test_any_environment_file(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "env"
    path.write_bytes(text)
    try:
        for entry in read_env_file(str(path)):
            name, equals, _ = entry.partition("=")
            assert name
            assert equals
            assert "\0" not in entry
    except ClientError as error:
        assert "\n" not in error.message  # noqa: PT017 -- either is right


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
@example("[" * 100_000)
@example('["\\ud800"]')
@example('["a", 1]')
@example("'")
def test_any_argument(text: str) -> None:
    for read in (words, resolve_volume, resolve_mount, lambda one: resolve_env([one])):
        try:
            read(text)
        except ClientError as error:
            assert error.message  # noqa: PT017 -- either is right


@given(
    st.binary(max_size=100) | st.binary(max_size=60).map(lambda body: len(body).to_bytes(4, "big") + body)
)
@example(b"\xff\xff\xff\xff")
@example((200_000).to_bytes(4, "big") + b"[" * 200_000)
@example(b"\0\0\0\2[]")
def test_any_bytes_from_whoever_has_the_socket(data: bytes) -> None:
    near, far = socket.socketpair()
    with far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        channel = Channel(socket.socket(fileno=near.detach()))
        try:
            while channel.receive() is not None:
                pass
        except ClientError as error:
            assert "\n" not in error.message  # noqa: PT017 -- either is right
        finally:
            channel.close()


@given(st.binary(max_size=60) | st.text('[]{}:,"\\u0d8ntrfalse+-.eE19 ', max_size=40).map(str.encode))
@example(b"[" * 200_000)
@example(b'{"a":' * 100_000)
@example(b'"\\ud800"')
def test_json_is_read_or_refused_as_json_does(text: bytes) -> None:
    try:
        value = jsonlite.decode(text)
    except ValueError:
        return
    assert repr(value) == repr(json.loads(text))  # NaN is not itself


def test_descriptors_of_a_broken_frame_are_closed() -> None:
    near, far = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    with far:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, far.fileno().to_bytes(4, "little") * 3)]
        far.sendmsg([b"\0\0\0\1{"], rights)
        channel = Channel(socket.socket(fileno=near.detach()))
        with pytest.raises(ClientError):
            channel.receive()
        assert before == len(os.listdir("/proc/self/fd"))
        channel.close()
