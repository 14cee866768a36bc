"""Fixtures of every test: the private machine, its people, the registry, the internet, images, and the leak guard.

Tests under tests/unit and tests/house need none of it: they run anywhere, as anybody. (tests/vm has a virtual machine.)
All others run as root in a machine of their own (tests/world/machine.py), which is entered before the first of them;
`make test` sees to both.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.sweep.length import COVERED, FULL
from tests.world import images, leaks
from tests.world.internet import Internet, name_server_is
from tests.world.machine import TEMPORARY, Machine, enter_machine
from tests.world.people import Person
from tests.world.registry import Registry, docker_io_is

# a slow or busy machine is no fault of what is tested
hypothesis.settings.register_profile(
    "house", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "torture", parent=hypothesis.settings.get_profile("house"), max_examples=5000
)
hypothesis.settings.load_profile("torture" if FULL else "house")

# Debian's busybox calls it -ll what alpine's calls -lk
NETCAT = b'#!/bin/sh\n[ "$1" = -lk ] && shift && set -- -ll "$@"\nexec busybox nc "$@"\n'

_HERE = Path(__file__).parent
_PLAIN = tuple(_HERE / name for name in ("unit", "house", "vm"))
_MACHINE = pytest.StashKey[Machine]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Enter the machine while this process still has one thread, and only if a test is there that needs it."""
    if session.config.option.collectonly or all(_is_plain(item.path) for item in session.items):
        return
    if os.geteuid() != 0:
        raise pytest.UsageError(
            "tests outside tests/unit and tests/house make a machine of their own: run make test"
        )
    worker = getattr(session.config, "workerinput", {"workerid": "gw0"})["workerid"]
    given = session.config.option.basetemp
    try:
        session.config.stash[_MACHINE] = enter_machine(
            [Path(given).parent] if given else [], int(worker.removeprefix("gw"))
        )
    except (OSError, AssertionError) as error:
        raise pytest.UsageError(f"can't make the machine that the tests run in: {error}") from error


def pytest_unconfigure(config: pytest.Config) -> None:
    if machine := config.stash.get(_MACHINE, None):
        machine.close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of several (pytest-xdist) hands over what its sweeps covered."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["covered"] = COVERED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    COVERED.extend(getattr(node, "workeroutput", {}).get("covered", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COVERED:
        terminalreporter.section("covered by the sweeps")
        for line in COVERED:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Machine:
    """The private machine that this process is in."""
    return request.config.stash[_MACHINE]


@pytest.fixture(scope="session", autouse=True)
def _world_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same guard around everything: the world's own servers must end, too."""
    machine = request.config.stash.get(_MACHINE, None)
    if machine is None:
        yield
        return
    yield from _guard(machine)


@pytest.fixture(autouse=True)
def _leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves anything behind. Wider fixtures are up before it looks, so they don't count."""
    machine = request.config.stash.get(_MACHINE, None)
    if machine is None or _is_plain(request.path):
        yield
        return
    yield from _guard(machine)


@pytest.fixture(params=["root", "user"])
def as_user(request: pytest.FixtureRequest, machine: Machine) -> Iterator[Person]:
    """A person with a fresh home, store and service: the test runs once as root and once as an ordinary user."""
    with contextlib.closing(Person(machine, request.param)) as person:
        yield person


@pytest.fixture(scope="module", params=["root", "user"])
def resident(request: pytest.FixtureRequest, machine: Machine) -> Iterator[Person]:
    """Like `as_user`, but one for all tests of a module: its service and its store stay warm from test to test."""
    with contextlib.closing(Person(machine, request.param)) as person:
        yield person


@pytest.fixture
def new_person(machine: Machine) -> Iterator[Callable[[str], Person]]:
    """Makes further persons ("root" or "user") for a test about two of them."""
    made: list[Person] = []

    def make(name: str) -> Person:
        made.append(Person(machine, name))
        return made[-1]

    yield make
    for person in made:
        person.close()


