"""How quickly a container's output gets out: in the foreground, and into the log of one in the background."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from tests.bench.pairs import Engine, Pair, Row

MEGABYTES = 1024
LINES = f"yes 'a line of sixty-four characters, as a program writes it all day' | head -c {MEGABYTES << 20}"


def rows(pair: Pair) -> Iterator[Row]:
    for name, measure in (("1 GiB through run in the foreground", _foreground),
                          ("1 GiB of lines into a detached log", _detached)):  # fmt: skip
        yield pair.measure(name, 1.0, measure, rounds=1, unit="MiB/s", more_is_better=True)


def _foreground(engine: Engine) -> float:
    start = time.perf_counter()
    process = engine.popen(
        "run", "--rm", "--network=none", "demo", "dd", "if=/dev/zero", "bs=1M", f"count={MEGABYTES}"
    )
    received, buffer = 0, bytearray(1 << 20)
    assert process.stdout is not None
    while count := os.readv(process.stdout.fileno(), [buffer]):
        received += count
    process.communicate()
    assert received == MEGABYTES << 20, f"{received} bytes came"
    return MEGABYTES / (time.perf_counter() - start)


def _detached(engine: Engine) -> float:
    start = time.perf_counter()
    engine.start("l", "--network=none", "demo", "sh", "-c", LINES)
    process = engine.popen("wait", "l")
    said, _ = process.communicate()
    taken = time.perf_counter() - start
    assert said.strip() == b"0", f"the container ended with {said!r}"
    engine.remove("l")
    return MEGABYTES / taken
