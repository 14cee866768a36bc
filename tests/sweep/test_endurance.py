"""Many short containers, eight at a time: the service is as large afterwards as it was when it had warmed up."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cli.test_own_supervisor import prepare
from tests.cli.test_service import daemons
from tests.sweep.length import amount, covered
from tests.world.people import Person

AT_ONCE = 8
WARM_UP = 24
GROWTH_KIB = 4096  # of the service and of init together; 2 000 records of 2 KiB would be as much
NETWORKS = ("slirp", "none", "slirp", "bridge")


def test_short_containers(as_user: Person, busybox_image: Path) -> None:
    prepare(as_user, busybox_image)
    play(as_user, WARM_UP)
    [service] = daemons(as_user)
    before = measure(service)
    count = amount(48, 1000)
    play(as_user, count)
    after = measure(service)
    covered(f"{as_user.name}: {count} containers, {AT_ONCE} at a time; before {before}, after {after}")
    assert [service] == daemons(as_user), "it is the same service"
    assert after["descriptors"] <= before["descriptors"]
    assert after["threads"] <= before["threads"]
    assert after["KiB"] <= before["KiB"] + GROWTH_KIB
    assert as_user.ctnr("ps", "-a", "-q").ok.stdout == ""
    assert not list((as_user.store_dir / "bundles").iterdir()), "a bundle is left"


def play(person: Person, count: int) -> None:
    def one(number: int) -> None:
        network = NETWORKS[number % len(NETWORKS)]
        assert person.ctnr("run", "--rm", f"--network={network}", "demo", "echo", "hi").ok.stdout == "hi\n"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(count)))


def measure(service: int) -> dict[str, int]:
    """Of the service and of its sandbox's init: anonymous memory, descriptors, threads.

    Not PSS: the share of a file's pages grows when another process that maps them ends.
    """
    children = Path(f"/proc/{service}/task/{service}/children").read_text().split()
    inits = [
        int(pid)
        for pid in children
        if b"supervisor.sandbox.init" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    found = {"KiB": 0, "descriptors": 0, "threads": 0}
    for pid in (service, *inits):
        own = re.search(r"Anonymous:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
        assert own is not None
        found["KiB"] += int(own[1])
        found["descriptors"] += len(os.listdir(f"/proc/{pid}/fd"))
        found["threads"] += len(os.listdir(f"/proc/{pid}/task"))
    return found
