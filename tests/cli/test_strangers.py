"""A second user of the machine: neither the socket, nor the state, nor the logs of the first are within reach."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.world.machine import Machine
from tests.world.people import Person
from tests.world.registry import Registry

INSECURE = "--image-policy=insecure"

TRY = textwrap.dedent("""
    import json, os, socket, sys
    def attempt(what, *args):
        try:
            return repr(what(*args))[:200]
        except OSError as error:
            return error.strerror
    def ask(path):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(path)
            body = json.dumps({"op": "ps", "version": "x"}).encode()
            client.sendall(len(body).to_bytes(4, "big") + body)
            return client.recv(100)
    found = {}
    for path in sys.argv[1:]:
        found[path] = [attempt(ask, path)] if path.endswith(".sock") else [
            attempt(os.listdir, path), attempt(os.stat, path + "/x"), attempt(open, path),
            attempt(open, path + "/x", "w"),
        ]
    print(json.dumps(found))
""")


class Stranger:
    """Somebody with another uid and no groups, who has the same programs."""

    def __init__(self, machine: Machine) -> None:
        self._python = machine.python
        self._uid = machine.user_id + 1
        self._bin = machine.bin

    def run(self, *argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, user=self._uid, group=self._uid, extra_groups=[], capture_output=True, text=True, check=False,
            cwd="/", env={"PATH": f"{self._bin}:/usr/bin:/bin", "HOME": "/nonexistent", **(env or {})},
        )  # fmt: skip

    def tries(self, *paths: Path) -> dict[str, list[str]]:
        """What comes of looking at each path, of opening and of writing it, or of asking a socket."""
        done = self.run(str(self._python), "-c", TRY, *map(str, paths))
        assert done.returncode == 0, done.stderr
        answer: dict[str, list[str]] = json.loads(done.stdout)
        return answer


@pytest.fixture
def exposed(as_user: Person) -> Person:
    """Somebody whose home anybody may enter, as on many machines; what ctnr makes in it is all that is closed."""
    as_user.home.chmod(0o755)
    as_user.runtime_dir = as_user.home / "own"
    as_user.env["CTNR_RUNTIME_DIR"] = str(as_user.runtime_dir)
    return as_user


def test_nothing_of_ours_is_within_reach(
    exposed: Person, machine: Machine, registry: Registry, layered_image: Path
) -> None:
    registry.push(layered_image, "library/private:1")
    stranger = Stranger(machine)
    name = exposed.ctnr(
        "run", "-d", INSECURE, "docker://private:1", "sh", "-c", "echo secret; sleep 1000"
    ).ok.stdout.strip()
    assert "secret" in exposed.ctnr("logs", name).ok.stdout
    runtime, store = exposed.runtime_dir, exposed.store_dir
    [log] = store.glob("containers/*/*log")
    [setuid] = [path for path in store.glob("layers/*/setuid") if path.stat().st_mode & 0o4000]
    paths = [runtime, runtime / "service.sock", runtime / "service.log", runtime / "sandbox", store, store / "images",
             store / "containers", log.parent, log, setuid, store / "bundles", store / "names"]  # fmt: skip
    allowed = {"Permission denied", "Not a directory", "No such file or directory"}
    for path, told in stranger.tries(*paths).items():
        assert set(told) <= allowed, (path, told)
        assert "Permission denied" in told, (path, told)
    assert "Permission denied" in stranger.run("sh", "-c", f"exec {setuid}").stderr
    for pid in exposed.service_pids():
        told = stranger.tries(
            Path(f"/proc/{pid}/fd"), Path(f"/proc/{pid}/environ"), Path(f"/proc/{pid}/root")
        )
        assert {"Permission denied"} == {
            one[0 if path.endswith("fd") else 2] for path, one in told.items()
        }, told
    for command in (["ps"], ["exec", name, "id"], ["supervisor", "stop"]):
        done = stranger.run("ctnr", *command, env={
            "CTNR_RUNTIME_DIR": str(runtime), "CTNR_STORE_DIR": str(store)})  # fmt: skip
        assert 125 == done.returncode
        assert 1 == done.stderr.count("\n"), done.stderr
        assert "" == done.stdout
    assert name in exposed.ctnr("ps", "--no-trunc", "-q").ok.stdout
    exposed.ctnr("rm", "-f", name)


def test_whoever_gets_to_the_socket_is_not_answered(exposed: Person, machine: Machine) -> None:
    """The directory is the first wall, the socket's mode the second; the kernel's word for who it is the third."""
    assert "" == exposed.ctnr("ps", "-q").ok.stdout
    path = exposed.runtime_dir / "service.sock"
    exposed.runtime_dir.chmod(0o755)
    assert ["Permission denied"] == Stranger(machine).tries(path)[str(path)]
    path.chmod(0o666)
    [told] = Stranger(machine).tries(path)[str(path)]
    assert told in ("b''", "Connection reset by peer", "Broken pipe"), told
    exposed.runtime_dir.chmod(0o700)
    assert "" == exposed.ctnr("ps", "-q").ok.stdout


def test_a_directory_that_somebody_else_has_made_is_not_used(exposed: Person, machine: Machine) -> None:
    """In a directory of another's we would trust his socket."""
    exposed.runtime_dir.mkdir(mode=0o755)
    os.chown(exposed.runtime_dir, machine.user_id + 1, machine.user_id + 1)
    exposed.runtime_dir.chmod(0o777)
    done = exposed.ctnr("ps")
    os.chown(exposed.runtime_dir, exposed.uid, exposed.uid)
    exposed.runtime_dir.chmod(0o700)
    assert 125 == done.status, done
    assert str(exposed.runtime_dir) in done.stderr
    assert 1 == done.stderr.count("\n")


JUNK: list[Any] = [
    b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\0\0\0\x02{}", b"\0\0\0\x04null",
    b"\0\1\x86\xa0" + b"[" * 100_000,
    b"\0\0\0\x10" + b'{"version": 1e9}', b"\0\xff\xff\xff{", b"\0\0\0\x0c" + b'{"op": "\xff"}',
]  # fmt: skip


def test_the_service_outlives_broken_clients(exposed: Person) -> None:
    """The real one, over its real socket: the same process answers the next client."""
    assert "" == exposed.ctnr("ps", "-q").ok.stdout
    before = json.loads(exposed.ctnr("supervisor", "status", "--format", "json").ok.stdout)
    version = before["version"]
    good = json.dumps({"op": "ps", "version": version}).encode()
    frame = len(good).to_bytes(4, "big") + good
    for junk in (*JUNK, *(frame + one for one in JUNK)):
        for number in range(3):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(exposed.runtime_dir / "service.sock"))
                rights = [
                    (
                        socket.SOL_SOCKET,
                        socket.SCM_RIGHTS,
                        client.fileno().to_bytes(4, "little") * 8 * number,
                    )
                ]
                if junk:
                    client.sendmsg([junk], rights if number else [])
                client.shutdown(socket.SHUT_WR)
                client.settimeout(20)
                try:
                    while client.recv(1 << 16):
                        pass
                except ConnectionResetError:
                    pass
    after = json.loads(exposed.ctnr("supervisor", "status", "--format", "json").ok.stdout)
    assert before["pid"] == after["pid"]