@pytest.fixture(scope="session")
def registry(machine: Machine) -> Iterator[Registry]:
    """A registry on loopback that stands in for docker.io."""
    running = Registry(machine.root / "registry")
    with docker_io_is(running):
        yield running
    running.close()


@pytest.fixture(scope="session")
def login_registry(machine: Machine) -> Iterator[Registry]:
    """A registry that asks for AUTH_USER and AUTH_PASSWORD (tests/world/registry.py)."""
    running = Registry(machine.root / "login-registry", port=5001, with_login=True)
    yield running
    running.close()


@pytest.fixture(scope="session")
def internet(machine: Machine) -> Iterator[Internet]:
    """An internet with example.org in it, reachable from the machine and from what runs on it."""
    running = Internet()
    with name_server_is(running.dns):
        yield running
    running.close()


@pytest.fixture(scope="session")
def busybox_rootfs(machine: Machine) -> Path:
    """A folder with a root filesystem, for `ctnr image import`."""
    return images.busybox_rootfs(machine.root / "busybox-rootfs")


@pytest.fixture(scope="session")
def busybox_image(machine: Machine, busybox_rootfs: Path) -> Path:
    """An OCI layout with busybox in one layer."""
    base = images.tar_folder(busybox_rootfs)
    return images.write_image(
        machine.root / "busybox", [base], {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]}
    )


@pytest.fixture(scope="session")
def layered_image(machine: Machine, busybox_rootfs: Path) -> Path:
    """An OCI layout with four layers: whiteouts, opaque folders, hard links, xattrs, setuid and a named user."""
    return images.layered_image(machine.root / "layered", images.tar_folder(busybox_rootfs))


@pytest.fixture(scope="session")
def debian_image(machine: Machine) -> Path:
    """An OCI layout with Debian's minimal system, made by debootstrap."""
    return images.debian_image(machine.root / "debian", machine)


@pytest.fixture(scope="session")
def alpine(machine: Machine, registry: Registry, busybox_rootfs: Path) -> str:
    """docker.io's alpine:3.8, as far as this machine can tell: a busybox, with alpine's own configuration."""
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = {"Cmd": ["/bin/sh"], "Env": [path, "ENV=/etc/shrc"]}
    # Debian's busybox shell would take its own nc before it looks into /bin
    netcat = images.layer(
        [images.Entry("bin/nc", NETCAT, mode=0o755), images.Entry("etc/shrc", b"alias nc=/bin/nc\n")]
    )
    layout = images.write_image(machine.root / "alpine", [images.tar_folder(busybox_rootfs), netcat], config)
    for tag in ("3.8", "latest"):
        registry.push(layout, f"library/alpine:{tag}")
    return "docker://alpine:3.8"


@pytest.fixture
def bundle(tmp_path: Path, busybox_rootfs: Path) -> Path:
    """A bundle as `crun spec` makes it, cut to what every kernel can give."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "rootfs").symlink_to(busybox_rootfs)
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs"},  # what is mounted there is made there
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "newinstance"],
        },
    ]
    process = {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "env": ["PATH=/bin:/sbin:/usr/bin"], "cwd": "/"}
    capabilities = ["CAP_KILL", "CAP_NET_RAW", "CAP_DAC_OVERRIDE"]
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), capabilities)
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    config = {"ociVersion": "1.0.0", "process": process, "root": {"path": "rootfs"}, "mounts": mounts,
              "linux": {"namespaces": namespaces}}  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return path


def watched_folders(machine: Machine) -> list[Path]:
    """Where a file that stays counts as left behind."""
    upper = [machine.etc_upper, machine.var_lib_upper]
    return [machine.root / "tmp", *TEMPORARY, Path("/run"), *upper, Path("/dev/shm")]


def _guard(machine: Machine) -> Iterator[None]:
    def take() -> leaks.Snapshot:
        return leaks.snapshot(watched_folders(machine))

    before = take()
    yield
    if left := leaks.wait_clean(before, take):
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


def _is_plain(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _PLAIN)
