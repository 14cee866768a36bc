"""The client as people meet it: the whole process on a terminal, with a service that starts real programs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
MAIN = f"import sys; sys.path.append({str(ROOT)!r}); from ctnr.cli.main import entry; entry()"
# what a shell with job control does: a process group for the command, in the foreground of the terminal
SHELL = """
import os, signal
if child := os.fork():
    os.setpgid(child, child)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, child)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os.setpgid(0, 0)
"""
SECONDS = 15.0


class PtyService:
    """Runs what `run` and `exec` ask for, on a pty with -t, else on the client's own descriptors."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.frames: list[dict[str, Any]] = []  # what came after the request
        self.hung_up = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{directory}/service.sock")
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
            self._threads[-1].start()

    def _answer(self, connection: socket.socket) -> None:
        data, descriptors, _, _ = socket.recv_fds(connection, 65536, 8)
        request = json.loads(data[4:])
        if request.get("tty"):
            master, slave = pty.openpty()
            if size := request.get("terminal"):
                fcntl.ioctl(
                    slave, termios.TIOCSWINSZ, struct.pack("HHHH", size["rows"], size["columns"], 0, 0)
                )
            started = (master,)
        else:
            master, slave, started = -1, -1, ()
        streams = [slave] * 3 if request.get("tty") else descriptors
        program = subprocess.Popen(
            request["args"], stdin=streams[0], stdout=streams[1], stderr=streams[2], start_new_session=True,
        )  # fmt: skip
        for number in {*descriptors, *([slave] if slave >= 0 else [])}:
            os.close(number)
        say(connection, started, event="started", container="c" * 64, name="web")
        reader = threading.Thread(target=self._read, args=(connection, program))
        reader.start()
        status = program.wait()
        with contextlib.suppress(OSError):
            say(connection, event="exited", status=status if status >= 0 else 128 - status)
            connection.shutdown(socket.SHUT_RDWR)
        reader.join(SECONDS)
        connection.close()
        if master >= 0:
            os.close(master)

    def _read(self, connection: socket.socket, program: subprocess.Popen[bytes]) -> None:
        while header := connection.recv(4):
            frame = json.loads(connection.recv(int.from_bytes(header, "big")))
            self.frames.append(frame)
            if frame["op"] == "signal":
                program.send_signal(frame["signal"])
            else:
                say(connection, event="result", value=None)
        self.hung_up.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)  # what it has started, too


def say(connection: socket.socket, descriptors: tuple[int, ...] = (), **event: Any) -> None:
    body = json.dumps(event).encode()
    socket.send_fds(connection, [len(body).to_bytes(4, "big") + body], descriptors)


class Person:
    """A terminal with the client on it, started by a shell's stand-in: the terminal is its controlling one."""

    def __init__(self, service: PtyService, *args: str, job: bool = False, **streams: Any) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(30, 90)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        streams = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave, **streams}
        main = f"{SHELL}{MAIN}" if job else MAIN
        become = f"import fcntl, termios; fcntl.ioctl({self.slave}, termios.TIOCSCTTY, 0); {main}"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", become, *args], start_new_session=True, pass_fds=(self.slave,),
            env={"CTNR_RUNTIME_DIR": str(service.directory), "HOME": "/", "TERM": "xterm", "PATH": os.environ["PATH"]},
            **streams,
        )  # fmt: skip

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, text: bytes) -> None:
        wait_until(
            lambda: self._look() and text in self.seen, lambda: f"{text!r} not in {self.seen[-2000:]!r}"
        )

    def end(self) -> int:
        """Its exit status, once the terminal is as it was."""
        wait_until(
            lambda: self._look() and self.process.poll() is not None, lambda: f"runs: {self.seen[-2000:]!r}"
        )
        self._look()
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.wait()

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def _look(self) -> bool:
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65536)
        return True


def wait_until(condition: Callable[[], bool], describe: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.005)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[PtyService]:
    tmp_path.chmod(0o700)
    running = PtyService(tmp_path)
    yield running
    running.close()


Start = Callable[..., Person]


@pytest.fixture
def start(service: PtyService) -> Iterator[Start]:
    people: list[Person] = []

    def begin(*args: str, **streams: Any) -> Person:
        people.append(Person(service, *args, **streams))
        return people[-1]

    yield begin
    for person in people:
        person.close()


def shell(script: str) -> list[str]:
    return ["exec", "-ti", "web", "sh", "-c", script]


def test_typing_size_and_status(start: Start) -> None:
    person = start(*shell("stty size; read line; echo got $line; read more; exit 3"))
    person.expect(b"30 90\r\n")
    assert person.is_raw
    person.type(b"hello\r")
    person.expect(b"got hello\r\n")
    person.type(b"\r")
    assert person.end() == 3


def test_a_resize_reaches_the_program(start: Start) -> None:
    person = start(*shell("while :; do stty size; sleep 0.05; done"))
    person.expect(b"30 90\r\n")
    person.resize(41, 77)
    person.process.send_signal(signal.SIGWINCH)
    person.expect(b"41 77\r\n")
    person.process.send_signal(signal.SIGTERM)
    assert person.end() == 128 + 15


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_ends_it_and_restores_the_terminal(service: PtyService, start: Start, number: int) -> None:
    person = start(*shell("echo up; sleep 100"))
    person.expect(b"up\r\n")
    person.process.send_signal(number)
    assert person.end() == 128 + number
    assert service.hung_up.is_set()  # the client has waited for the service to have cleaned up


