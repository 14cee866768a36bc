"""The launcher script, and how little Python the quick commands load."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import ctnr

ROOT = Path(__file__).parents[4]
LAUNCHER = ROOT / "ctnr/bin/ctnr"
BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from ctnr.cli.main import entry; entry()"
# each of them costs a millisecond or more, and the budget of a whole exec is 15
TOO_SLOW = {
    "argparse", "collections", "dataclasses", "enum", "json", "os", "pathlib", "re", "shutil", "signal", "site",
    "socket", "subprocess", "typing",
}  # fmt: skip


@pytest.fixture
def service(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a client whose service lets every program end with status 9."""
    answers = ({"event": "started", "container": "c", "name": "n"}, {"event": "exited", "status": 9})
    bodies = [json.dumps(answer).encode() for answer in answers]

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                _, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 8)
                for number in descriptors:
                    os.close(number)
                connection.sendall(b"".join(len(body).to_bytes(4, "big") + body for body in bodies))
                while connection.recv(4096):
                    pass

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/service.sock")
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield {"CTNR_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("line", ["exec web true", "run --rm -e A=1 -v .:/src demo true"])
def test_quick_commands_load_next_to_nothing(line: str, service: dict[str, str]) -> None:
    command = [sys.executable, "-I", "-S", "-X", "importtime", "-c", BOOT, str(ROOT), *line.split()]
    done = subprocess.run(command, env=service, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    loaded = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "ctnr.client.session" in loaded
    assert not loaded & TOO_SLOW


def launch(
    launcher: Path | str, *words: str, env: dict[str, str], **how: object
) -> subprocess.CompletedProcess[str]:
    env = {**env, "CTNR_PYTHON": sys.executable}
    return subprocess.run([launcher, *words], env=env, capture_output=True, text=True, check=False, **how)  # type: ignore[call-overload, no-any-return]


def test_from_a_checkout(service: dict[str, str]) -> None:
    assert launch(LAUNCHER, "--version", env=service).stdout == f"ctnr {ctnr.__version__}\n"
    assert launch(LAUNCHER, "exec", "web", "a b", "", env=service).returncode == 9
    assert launch("./ctnr", "version", env=service, cwd=LAUNCHER.parent).returncode == 0


def test_through_a_link(service: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(LAUNCHER)
    assert launch(tmp_path / "link", "version", env=service).returncode == 0


def test_installed_beside_a_python(service: dict[str, str], tmp_path: Path) -> None:
    place = tmp_path / "a place"
    (place / "bin").mkdir(parents=True)
    packages = place / "lib/python3.99/site-packages"
    packages.mkdir(parents=True)
    (packages / "ctnr").symlink_to(ROOT / "ctnr")
    (place / "bin/ctnr").write_bytes(LAUNCHER.read_bytes())
    (place / "bin/ctnr").chmod(0o755)
    (place / "bin/python3").symlink_to(sys.executable)
    done = launch(place / "bin/ctnr", "version", "--format", "{{.client}}", env=service)
    assert (done.stdout, done.stderr) == (f"{ctnr.__version__}\n", "")


def test_closed_descriptors_are_not_mistaken(service: dict[str, str]) -> None:
    line = f"exec '{LAUNCHER}' exec -i web true <&- >&- 2>&-"
    assert launch("/bin/sh", "-c", line, env=service).returncode == 9
