"""What an idle container in the background costs: proportional set size of all that stays for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.life import remove_many, start_many
from tests.bench.pairs import Engine, Pair, Row, show
from tests.world.machine import SUBID_COUNT

IDLE = 200


def rows(pair: Pair, count: int = IDLE) -> Iterator[Row]:
    values = [_pss_of_idle(engine, count) for engine in pair]
    yield show(Row(f"PSS for each of {count} idle containers, slirp", *values, 0.8, "KiB"))


def _pss_of_idle(engine: Engine, count: int) -> float:
    """Its own processes, helpers, monitor, and what the service grows by; the program itself is the same for both."""
    before = total_pss(engine)
    start_many(engine, count)
    time.sleep(2)
    after = total_pss(engine)
    remove_many(engine, count)
    return (after - before) / count


def total_pss(engine: Engine) -> float:
    """KiB of every process of the person's, and of those in the person's user namespaces."""
    first = engine.person.machine.first_subid
    ours = (engine.person.uid, *range(first, first + SUBID_COUNT))
    total = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid in ours:
                for line in (entry / "smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
    return total
