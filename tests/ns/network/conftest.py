"""Network namespaces for these tests, made and removed by iproute2, and a way to run Python inside them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

needed = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("slirp4netns") or not shutil.which("ip"),
    reason="needs root, slirp4netns and iproute2",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/ns/network/" in item.path.as_posix():
            item.add_marker(needed)


@pytest.fixture
def netns(tmp_path: Path) -> Iterator[str]:
    """The path of a fresh netns, pinned outside /run/netns."""
    with pinned_netns(tmp_path / "netns") as path:
        yield path


@contextmanager
def pinned_netns(path: Path) -> Iterator[str]:
    path.touch()
    subprocess.run(["unshare", f"--net={path}", "true"], check=True)
    try:
        yield str(path)
    finally:
        subprocess.run(["umount", str(path)], check=False, stderr=subprocess.DEVNULL)
        path.unlink(missing_ok=True)


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """For what no event of ours tells: the kernel's state, another process."""
    with trio.fail_after(seconds):
        while True:
            if condition():
                return
            await trio.sleep(0.005)


@pytest.fixture
def ip() -> Callable[..., str]:
    """`ip …` inside the netns → its output."""

    def run(netns: str, *words: str) -> str:
        command = ["nsenter", f"--net={netns}", "ip", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


@pytest.fixture
def inside() -> Callable[..., object]:
    """`await inside(netns, program, *args)` → stdout of a Python program that runs in the netns."""

    async def run(netns: str, program: str, *args: str, seconds: float = 10) -> str:
        command = ["nsenter", f"--net={netns}", sys.executable, "-I", "-S", "-c", program, *args]
        with trio.fail_after(seconds):
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        if done.returncode:
            raise AssertionError(done.stderr.decode())
        return done.stdout.decode().strip()

    return run


@pytest.fixture
async def echo_peer(nursery: trio.Nursery) -> int:
    """A TCP server on 127.0.0.1 of the host that answers with the peer's address; its port."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(str(stream.socket.getpeername()[0]).encode())
        await stream.aclose()

    listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    return int(listeners[0].socket.getsockname()[1])
