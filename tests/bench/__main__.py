"""ctnr and rootless podman in pairs, on one machine, image and kernel, in one run; medians and their ratio.

Both use native overlay, crun and an image that is there; podman's cgroup manager is cgroupfs. Rounds alternate between
the two, so that whatever else the machine does meets both. Words on the command line choose tables (life, memory, output,
traffic, pull, steps); without any, all are measured and docs/benchmarks.md is written.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench import life, memory, output, traffic
from tests.bench.pairs import Engine, Pair, Row
from tests.bench.report import write_report
from tests.bench.steps import measure_steps
from tests.world import images
from tests.world.internet import Internet
from tests.world.leaks import descendants
from tests.world.machine import enter_machine
from tests.world.people import Person
from tests.world.registry import Registry, docker_io_is

TITLES = {
    "life": "Commands",
    "pull": "Images",
    "memory": "Memory",
    "output": "Output",
    "traffic": "Networks",
}


@contextlib.contextmanager
def plain_cgroups() -> Iterator[None]:
    """crun refuses hybrid cgroup hosts whose cgroup2 has controllers; podman has no way around that: it is given one."""
    controllers = Path("/sys/fs/cgroup/unified/cgroup.controllers")
    if not controllers.exists() or not controllers.read_text().strip():
        yield
        return
    mounted = []
    for name in controllers.read_text().split():
        target = Path("/sys/fs/cgroup", name)
        target.mkdir(exist_ok=True)
        mount = ["mount", "-t", "cgroup", "-o", name, name, str(target)]
        if subprocess.run(mount, check=False).returncode == 0:
            mounted.append(target)
    try:
        yield
    finally:
        for target in mounted:
            subprocess.run(["umount", str(target)], check=False)


def prepare(person: Person, rootfs: Path) -> Pair:
    """Both configured, with the images `demo` (busybox) and `traffic` (iperf3 as well)."""
    config = person.home / ".config" / "containers"
    config.mkdir(parents=True)
    (config / "storage.conf").write_text('[storage]\ndriver = "overlay"\n')
    (config / "containers.conf").write_text(
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\n'
        "[containers]\nkeyring = false\n"  # a user may have 200
    )
    (config / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    runtime_dir = Path("/run/user", str(person.uid))  # a short path: podman's sockets lie deep below it
    runtime_dir.mkdir(mode=0o700)
    subprocess.run(
        ["chown", "-R", f"{person.uid}:{person.uid}", str(person.home), str(runtime_dir)], check=True
    )
    pair = Pair(Engine(person, "podman", {"XDG_RUNTIME_DIR": str(runtime_dir)}), Engine(person, "ctnr", {}))
    for name in ("demo", "traffic"):
        if name == "traffic":
            traffic.add_iperf3(rootfs)
        archive = person.home / f"{name}.tar"
        subprocess.run(["tar", "-C", str(rootfs), "-cf", str(archive), "."], check=True)
        archive.chmod(0o644)
        pair.podman.do("import", str(archive), name)
        pair.ctnr.do("image", "import", str(archive), name)
    return pair


def main() -> None:
    wanted = sys.argv[1:] or [*TITLES, "steps"]
    if unknown := set(wanted) - {*TITLES, "steps"}:
        sys.exit(f"bench: no such table: {' '.join(unknown)}; there are: {' '.join([*TITLES, 'steps'])}")
    machine = enter_machine()
    person = Person(machine, "user")
    tables: dict[str, list[Row]] = {}
    steps: list[tuple[str, float]] = []
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(plain_cgroups())
            stack.callback(Internet().close)  # pasta wants a host with a default route
            rootfs = images.busybox_rootfs(machine.root / "busybox-rootfs")
            pair = prepare(person, rootfs)
            for name, rows in (
                ("life", life.rows), ("memory", memory.rows), ("output", output.rows), ("traffic", traffic.rows),
            ):  # fmt: skip
                if name in wanted:
                    tables[TITLES[name]] = list(rows(pair))
            if "pull" in wanted:
                registry = Registry(machine.root / "registry")
                stack.callback(registry.close)
                stack.enter_context(docker_io_is(registry))
                registry.push(images.debian_image(machine.root / "debian", machine), "library/debian:3")
                tables[TITLES["pull"]] = list(life.pulls(pair, "docker.io/library/debian:3"))
            if "steps" in wanted:
                run = ("run", "--rm", pair.ctnr.slirp(), *life.TRUE)
                whole = sorted(pair.ctnr.milliseconds(*run) for _ in range(25))[12]
                steps = measure_steps(rootfs, machine.root, whole)
                for step, milliseconds in steps:
                    print(f"{step:62} {milliseconds:8.2f} ms", flush=True)
        if len(sys.argv) == 1:
            write_report(tables, steps)
    finally:
        person.close()
        for pid in descendants():  # podman's pause process
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        machine.close()


if __name__ == "__main__":
    main()
