"""A program that is killed: the kernel ends its containers at once, the next engine removes what they wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from ctnr import open_engine
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


@pytest.mark.parametrize("kind", ["plain", "userns"])
def test_a_killed_program(store: Path, kind: str) -> None:
    before = set(descendants())
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
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_ended(before)

    async def main() -> None:
        async with open_engine(str(store)) as engine:
            assert left_in(store) == []
            again = await engine.run_process("demo", ["true"], networks=["slirp"], rootless=kind == "userns")
            assert again.status == 0  # and the journal of the host's network has been swept

    trio.run(main)


def wait_ended(before: set[int]) -> None:
    """All that the program had started, by the kernel's doing."""
    deadline = time.monotonic() + 10
    while left := set(descendants()) - before:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # orphans come to us
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
