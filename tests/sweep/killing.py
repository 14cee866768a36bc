"""SIGKILL at a random moment of a run: a person's service, another container in the background, and a victim."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.cli.test_service import daemons
from tests.conftest import watched_folders
from tests.sweep.stage import in_words, look_inside
from tests.world import leaks
from tests.world.people import Person, Result

VICTIMS = ("service", "client", "init", "slirp4netns", "runtime", "plugin", "plugin at DEL")
BRIEF = ("runtime", "plugin", "plugin at DEL")  # awaited, and killed within milliseconds
NETWORKS = ("slirp", "bridge", "none")
PLUGINS = ("bridge", "host-local", "ptp", "portmap")
SETTLE_SECONDS = 10.0
Things = Counter[str]


class Scene:
    """`person` has an image `demo`; its service and a container `sibling` are brought up as often as need be."""

    def __init__(self, person: Person, chance: random.Random) -> None:
        self.person = person
        self._chance = chance
        self.hits: Counter[str] = Counter()

    def bring_up(self) -> None:
        """What the next start of a service does is done, too."""
        names = self.person.ctnr("ps", "--format", "{{.Names}}").ok.stdout.split()
        if "sibling" not in names:
            self.person.ctnr("rm", "-f", "sibling")
            self.person.ctnr("run", "-d", "--name=sibling", "--network=slirp", "demo", "sleep", "100000").ok  # noqa: B018
            self.person.ctnr("run", "--rm", "--network=bridge", "demo", "true").ok  # noqa: B018

    def look(self) -> Things:
        """Everything of this person's, and of the machine's, in words."""
        leaks.reap_strays({"process": {}})  # services come to us when they are dead
        folders = [*watched_folders(self.person.machine), self.person.runtime_dir]
        found = Counter(
            in_words(kind, text)
            for kind, things in leaks.snapshot(folders).items()
            for text in things.values()
        )
        for name in ("containers", "bundles"):
            with contextlib.suppress(FileNotFoundError):
                found[name] += len(os.listdir(self.person.store_dir / name))
        for init in self._pids_of("init"):
            with contextlib.suppress(OSError):
                found.update(look_inside(init, f"{self.person.runtime_dir}/sandbox"))
        return found

    def kept(self) -> Things:
        """What waits for the next start of the service: what is on record, and its files."""
        return Counter({"containers": 2, "bundles": 2, f"file {self.person.runtime_dir}/service.sock": 1})

    def expect(self, before: Things, when: str) -> None:
        """Raises: AssertionError if more is there than `before`, after a while."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while left := self.look() - before:
            assert time.monotonic() < deadline, f"{when}, these are left: {dict(left.most_common(20))}"
            time.sleep(0.02)

    def run_and_kill(self, victim: str) -> tuple[str, Result]:
        """Start a container, kill the victim at some moment of it, and wait for the client. Returns when it was."""
        network = self._chance.choice(NETWORKS if "plugin" not in victim else ("bridge",))
        argv = ["ctnr", "run", "--rm", f"--network={network}", "demo", "sleep", "0.05"]
        delay = self._chance.uniform(0, 0.004 if victim in BRIEF else 0.2)
        with self.person.popen(argv) as client:
            if victim in BRIEF:
                wanted = ("crun", "runc") if victim == "runtime" else PLUGINS
                command = {"runtime": b"", "plugin": b"ADD", "plugin at DEL": b"DEL"}[victim]
                target = _first(lambda: self._named(wanted, command), lambda: client.poll() is not None)
                time.sleep(delay)
                targets = [target] if target else []
            else:
                time.sleep(delay)
                targets = [client.pid] if victim == "client" else self._pids_of(victim)
            for pid in targets:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.hits[victim] += 1
            out, err = client.communicate(timeout=60)
        when = f"{victim} killed {delay * 1000:.1f} ms into a run with network {network}"
        return when, Result(tuple(argv), client.returncode, out.decode(), err.decode())

    def _pids_of(self, victim: str) -> list[int]:
        services = daemons(self.person)
        if victim == "service":
            return services
        below = [pid for service in services for pid in leaks.descendants(service)]
        if victim == "init":
            return [pid for pid in below if b"supervisor.sandbox.init" in _command(pid)][:1]
        slirps = [pid for pid in below if b"slirp4netns" in _command(pid)]
        return [self._chance.choice(slirps)] if slirps else []

    def _named(self, names: Iterable[str], command: bytes) -> int | None:
        """A program of one of these names; a plugin at work on that CNI command."""
        for service in daemons(self.person):
            for pid in leaks.descendants(service):
                with contextlib.suppress(OSError):
                    if (
                        Path(f"/proc/{pid}/comm").read_text().strip() in names
                        and _command_of(pid) == command
                    ):
                        return pid
        return None


def _first(find: Callable[[], int | None], is_over: Callable[[], bool]) -> int | None:
    while not is_over():
        if (found := find()) is not None:
            return found
    return None


def _command_of(pid: int) -> bytes:
    """CNI's, of a plugin; of another program b""."""
    for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if one.startswith(b"CNI_COMMAND="):
            return one.partition(b"=")[2]
    return b""


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def moments(count: int, chance: random.Random) -> Iterator[str]:
    """Victims, each about as often as the others."""
    for _ in range(count):
        yield chance.choice(VICTIMS)
