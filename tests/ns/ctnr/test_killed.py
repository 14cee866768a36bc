"""A program that is killed: the kernel ends its containers at once, the next engine removes what they wrote."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from ctnr import open_engine
from supervisor import open_supervisor
from supervisor.run_dir import PREFIX
from tests.ns.ctnr.conftest import left_in
from tests.world.leaks import descendants

PROGRAM = """
import sys, trio
from ctnr import open_engine

async def main(store, rootless):
    async with open_engine(store) as engine:
        script = "echo 1 >/file; exec sleep 1000"
        run = engine.run("demo", ["sh", "-c", script], networks=["slirp"], rootless=rootless == "userns", ready="log:x")
        async with run as container:
            print(container.id, flush=True)
            await container.wait()

trio.run(main, *sys.argv[1:])
"""


SUPERVISOR = """
import sys, trio
from supervisor import open_supervisor

async def main(kind):
    async with open_supervisor() as supervisor:
        await supervisor.realm(rootless=kind == "userns")
        print("up", flush=True)
        await trio.sleep_forever()

trio.run(main, *sys.argv[1:])
"""


@pytest.mark.parametrize("kind", ["plain", "userns"])
def test_a_killed_program(store: Path, kind: str) -> None:
    before, directories = set(descendants()), run_directories()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, store, kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        lines = [process.stdout.readline()]
        while not lines[-1].strip().isalnum():
            lines.append(process.stdout.readline())
        assert len(left_in(store)) == 2

        async def beside() -> None:
            async with open_engine(str(store)):
                assert len(left_in(store)) == 2  # one that lives is left alone

        trio.run(beside)
        assert len(run_directories() - directories) == 1
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_ended(before)

    async def main() -> None:
        async with open_engine(str(store)) as engine:
            assert left_in(store) == []
            again = await engine.run_process("demo", ["true"], networks=["slirp"], rootless=kind == "userns")
            assert again.status == 0  # and the journal of the host's network has been swept

    trio.run(main)
    assert run_directories() <= directories


@pytest.mark.parametrize("kind", ["plain", "userns"])
def test_a_killed_supervisor(kind: str) -> None:
    before, directories = set(descendants()), run_directories()
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        [own] = run_directories() - directories
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_ended(before)
    assert own in run_directories()

    async def main() -> None:
        async with open_supervisor() as opened:
            assert own not in run_directories()
            assert opened.run_dir in run_directories()
            await opened.realm(rootless=kind == "userns")

    trio.run(main)
    assert run_directories() <= directories
    assert not Path("/run/ctnr/journal").exists()


def run_directories() -> set[str]:
    return set(glob.glob(f"{tempfile.gettempdir()}/{PREFIX}*"))


def wait_ended(before: set[int]) -> None:
    """All that the program had started, by the kernel's doing."""
    deadline = time.monotonic() + 10
    while left := set(descendants()) - before:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # orphans come to us
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
