"""Whoever works on an image store is killed at every step, or finds the disk full: the store stays whole.

After each point nothing is wrong in it (image fsck), no image is there by half, no process is left, the same work
succeeds when it is done again, and then nothing unfinished is left either.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ctnr.images.fsck import check_store
from ctnr.images.garbage import collect_garbage
from ctnr.images.store import ImageStore
from supervisor.errors import SupervisorError
from supervisor.sandbox.sandbox import PACKAGES, Sandbox, open_sandbox
from tests.sweep.length import amount, covered, stride
from tests.sweep.victim import do
from tests.world.images import Entry, folder, layer, write_image
from tests.world.leaks import descendants
from tests.world.registry import Registry

STRIDES = {"pull": 60, "import": 14, "export": 4, "gc": 4, "repair": 60}
GONE_SECONDS = 5
NAME = "library/swept:1"


class Victims:
    """The program that is killed again and again."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep.victim"], cwd=PACKAGES, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.known: set[int] = set()

    def play(self, what: dict[str, Any], *, step: int = 0, kill_after: float | None = None) -> bool:
        """False if it was killed; `kill_after` seconds from the beginning of its work, or at a step of it."""
        assert self._process.stdin is not None
        self.known = self.known or set(descendants())
        request = {**what, "run_dir": str(self._run_dir), "step": step}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        kind, pid = self._line()
        assert kind == "pid", "the sandbox did not open"
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        kind, status = self._line()
        if os.WIFSIGNALED(int(status)):
            return False
        if int(status):
            self._process.kill()
            raise AssertionError(f"{what['op']} failed: {self._process.communicate()[1]}")
        return True

    def wait_gone(self, told: str) -> None:
        """Until all that the victim had started has ended with it. Raises: AssertionError."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := set(descendants()) - self.known:
            for pid in left:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)  # orphans come to pytest
            assert time.monotonic() < deadline, f"{told}, these processes are left: {left}"
            time.sleep(0.005)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        assert line, self._process.communicate()[1]
        return line


class Yard:
    """A store as it is before the work, its copies for the points, and what is done to them."""

    def __init__(self, top: Path, registry: Registry) -> None:
        self.top = top
        self.before = top / "before"
        self.root = top / "store"
        layers = [
            layer([folder(name), *(Entry(f"{name}/{n}", os.urandom(20_000)) for n in range(5))])
            for name in "abcd"
        ]
        layers.append(layer([Entry("low", hardlink="a/0")]))  # is unpacked in two runs
        registry.push(write_image(top / "layout", layers), NAME)
        self.rootfs = top / "rootfs"
        (self.rootfs / "bin").mkdir(parents=True)
        (self.rootfs / "bin/tool").write_bytes(os.urandom(300_000))

    def work(self, op: str) -> dict[str, Any]:
        """What a victim is asked to do."""
        return {
            "op": op, "root": str(self.root), "reference": "swept:1", "source": str(self.rootfs), "name": "imported:1",
            "destination": f"oci-archive:{self.top}/exported.tar",
        }  # fmt: skip

    async def prepare(self, op: str, sandbox: Sandbox) -> None:
        """The store as the work finds it: empty for what adds, else with two images (and damage, to be mended)."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.before, ignore_errors=True)
        store = ImageStore(str(self.root))
        if op in ("export", "gc", "repair"):
            for kind in ("pull", "import"):
                await do(self.work(kind), store, sandbox)
        if op == "repair":
            paths = store.get("swept:1").layer_paths
            shutil.rmtree(paths[0])
            (Path(paths[1]) / "planted").touch()
        self.root.mkdir(exist_ok=True)
        self.keep()

    def keep(self) -> None:
        subprocess.run(["cp", "-a", self.root, self.before], check=True)

    def reset(self) -> None:
        subprocess.run(["rm", "-rf", self.root], check=True)
        subprocess.run(["cp", "-a", self.before, self.root], check=True)

    async def expect_whole(self, told: str, sandbox: Sandbox, *, damaged: bool = False) -> None:
        """Raises: AssertionError if something is wrong in the store, or an image is there by half."""

        async def give() -> Sandbox:
            return sandbox

        store = ImageStore(str(self.root))
        verdict = await check_store(store, sandbox=give)
        assert damaged or not verdict.findings, f"{told}: {verdict.findings}"
        for row in [] if damaged else store.list():
            image = store.find(row.id)
            assert image is not None, f"{told}: image {row.id} is there by half"
            assert all(os.listdir(path) for path in image.layer_paths), told

    def expect_nothing_unfinished(self, told: str) -> None:
        left = [
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if path.name.startswith(".new-")
        ]
        left += [str(path.relative_to(self.root)) for path in self.root.glob("tmp/*")]
        left += [path.name for path in self.top.glob(".new-*")]
        assert not left, f"{told}, and done again after that, these are left: {left}"

    def temporary(self) -> set[str]:
        """What skopeo may leave outside of the store."""
        return {
            name
            for top in ("/var/tmp", "/tmp")
            for name in os.listdir(top)
            if "oci" in name or "container" in name
        }


