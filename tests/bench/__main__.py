"""ctnr and rootless podman in pairs, on one machine, image and kernel, in one run; medians and their ratio.

Both use native overlay, crun and an image that is there; podman's cgroup manager is cgroupfs. Rounds alternate between
the two, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.world import images
from tests.world.leaks import descendants
from tests.world.machine import SUBID_COUNT, SUBID_START, enter_machine
from tests.world.people import Person
from tests.world.registry import Registry, docker_io_is

ROUNDS = 15
IDLE = 20
RUNNING = 50
RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """One line of the table: medians in `unit`, and what was aimed at (ctnr at most `budget` × podman)."""

    name: str
    podman: float
    ctnr: float
    budget: float
    unit: str = "ms"

    @property
    def ratio(self) -> float:
        return self.ctnr / self.podman


class Engine:
    """One of the two, as the ordinary user of the test machine."""

    def __init__(self, person: Person, program: str, env: dict[str, str]) -> None:
        self.name = program
        self._person = person
        self._program = shutil.which(program, path=person.env["PATH"]) or program
        own = {
            name: value
            for name, value in person.env.items()
            if program == "ctnr" or not name.startswith("CTNR_")
        }
        self._env = {**own, **env}

    def popen(self, *args: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._program, *args], env=self._env, cwd=self._person.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, user=self._person.uid, group=self._person.uid,
            extra_groups=[], start_new_session=True,
        )  # fmt: skip

    def do(self, *args: str) -> str:
        """Run it to its end. Raises: RuntimeError with what it said."""
        process = self.popen(*args)
        out, err = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.name} {' '.join(args)}: {err.decode(errors='replace')}")
        return out.decode()

    def total_pss(self) -> float:
        """KiB of every process of the person's, and of those in the person's user namespaces."""
        ours = (self._person.uid, *range(SUBID_START, SUBID_START + SUBID_COUNT))
        total = 0
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid in ours:
                    for line in (entry / "smaps_rollup").read_text().splitlines():
                        if line.startswith("Pss:"):
                            total += int(line.split()[1])
        return total

    def milliseconds(self, *args: str) -> float:
        start = time.perf_counter()
        self.do(*args)
        return (time.perf_counter() - start) * 1000


def pair(
    podman: Engine, ctnr: Engine, measure: Callable[[Engine], float], rounds: int = ROUNDS
) -> tuple[float, float]:
    """Medians of `measure`, alternating, after one round that does not count."""
    found: dict[str, list[float]] = {"podman": [], "ctnr": []}
    for number in range(rounds + 1):
        for engine in (podman, ctnr) if number % 2 else (ctnr, podman):
            value = measure(engine)
            if number:
                found[engine.name].append(value)
    return statistics.median(found["podman"]), statistics.median(found["ctnr"])


def slirp(engine: Engine) -> str:
    return "--network=slirp4netns" if engine.name == "podman" else "--network=slirp"


def measure_all(podman: Engine, ctnr: Engine, registry: Registry | None) -> Iterator[Row]:
    def both(
        name: str, budget: float, measure: Callable[[Engine], float], rounds: int = ROUNDS, unit: str = "ms"
    ) -> Row:
        row = Row(name, *pair(podman, ctnr, measure, rounds), budget, unit)
        print(
            f"{row.name:55} {row.podman:9.1f} {row.ctnr:9.1f} {row.unit:4} {row.ratio:6.2f} (aim {row.budget})",
            flush=True,
        )
        return row

    run = ("run", "--rm")
    yield both(
        "run --rm --network=none IMAGE true",
        0.4,
        lambda e: e.milliseconds(*run, "--network=none", "demo", "true"),
    )
    yield both("run --rm, slirp", 0.4, lambda e: e.milliseconds(*run, slirp(e), "demo", "true"))
    yield both(
        "run --rm, bridge", 0.45, lambda e: e.milliseconds(*run, "--network=bridge", "demo", "true"), 7
    )

    def detached(engine: Engine) -> float:
        taken = engine.milliseconds("run", "-d", "--name", "d", slirp(engine), "demo", "sleep", "1000")
        engine.do("rm", "-f", *(("-t0",) if engine.name == "podman" else ()), "d")
        return taken

    yield both("run -d, slirp", 0.7, detached)
    for engine in (podman, ctnr):
        engine.do("run", "-d", "--name", "x", slirp(engine), "demo", "sleep", "10000")
    yield both("exec NAME true", 0.3, lambda e: e.milliseconds("exec", "x", "true"))
    for engine in (podman, ctnr):
        engine.do("rm", "-f", *(("-t0",) if engine.name == "podman" else ()), "x")

    def ended(*args: str) -> Callable[[Engine], float]:
        def measure(engine: Engine) -> float:
            engine.do("run", "-d", "--name", "e", "--network=none", "demo", "sleep", "1000")
            zero = ("-t0",) if engine.name == "podman" or args[0] == "stop" else ()
            taken = engine.milliseconds(*args, *zero, "e")
            engine.do("rm", "-f", "e") if args[0] == "stop" else None
            return taken

        return measure

    yield both("stop -t0", 0.35, ended("stop"))
    yield both("rm -f", 0.35, ended("rm", "-f"))
    for engine in (podman, ctnr):
        start_many(engine, RUNNING)
    yield both(f"ps, {RUNNING} running", 0.8, lambda e: e.milliseconds("ps"))
    for engine in (podman, ctnr):
        remove_many(engine, RUNNING)
    yield both("50 × run --rm, slirp, 8 at a time", 0.45, fifty, 3)

    def first(engine: Engine) -> float:
        if engine.name == "ctnr":
            with contextlib.suppress(RuntimeError):
                engine.do("supervisor", "stop")
        return engine.milliseconds(*run, slirp(engine), "demo", "true")

    yield both("first run with no service up, slirp", 2.0, first, 7)
    yield both(f"PSS for each of {IDLE} idle containers, slirp", 0.8, pss_of_idle, 1, "KiB")
    if registry is not None:

        def pulled(engine: Engine) -> float:
            with contextlib.suppress(RuntimeError):
                engine.do("rmi", "-f", "docker.io/library/debian:3")
            policy = ("--image-policy=insecure",) if engine.name == "ctnr" else ()
            return engine.milliseconds("pull", *policy, "docker://docker.io/library/debian:3")

        yield both("pull and unpack of a 3-layer Debian image", 0.7, pulled, 3)


def start_many(engine: Engine, count: int) -> None:
    for number in range(count):
        engine.do("run", "-d", "--name", f"m{number}", slirp(engine), "demo", "sleep", "10000")


def remove_many(engine: Engine, count: int) -> None:
    names = [f"m{number}" for number in range(count)]
    engine.do("rm", "-f", *(("-t0",) if engine.name == "podman" else ()), *names)


def fifty(engine: Engine) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: engine.do("run", "--rm", slirp(engine), "demo", "true"), range(50)))
    return (time.perf_counter() - start) * 1000


def pss_of_idle(engine: Engine) -> float:
    """Proportional set size of all that the engine keeps for a container: its own processes, helpers and monitor."""
    before = engine.total_pss()
    start_many(engine, IDLE)
    time.sleep(1)
    after = engine.total_pss()
    remove_many(engine, IDLE)
    return (after - before) / IDLE


@contextlib.contextmanager
def plain_cgroups() -> Iterator[None]:
    """crun refuses hybrid cgroup hosts whose cgroup2 has controllers; podman has no way around that, so it is given one."""
    controllers = Path("/sys/fs/cgroup/unified/cgroup.controllers")
    if not controllers.exists() or not controllers.read_text().strip():
        yield
        return
    mounted = []
    for name in controllers.read_text().split():
        target = Path("/sys/fs/cgroup", name)
        target.mkdir(exist_ok=True)
        if (
            subprocess.run(["mount", "-t", "cgroup", "-o", name, name, str(target)], check=False).returncode
            == 0
        ):
            mounted.append(target)
    try:
        yield
    finally:
        for target in mounted:
            subprocess.run(["umount", str(target)], check=False)


def prepare(person: Person, rootfs: Path) -> tuple[Engine, Engine]:
    config = person.home / ".config" / "containers"
    config.mkdir(parents=True)
    (config / "storage.conf").write_text('[storage]\ndriver = "overlay"\n')
    (config / "containers.conf").write_text(
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\n'
    )
    (config / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    runtime_dir = Path("/run/user", str(person.uid))  # a short path: podman's sockets lie deep below it
    runtime_dir.mkdir(mode=0o700)
    subprocess.run(
        ["chown", "-R", f"{person.uid}:{person.uid}", str(person.home), str(runtime_dir)], check=True
    )
    podman = Engine(person, "podman", {"XDG_RUNTIME_DIR": str(runtime_dir)})
    ctnr = Engine(person, "ctnr", {})
    archive = person.home / "demo.tar"
    subprocess.run(["tar", "-C", str(rootfs), "-cf", str(archive), "."], check=True)
    archive.chmod(0o644)
    podman.do("import", str(archive), "demo")
    ctnr.do("image", "import", str(archive), "demo")
    return podman, ctnr


def report(rows: list[Row]) -> str:
    versions = [subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()[0]
                for name in ("podman", "crun", "slirp4netns")]  # fmt: skip
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`: ctnr (service warm unless it says otherwise) and rootless podman in pairs, in one run, as one",
        "ordinary user, with the same image, native overlay and crun. Medians; the ratio is what counts.",
        "",
        f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}; {'; '.join(versions)}.",
        "",
        "| | podman | ctnr | ratio | aim |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.podman:.0f} {row.unit} | {row.ctnr:.0f} {row.unit} | {row.ratio:.2f} × | ≤ {row.budget} × |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    machine = enter_machine()
    person = Person(machine, "user")
    registry = None
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(plain_cgroups())
            rootfs = images.busybox_rootfs(machine.root / "busybox-rootfs")
            podman, ctnr = prepare(person, rootfs)
            if "--quick" not in sys.argv:
                registry = Registry(machine.root / "registry")
                stack.callback(registry.close)
                stack.enter_context(docker_io_is(registry))
                registry.push(images.debian_image(machine.root / "debian", machine), "library/debian:3")
            rows = list(measure_all(podman, ctnr, registry))
        if "--quick" not in sys.argv:
            RESULTS.write_text(report(rows))
    finally:
        person.close()
        for pid in descendants():  # podman's pause process
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        machine.close()


if __name__ == "__main__":
    main()
