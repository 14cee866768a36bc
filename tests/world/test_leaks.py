"""The guard catches each kind of thing that it claims to catch, and names it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import watched_folders
from tests.world import cgroups, leaks
from tests.world.machine import Machine, run
from tests.world.people import Person


@contextmanager
def process(_: Machine) -> Iterator[str]:
    with subprocess.Popen(["sleep", "61"]) as child:
        yield f"process: {child.pid} sleep 61"
        child.kill()


@contextmanager
def orphan_in_a_session_of_its_own(_: Machine) -> Iterator[str]:
    done = subprocess.run(
        ["sh", "-c", "setsid sleep 62 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
    )
    pid = int(done.stdout)
    yield f"process: {pid} "
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@contextmanager
def netns_of_a_process(_: Machine) -> Iterator[str]:
    with subprocess.Popen(["unshare", "--net", "sleep", "63"]) as child:
        yield "network namespace: net:["
        child.kill()


@contextmanager
def netns_kept_by_a_descriptor(_: Machine) -> Iterator[str]:
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep 64"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.readline()
        fd = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)
        child.kill()
    yield f"fd/{fd}"
    os.close(fd)


@contextmanager
def pinned_netns(_: Machine) -> Iterator[str]:
    run(["ip", "netns", "add", "forgotten"])
    yield "pinned at /run/netns/forgotten"
    run(["ip", "netns", "delete", "forgotten"])


@contextmanager
def netns_name_without_a_mount(_: Machine) -> Iterator[str]:
    Path("/run/netns/hollow").touch()
    yield "the name /run/netns/hollow"
    Path("/run/netns/hollow").unlink()


@contextmanager
def link(_: Machine) -> Iterator[str]:
    run(["ip", "link", "add", "left0", "type", "bridge"])
    yield "link: left0"
    run(["ip", "link", "delete", "left0"])


@contextmanager
def address(_: Machine) -> Iterator[str]:
    run(["ip", "address", "add", "192.0.2.7/32", "dev", "lo"])
    yield "address: 192.0.2.7/32 on lo"
    run(["ip", "address", "delete", "192.0.2.7/32", "dev", "lo"])


@contextmanager
def route(_: Machine) -> Iterator[str]:
    run(["ip", "route", "add", "198.51.100.0/25", "dev", "lo"])
    yield "route: 198.51.100.0/25 dev lo"
    run(["ip", "route", "delete", "198.51.100.0/25", "dev", "lo"])


@contextmanager
def mount(machine: Machine) -> Iterator[str]:
    point = machine.root / "tmp"
    run(["mount", "-t", "tmpfs", "stray", str(point)])
    yield f"mount: {point} (tmpfs of stray)"
    run(["umount", str(point)])


@contextmanager
def iptables_rule(_: Machine) -> Iterator[str]:
    rule = ["POSTROUTING", "-s", "10.2.0.9/32", "-j", "MASQUERADE"]
    run(["iptables", "-t", "nat", "-A", *rule])
    yield "10.2.0.9"
    run(["iptables", "-t", "nat", "-D", *rule])


@contextmanager
def iptables_chain(_: Machine) -> Iterator[str]:
    run(["iptables", "-t", "nat", "-N", "CNI-0123456789abcdef"])
    yield "CNI-0123456789abcdef: the chain itself"
    run(["iptables", "-t", "nat", "-X", "CNI-0123456789abcdef"])


@contextmanager
def lease(_: Machine) -> Iterator[str]:
    folder = Path("/var/lib/cni/networks/bridge")
    folder.mkdir(parents=True)
    (folder / "10.2.0.5").write_text("somebody\r\ncni0")
    yield "lease: /run/.world/lib/cni/networks/bridge/10.2.0.5 (somebody)"
    run(["rm", "-r", "/var/lib/cni"])


@contextmanager
def descriptor(_: Machine) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX):
        yield "descriptor: "


@contextmanager
def temporary_file(machine: Machine) -> Iterator[str]:
    file = machine.root / "tmp/forgotten"
    file.touch()
    yield f"file: {file}"
    file.unlink()


@contextmanager
def runtime_folder(_: Machine) -> Iterator[str]:
    folder = Path("/tmp/ctnr-4242")
    folder.mkdir()
    (folder / "service.sock").touch()
    yield "file: /tmp/ctnr-4242/service.sock"
    (folder / "service.sock").unlink()
    folder.rmdir()


@contextmanager
def file_in_etc(_: Machine) -> Iterator[str]:
    Path("/etc/left-here").touch()
    yield "etc/left-here"
    Path("/etc/left-here").unlink()


@contextmanager
def control_group(_: Machine) -> Iterator[str]:
    top = next(iter(cgroups.current().values()), None)
    if top is None:
        pytest.skip("no cgroup file system")
    folder = top / "ctnr-left-here"
    folder.mkdir()
    yield f"cgroup: {folder}"
    folder.rmdir()


KINDS = [
    process, orphan_in_a_session_of_its_own, netns_of_a_process, netns_kept_by_a_descriptor, pinned_netns,
    netns_name_without_a_mount, link, address, route, mount, iptables_rule, iptables_chain, lease, descriptor,
    temporary_file, runtime_folder, file_in_etc, control_group,
]  # fmt: skip


@pytest.mark.parametrize("leave", KINDS, ids=lambda kind: kind.__name__)
def test_the_guard_names_what_is_left(machine: Machine, leave: Callable[[Machine], object]) -> None:
    def take() -> leaks.Snapshot:
        return leaks.snapshot(watched_folders(machine))

    before = take()
    with leave(machine) as named:  # type: ignore[attr-defined]
        left = leaks.wait_clean(before, take, seconds=0.5)
    assert any(named in line for line in left), left
    assert leaks.wait_clean(before, take) == []


def test_a_service_left_running_is_named(machine: Machine) -> None:
    before = leaks.snapshot()
    person = Person(machine, "user")
    with person.popen(["sleep", "65"]) as service:
        assert any("sleep 65" in line for line in leaks.wait_clean(before, leaks.snapshot, seconds=0.5))
        service.kill()
    person.close()


def test_dead_orphans_are_reaped_and_no_leak(machine: Machine) -> None:
    before = leaks.snapshot()
    subprocess.run(["sh", "-c", "sleep 0.1 >/dev/null 2>&1 & exit"], check=True)
    assert leaks.wait_clean(before, leaks.snapshot) == []


def test_a_test_that_leaks_fails_with_the_name(machine: Machine, pytester: pytest.Pytester) -> None:
    """The fixture itself, in a pytest of its own: only the first of two tests is at fault, and says of what."""
    pytester.makeconftest(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.conftest import *
        from tests.conftest import _leak_guard
    """)
    pytester.makepyfile("""
        import subprocess
        kept = []
        def test_leaks(): kept.append(subprocess.Popen(["sleep", "66"]))
        def test_tidies_up(): kept[0].kill(); kept[0].wait()
    """)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-o", "trio_mode=false", timeout=60)
    done.assert_outcomes(passed=2, errors=1)
    done.stdout.fnmatch_lines(["*ERROR at teardown of test_leaks*", "*process: * sleep 66*"])
