"""The service: started by whoever needs it, one for each user, and survived."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.world.machine import Machine
from tests.world.people import Person


def daemons(person: Person) -> list[int]:
    found = []
    for pid in person.service_pids():
        with contextlib.suppress(OSError):  # it has just ended
            if b"ctnr.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_started_once_and_stopped(newcomer: Person) -> None:
    assert len(daemons(newcomer)) == 1
    assert "running: yes" in newcomer.ctnr("supervisor", "status").ok.stdout
    assert json.loads(newcomer.ctnr("supervisor", "status", "--format=json").ok.stdout)["containers"] == 0
    newcomer.ctnr("run", "-d", "--name=x", "demo", "sleep", "1000").ok  # noqa: B018
    refused = newcomer.ctnr("supervisor", "stop")
    assert refused.status == 125
    assert "containers are running: x" in refused.stderr
    newcomer.ctnr("supervisor", "stop", "--force").ok  # noqa: B018
    wait_until(lambda: not newcomer.service_pids(), "something of the service is left")


def test_many_first_commands_start_one_service(newcomer: Person) -> None:
    newcomer.ctnr("supervisor", "stop").ok  # noqa: B018
    wait_until(lambda: not daemons(newcomer), "it has not stopped")
    started = [newcomer.popen(["ctnr", "ps"]) for _ in range(6)]
    for process in started:
        with process:
            assert process.wait(20) == 0
    assert len(daemons(newcomer)) == 1


def test_idle_it_ends(newcomer: Person) -> None:
    newcomer.ctnr("supervisor", "stop").ok  # noqa: B018
    newcomer.ctnr("run", "--rm", "demo", "true", env={"CTNR_IDLE_SECONDS": "0.3"}).ok  # noqa: B018
    wait_until(lambda: not newcomer.service_pids(), "idle, it stays")


def test_killed_in_the_middle(newcomer: Person) -> None:
    """The leak guard looks for what is left of the containers of the killed service."""
    newcomer.ctnr("run", "-d", "--name=back", "--network=slirp", "demo", "sleep", "1000").ok  # noqa: B018
    with newcomer.pty("run", "--name=lost", "-ti", "--network=slirp", "demo", "sh") as terminal:
        before = terminal.mode()
        terminal.expect("# ")
        for pid in daemons(newcomer):
            os.kill(pid, 9)
        assert terminal.wait() == 125
        assert "ctnr: the service ended" in terminal.text
        assert before == terminal.mode()
    wait_until(lambda: not newcomer.service_pids(), "something outlives the service")
    assert newcomer.ctnr("run", "--rm", "demo", "echo", "again").ok.stdout == "again\n"
    listed = newcomer.ctnr("ps", "-a").ok.stdout
    assert "Up" not in listed
    assert "back" in listed
    newcomer.ctnr("start", "back").ok  # noqa: B018
    assert newcomer.ctnr("exec", "back", "echo", "here").ok.stdout == "here\n"
    newcomer.ctnr("rm", "-f", "back", "lost").ok  # noqa: B018


def test_the_socket_is_the_users_own(newcomer: Person) -> None:
    path = newcomer.runtime_dir / "service.sock"
    if not path.exists():
        path = next(newcomer.runtime_dir.glob("*/service.sock"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.stat().st_uid == newcomer.uid


def test_nonsense_on_the_socket_hurts_nobody(newcomer: Person, machine: Machine) -> None:
    path = next(newcomer.runtime_dir.rglob("service.sock"))
    for data in (
        b"",
        b"\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\4oops",
        b"\0\0\0\2{}",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(5)
            with contextlib.suppress(ConnectionResetError):  # hung up on before all was read
                while client.recv(4096):
                    pass
    assert newcomer.ctnr("run", "--rm", "demo", "echo", "fine").ok.stdout == "fine\n"


def test_another_version_is_told(newcomer: Person) -> None:
    path = next(newcomer.runtime_dir.rglob("service.sock"))
    newcomer.ctnr("run", "-d", "--name=x", "demo", "sleep", "1000").ok  # noqa: B018
    body = b'{"op": "ps", "version": "0.0.0"}'
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(len(body).to_bytes(4, "big") + body)
        answer = client.recv(65536)
    event = json.loads(answer[4:])
    assert (event["event"], event["restart"]) == ("error", False)
    newcomer.ctnr("rm", "-f", "x").ok  # noqa: B018
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(len(body).to_bytes(4, "big") + body)
        event = json.loads(client.recv(65536)[4:])
    assert event["restart"] is True
    wait_until(lambda: not newcomer.service_pids(), "an idle service of another version stays")
