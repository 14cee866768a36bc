"""Many short containers, eight at a time: the service is as large afterwards as it was when it had warmed up.

Its history of 1024 events is full after 200 or so, and the allocators come to rest after 2000. Measured on two cores,
in KiB more than after 24, at 1000, 2000, 3000 and 4000: root 3900, 4700, 5000, 5000; a user 2300, 2600, 2600, 2600.
"""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cli.test_own_supervisor import prepare
from tests.cli.test_service import daemons
from tests.sweep.length import amount, covered
from tests.world.people import Person

AT_ONCE = 8
WARM_UP = amount(24, 2000)
COUNT = amount(48, 2000)
GROWTH_KIB = amount(4096, 1024)  # of the service and of init together; 2000 times half a KiB
REST_SECONDS = 0.5
NETWORKS = ("slirp", "none", "slirp", "bridge")


def test_short_containers(as_user: Person, busybox_image: Path) -> None:
    prepare(as_user, busybox_image)
    play(as_user, WARM_UP)
    [service] = daemons(as_user)
    before = measure_at_rest(service)
    play(as_user, COUNT)
    after = measure_at_rest(service)
    covered(f"{as_user.name}: {COUNT} containers after {WARM_UP}, {AT_ONCE} at a time; {before} → {after}")
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


def measure_at_rest(service: int) -> dict[str, int]:
    """When descriptors and threads stay: the last clean-ups go on when their clients have ended."""
    found = measure(service)
    while True:
        time.sleep(REST_SECONDS)
        before, found = found, measure(service)
        if all(found[what] == before[what] for what in ("descriptors", "threads")):
            return found


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