def test_stopped_and_continued(start: Start) -> None:
    person = start(*shell("echo up; read line; echo got $line; exit 5"), job=True)
    person.expect(b"up\r\n")
    client = int(Path(f"/proc/{person.process.pid}/task/{person.process.pid}/children").read_text())
    os.kill(client, signal.SIGTSTP)
    wait_until(lambda: _state(client) == "T", lambda: "not stopped")
    assert not person.is_raw
    os.kill(client, signal.SIGCONT)
    wait_until(lambda: person.is_raw, lambda: "not raw again")
    person.type(b"hello\r")
    person.expect(b"got hello\r\n")
    assert person.end() == 5


def test_a_stop_that_the_kernel_refuses(start: Start) -> None:
    """Without a shell above it there is nobody to continue it."""
    person = start(*shell("echo up; read line; exit 6"))
    person.expect(b"up\r\n")
    person.process.send_signal(signal.SIGTSTP)
    person.process.send_signal(signal.SIGCONT)
    wait_until(lambda: person.is_raw, lambda: "not raw")
    person.type(b"hello\r")
    assert person.end() == 6


def test_detach_keys_leave_it_running(service: PtyService, start: Start) -> None:
    person = start("run", "-ti", "image", *shell("echo up; sleep 100")[3:])
    person.expect(b"up\r\n")
    person.type(b"\x10\x11")
    assert person.end() == 0
    assert service.frames == [{"op": "detach"}]
    person.expect(b"ctnr attach web")


def test_without_detach_keys_all_is_typed(start: Start) -> None:
    person = start(
        "exec", "-ti", "--detach-keys=", *shell("stty raw -echo; echo up; head -c 3 | od -c; exit 4")[2:]
    )
    person.expect(b"up")
    person.type(b"\x10\x11x")
    person.expect(b"020 021   x")
    assert person.end() == 4


def test_much_in_both_directions_at_once(start: Start) -> None:
    """A paste that nobody reads until it is all written, echoed as it comes."""
    size = 300_000
    person = start(*shell(f"stty raw -echo; echo up; head -c {size} | tee /dev/stderr | cksum"))
    person.expect(b"up")
    pending = memoryview(b"0123456789" * (size // 10))
    os.set_blocking(person.master, False)
    wait_from = time.monotonic()
    while pending:
        assert time.monotonic() - wait_from < SECONDS
        with contextlib.suppress(BlockingIOError):
            pending = pending[os.write(person.master, pending[:4096]) :]
        person._look()
    person.expect(f" {size}".encode())
    assert person.end() == 0
    assert person.seen.count(b"0123456789") == size // 10


def test_output_at_the_very_end_is_not_lost(start: Start) -> None:
    person = start(*shell("seq 20000"))
    assert person.end() == 0
    assert person.seen.endswith(b"19999\r\n20000\r\n")
    assert person.seen.count(b"\n") == 20000


@pytest.mark.parametrize(("typed", "lines"), [(b"one\ntwo\n", b"2"), (b"one\ntwo", b"1"), (b"", b"0")])
def test_piped_input_ends_with_the_pipe(start: Start, typed: bytes, lines: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, typed)
    os.close(writing)
    person = start(*shell("stty -echo; cat | wc -l"), stdin=reading)
    os.close(reading)
    person.expect(lines + b"\r")
    assert person.end() == 0


def test_nobody_reads_the_output(start: Start) -> None:
    reading, writing = os.pipe()
    person = start(*shell("echo up; sleep 0.1; yes"), stdout=writing)
    os.close(writing)
    assert os.read(reading, 2) == b"up"
    os.close(reading)
    assert person.end() == 128 + 13
    assert person.seen == b""


def test_without_a_terminal_signals_are_passed_on(service: PtyService, start: Start) -> None:
    reading, writing = os.pipe()
    script = "trap 'echo int' INT; trap 'exit 9' USR1; echo up; while :; do sleep 0.02; done"
    person = start("exec", "web", "sh", "-c", script, stdout=writing)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as output:
        assert output.readline() == b"up\n"
        wait_until(lambda: _catches(person.process.pid, signal.SIGUSR1), lambda: "no handlers")
        person.type(b"\x03")  # the terminal is not raw: Ctrl-C is a signal
        assert output.readline() == b"int\n"
        person.process.send_signal(signal.SIGUSR1)
        assert person.end() == 9
    assert [frame["signal"] for frame in service.frames] == [2, 10]


def test_the_third_ctrl_c_is_for_us(service: PtyService, start: Start) -> None:
    person = start("exec", "web", "sh", "-c", "trap '' INT; echo up; sleep 100")
    person.expect(b"up\r\n")
    wait_until(lambda: _catches(person.process.pid, signal.SIGUSR1), lambda: "no handlers")
    for count in (1, 2):
        person.type(b"\x03")
        wait_until(lambda count=count: len(service.frames) == count, lambda: f"{service.frames}")  # type: ignore[misc]
    person.type(b"\x03")
    assert person.end() == 130
    assert b"once more" in person.seen


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _catches(pid: int, number: int) -> bool:
    caught = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
    )
    return bool(int(caught.split()[1], 16) & 1 << (number - 1))


def test_signals_that_are_not_passed_on(service: PtyService, start: Start) -> None:
    person = start("run", "-t", "--sig-proxy=false", "image", "sh", "-c", "trap '' INT; echo up; sleep 100")
    person.expect(b"up\r\r\n")
    person.type(b"\x03")
    assert person.end() == 130
    assert service.frames == []