@pytest.fixture
def yard(tmp_path: Path, registry: Registry) -> Yard:
    return Yard(tmp_path, registry)


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[Victims]:
    running = Victims(tmp_path / "victim")
    yield running
    running.close()


@asynccontextmanager
async def judging(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """The sandbox of whoever looks at the store afterwards."""
    (tmp_path / "judge").mkdir(exist_ok=True)
    async with open_sandbox(str(tmp_path / "judge"), rootless=False) as sandbox:
        yield sandbox


async def after_kill(yard: Yard, victims: Victims, op: str, told: str, sandbox: Sandbox) -> None:
    """What has to be true after each of them."""
    victims.wait_gone(told)
    await yard.expect_whole(told, sandbox, damaged=op == "repair")
    await do(yard.work(op), ImageStore(str(yard.root)), sandbox)
    await yard.expect_whole(f"{told}, and done again", sandbox)
    yard.expect_nothing_unfinished(told)


@pytest.mark.parametrize("op", STRIDES)
async def test_killed_at_every_step(yard: Yard, victims: Victims, tmp_path: Path, op: str) -> None:
    async with judging(tmp_path) as sandbox:
        await yard.prepare(op, sandbox)
        outside = yard.temporary()
        points, step = 0, 1
        while True:
            yard.reset()
            told = f"{op} killed at step {step}"
            if victims.play(yard.work(op), step=step):
                break
            await after_kill(yard, victims, op, told, sandbox)
            points += 1
            step += stride(STRIDES[op])
        assert not yard.temporary() - outside, f"{op}: skopeo's own are left: {yard.temporary() - outside}"
    covered(f"store: {op} killed at {points} steps")
    assert points > 1


@pytest.mark.parametrize("op", STRIDES)
async def test_killed_at_any_moment(yard: Yard, victims: Victims, tmp_path: Path, op: str) -> None:
    """Between two steps, too: while the extractor writes, a blob is hashed, skopeo copies."""
    points, tries = 0, amount(2, 60)
    async with judging(tmp_path) as sandbox:
        await yard.prepare(op, sandbox)
        started = time.monotonic()
        assert victims.play(yard.work(op))
        seconds = time.monotonic() - started
        chance = random.Random(op)
        while points < tries:
            yard.reset()
            moment = chance.uniform(0, seconds)
            if victims.play(yard.work(op), kill_after=moment):
                seconds *= 0.9  # it was done before
                continue
            await after_kill(yard, victims, op, f"{op} killed after {moment:.3f} s", sandbox)
            points += 1
    covered(f"store: {op} killed at {points} moments")


@contextmanager
def small_disk(at: Path) -> Iterator[Callable[[int], None]]:
    """A disk at `at`; what is given sets its size in bytes."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g,mode=755", "small", at], check=True)
    try:

        def resize(size: int) -> None:
            subprocess.run(["mount", "-o", f"remount,size={size}", at], check=True)

        yield resize
    finally:
        subprocess.run(["umount", at], check=True)


def used_bytes(at: Path) -> int:
    info = os.statvfs(at)
    return (info.f_blocks - info.f_bfree) * info.f_frsize


async def error_of(work: dict[str, Any], store: ImageStore, sandbox: Sandbox) -> SupervisorError | None:
    try:
        await do(work, store, sandbox)
    except SupervisorError as exc:
        return exc
    return None


@pytest.mark.parametrize("op", ["pull", "import", "export", "repair"])
async def test_a_disk_that_is_full_at_every_point(yard: Yard, tmp_path: Path, op: str) -> None:
    """One clear error, nothing unfinished, garbage can be collected, and with more room it works."""
    points = 0
    with small_disk(tmp_path / "disk") as resize:
        yard.root = tmp_path / "disk/store"
        work = {**yard.work(op), "destination": f"oci-archive:{tmp_path}/disk/exported.tar"}
        async with judging(tmp_path) as sandbox:

            async def give() -> Sandbox:
                return sandbox

            await yard.prepare(op, sandbox)
            store = ImageStore(str(yard.root))
            room = 4096
            while True:
                yard.reset()
                (tmp_path / "disk/exported.tar").unlink(missing_ok=True)
                told = f"{op} with {room} bytes of room"
                resize(used_bytes(tmp_path / "disk") + room)
                error = await error_of(work, store, sandbox)
                if error is None:
                    break
                assert "no space left" in error.message.lower() or "disk is full" in error.message, (
                    told,
                    error,
                )
                assert "\n" not in error.message, told
                assert error.cure, told
                points += 1
                yard.expect_nothing_unfinished(told)
                await collect_garbage(store, sandbox=give, used=tuple, every=op in ("pull", "import"))
                resize(1 << 30)
                await yard.expect_whole(told, sandbox, damaged=op == "repair")
                await do(work, store, sandbox)
                await yard.expect_whole(f"{told}, and done again with more", sandbox)
                room += 16384 * stride(20)
    covered(f"store: {op} with a full disk at {points} points")
    assert points
