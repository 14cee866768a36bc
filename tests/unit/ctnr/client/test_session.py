"""Conversations with a service that restarts, vanishes, asks for patience, or hands out a terminal."""

from __future__ import annotations

import json
import os
import pty
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from ctnr.client import session
from ctnr.client.connect import Service
from ctnr.client.errors import ClientError, Interrupted
from ctnr.client.frames import Channel
from ctnr.client.session import Conversation, ask, deliver
from ctnr.client.tty import DetachKeys, Terminal

Script = Callable[["Peer"], None]


class Peer:
    """The service's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def read(self) -> Any:
        header = self.connection.recv(4)
        return json.loads(self.connection.recv(int.from_bytes(header, "big"))) if header else None

    def say(self, *descriptors: int, **event: Any) -> None:
        body = json.dumps(event).encode()
        socket.send_fds(self.connection, [len(body).to_bytes(4, "big") + body], descriptors)


class Scripted:
    """Each connection is played by the next script, in a thread."""

    log_file = "service.log"

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self._threads: list[threading.Thread] = []

    def open(self) -> Channel:
        near, far = socket.socketpair()
        script = self.scripts.pop(0)

        def play() -> None:
            with far:
                script(Peer(far))

        self._threads.append(threading.Thread(target=play))
        self._threads[-1].start()
        return Channel(socket.socket(fileno=near.detach()))

    def connect(self) -> Channel | None:
        return self.open() if self.scripts else None

    def failure(self) -> Exception | None:
        return None

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    scripted = Scripted()
    yield cast("Service", scripted)
    scripted.join()


def play(service: Service, *scripts: Script) -> None:
    cast("Scripted", service).scripts += scripts


def answer(peer: Peer) -> None:
    peer.say(event="message", text="wait")
    peer.say(event="result", value=peer.read())


def test_ask(service: Service) -> None:
    play(service, answer)
    told: list[Any] = []
    assert ask(service, {"op": "ps"}, tell=told.append) == {"op": "ps"}
    assert told == [{"event": "message", "text": "wait"}]


def test_ask_nobody(service: Service) -> None:
    assert ask(service, {"op": "ps"}, start=False) is None


def test_an_idle_service_of_another_version_is_replaced(service: Service) -> None:
    def refuse(peer: Peer) -> None:
        peer.read()
        peer.say(event="error", message="other version", restart=True)

    play(service, refuse, answer)
    assert ask(service, {"op": "ps"}) == {"op": "ps"}
    play(service, refuse, refuse, refuse, refuse)
    with pytest.raises(ClientError, match="other version"):
        ask(service, {"op": "ps"})


def test_a_service_that_ends_as_we_call_is_called_again(service: Service) -> None:
    def reset(peer: Peer) -> None:
        """Closing with unread data resets the connection."""
        while not peer.connection.recv(1, socket.MSG_PEEK):
            pass

    play(service, reset, answer)
    assert ask(service, {"op": "ps"}) == {"op": "ps"}


def test_a_service_that_ends_under_us_is_not(service: Service) -> None:
    def vanish(peer: Peer) -> None:
        peer.read()
        peer.say(event="message", text="begun")

    play(service, vanish)
    with pytest.raises(ClientError, match="the service ended before it answered"):
        ask(service, {"op": "run"})


def test_errors_keep_their_words(service: Service) -> None:
    def fail(peer: Peer) -> None:
        peer.read()
        peer.say(event="error", message="no", cure="yes", status=126, traceback="deep")

    play(service, fail)
    with pytest.raises(ClientError) as caught:
        ask(service, {"op": "run"})
    error = caught.value
    assert (error.message, error.cure, error.exit_status, error.remote_traceback) == (
        "no",
        "yes",
        126,
        "deep",
    )


def test_hanging_up_waits_for_the_cleanup(service: Service) -> None:
    cleaned = threading.Event()

    def clean(peer: Peer) -> None:
        assert peer.read() == {"op": "run"}
        peer.say(event="started")
        assert peer.read() is None
        peer.say(event="message", text="cleaning")
        cleaned.set()

    play(service, clean)
    conversation = Conversation(service, {"op": "run"})
    conversation.receive()
    conversation.close()
    assert cleaned.is_set()


def test_the_third_impatient_signal_ends_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    heard: list[Any] = []

    def listen(peer: Peer) -> None:
        while (frame := peer.read()) is not None:
            heard.append(frame)

    play(service, listen)
    conversation = Conversation(service, {"op": "run"})
    told: list[Any] = []
    counter: list[float] = []
    deliver(conversation, 2, told.append, counter)
    now[0] += session.IMPATIENT_SECONDS + 1  # that was long ago
    deliver(conversation, 2, told.append, counter)
    deliver(conversation, 10, told.append, counter)
    assert told == []
    deliver(conversation, 2, told.append, counter)
    assert len(told) == 1
    with pytest.raises(Interrupted) as caught:
        deliver(conversation, 15, told.append, counter)
    assert caught.value.number == 15
    conversation.close()
    assert [frame.get("signal") for frame in heard] == [None, 2, 2, 10, 2, 15]


def test_a_terminal_is_copied_both_ways_to_its_end(service: Service) -> None:
    """Not on a terminal of ours: what is piped in is typed, and the end of input is ^D."""
    master, slave = pty.openpty()
    typed, typing = os.pipe()
    shown, showing = os.pipe()
    os.write(typing, b"hello\n")
    os.close(typing)

    def echo(peer: Peer) -> None:
        peer.read()
        peer.say(master, event="started")
        os.close(master)
        with os.fdopen(slave, "r+b", buffering=0) as program:
            lines = [program.read(100), program.read(100)]
            program.write(b"got %r" % lines)
        peer.say(event="exited", status=5)

    play(service, echo)
    conversation = Conversation(service, {"op": "run"})
    _, ends = conversation.receive()
    saved = os.dup(0), os.dup(1)
    os.dup2(typed, 0)
    os.dup2(showing, 1)
    try:
        terminal = Terminal(
            ends,
            conversation,
            lambda event: None,
            is_tty=True,
            interactive=True,
            detach_keys="ctrl-p,ctrl-q",
        )
        try:
            status = terminal.run()
        finally:
            terminal.close()
    finally:
        os.dup2(saved[0], 0)
        os.dup2(saved[1], 1)
        for number in (*saved, typed, showing):
            os.close(number)
    conversation.close()
    with os.fdopen(shown, "rb") as screen:
        assert screen.read() == b"hello\r\ngot [b'hello\\n', b'']"
    assert status == 5


@pytest.mark.parametrize(
    ("keys", "pieces", "passed", "detached"),
    [
        ("ctrl-p,ctrl-q", [b"ab\x10\x11cd"], b"ab", True),
        ("ctrl-p,ctrl-q", [b"a\x10", b"\x11"], b"a", True),
        ("ctrl-p,ctrl-q", [b"a\x10", b"b"], b"a\x10b", False),
        ("ctrl-p,ctrl-q", [b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ("ctrl-p,ctrl-q", [b"\x10"], b"", False),
        ("a,b,a,c", [b"aba", b"bac"], b"ab", True),
        ("ctrl-\\", [b"x\x1c"], b"x", True),
        ("CTRL-@,~", [b"\x00~"], b"", True),
        ("", [b"\x10\x11"], b"\x10\x11", False),
    ],
)
def test_detach_keys(keys: str, pieces: list[bytes], passed: bytes, detached: bool) -> None:
    finder = DetachKeys(keys)
    got = [finder.feed(piece) for piece in pieces]
    assert b"".join(data for data, _ in got) == passed
    assert got[-1][1] is detached


@pytest.mark.parametrize("keys", ["ctrl-", "ctrl-pq", "pq", "ctrl-p,", "ü", "ctrl-1"])
def test_what_is_no_key(keys: str) -> None:
    with pytest.raises(ClientError, match="is no key"):
        DetachKeys(keys)
