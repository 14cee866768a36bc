"""The programs in the documents, run as they stand there."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import images
from tests.world.machine import Machine
from tests.world.registry import Registry

DOCUMENT = Path(__file__).parents[3] / "docs" / "embedding.md"
WEB = ["web.py", "web_asyncio.py"]


def program(name: str, folder: Path) -> Path:
    """The one that begins with a comment of that name."""
    found = re.findall(rf"```python\n(# {re.escape(name)}\b.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(found) == 1, f"{name} is in the document {len(found)} times"
    path = folder / name
    path.write_text(found[0])
    return path


@pytest.fixture(scope="module")
def environment(machine: Machine, registry: Registry, alpine: str, busybox_rootfs: Path) -> dict[str, str]:
    """That of somebody with an empty store, and with a registry that has alpine:3.8 and redis:7."""
    redis = images.redis_image(machine.root / "redis", images.tar_folder(busybox_rootfs))
    registry.push(redis, "library/redis:7")
    home = machine.root / "documents"
    home.mkdir()
    return {**os.environ, "HOME": str(home), "CTNR_STORE_DIR": str(home / "store")}


def run(path: Path, *args: str, env: dict[str, str] | None = None) -> list[str]:
    done = subprocess.run(
        [sys.executable, path, *args], capture_output=True, text=True, timeout=90, check=False, env=env
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return [line for line in done.stdout.splitlines() if "[info" not in line and "[warning" not in line]


def test_bundle(bundle: Path, tmp_path: Path) -> None:
    first, page, address, status = run(program("bundle.py", tmp_path), str(bundle))
    assert re.fullmatch(r"published on \d+", first)
    assert (page, status) == ("root:x:0:0:root:/root:/bin/sh", "status 137")
    assert address == "10.0.2.100"


def test_database(environment: dict[str, str], tmp_path: Path) -> None:
    assert run(program("database.py", tmp_path), env=environment) == ["2 databases used, 0 left"]


def test_group(environment: dict[str, str], tmp_path: Path) -> None:
    restarts, failure = run(program("group.py", tmp_path), env=environment)
    assert restarts == "restarts: 1 1"
    assert failure == "container database ended with status 1; the group had its 3 restarts in 5 s"


class Site:
    """A web application that runs, and how one asks it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def post(self, script: str) -> tuple[str, bytes]:
        with contextlib.closing(self.connect()) as connection:
            connection.request("POST", "/", script)
            answer = connection.getresponse()
            return answer.headers["X-Status"], answer.read()

    def running(self) -> list[str]:
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", "/running")
            return list(json.loads(connection.getresponse().read()))

    def wait_running(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.running()) != count:
            assert time.monotonic() < deadline, self.running()
            time.sleep(0.05)


@pytest.fixture(params=WEB)
def site(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path, free_port: int
) -> Iterator[Site]:
    command = [sys.executable, program(request.param, tmp_path), str(free_port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                Site(free_port).running()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield Site(free_port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_a_container_per_request(site: Site) -> None:
    assert site.post("echo hello; exit 3") == ("3", b"hello\n")
    assert site.running() == []


def test_a_client_that_goes_takes_its_container_along(site: Site) -> None:
    connection = site.connect()
    connection.request("POST", "/", "sleep 1000")
    site.wait_running(1)
    connection.close()
    site.wait_running(0)
    assert site.post("echo on") == ("0", b"on\n")


def test_no_more_than_four_at_once(site: Site) -> None:
    answers: list[tuple[str, bytes]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(site.post("sleep 1; echo done"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    most = 0
    while len(answers) < 6 and any(thread.is_alive() for thread in threads):
        most = max(most, len(site.running()))
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert (most, answers) == (4, [("0", b"done\n")] * 6)


def test_stopping_the_server_ends_what_runs(environment: dict[str, str], site: Site) -> None:
    """The fixture sends SIGTERM: the block of the engine is left, and the leak guard looks."""
    connection = site.connect()
    connection.request("POST", "/", "sleep 1000")
    site.wait_running(1)
    connection.close()
