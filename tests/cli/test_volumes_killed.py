"""Volumes when the service ends in the middle, and when a new one finds what the last one has left."""

from __future__ import annotations

import contextlib
import os
import signal

from tests.cli.test_service import wait_until
from tests.cli.test_volumes import do, left_in, volumes
from tests.world.people import Person


def test_files_of_others_go_too(newcomer: Person) -> None:
    script = "mkdir -p /data/a/b && echo x > /data/a/b/c && chown -R 1000:50 /data && chmod 000 /data/a"
    do(newcomer, "run", "--rm", "--network=none", "-v", "data:/data", "demo", "sh", "-c", script)
    owner = (newcomer.store_dir / "volumes/data/_data").stat().st_uid
    assert owner == 1000 if newcomer.uid == 0 else owner > 65535, "a subordinate id"
    do(newcomer, "supervisor", "stop")
    assert do(newcomer, "volume", "rm", "data") == "data\n"
    assert left_in(newcomer) == []


def test_half_removed_volumes_go_with_the_next_service(newcomer: Person) -> None:
    """Killed between taking its name away and removing its files: they are not found any more, and swept."""
    script = "mkdir /data/a && touch /data/a/b && chown -R 1000:50 /data/a"
    do(newcomer, "run", "--rm", "--network=none", "-v", "data:/data", "demo", "sh", "-c", script)
    root = newcomer.store_dir / "volumes"
    (root / "data").rename(root / ".new-0123456789abcdef")
    lock = root / ".new-0123456789abcdef.lock"
    lock.touch()
    os.chown(lock, newcomer.uid, newcomer.uid)
    assert volumes(newcomer) == []
    do(newcomer, "supervisor", "stop")
    do(newcomer, "supervisor", "start")
    wait_until(lambda: left_in(newcomer) == [], "swept")


def test_a_service_that_is_killed_at_any_moment_leaves_whole_volumes(newcomer: Person) -> None:
    run = ["ctnr", "run", "--rm", "--network=none", "-v", "/scratch"]
    for number in range(6):
        with newcomer.popen(
            [*run, "-v", f"v{number}:/data", "demo", "touch", "/scratch/x", "/data/x"]
        ) as process:
            with contextlib.suppress(Exception):
                process.wait(0.02 + number * 0.03)
            for pid in newcomer.service_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(20)
        do(newcomer, "supervisor", "start")
        wait_until(lambda: volumes(newcomer, "anonymous=true") == [], "forgotten with its container")
    assert all((newcomer.store_dir / f"volumes/{name}/_data").is_dir() for name in volumes(newcomer))
    wait_until(lambda: not [name for name in left_in(newcomer) if name.startswith(".")], "swept")
    do(newcomer, *run[1:], "demo", "true")
