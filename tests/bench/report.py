"""docs/benchmarks.md: the tables, and on what they were measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.pairs import Row

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def write_report(tables: Mapping[str, Sequence[Row]], steps: Sequence[tuple[str, float]]) -> None:
    programs = ("podman", "crun", "slirp4netns", "iperf3")
    versions = [
        subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()[
            0
        ]
        for name in programs
    ]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`: ctnr (service warm unless it says otherwise) and rootless podman in pairs, in one run, as",
        "one ordinary user, with the same image, native overlay and crun. Medians, rounds alternating; the ratio is what",
        "counts, and the last column what was aimed at. Absolute figures are this machine's.",
        "",
        f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}; {'; '.join(versions)}.",
    ]
    for title, rows in tables.items():
        lines += ["", f"## {title}", "", "| | podman | ctnr | ratio | aim |", "|---|---|---|---|---|"]
        lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    if steps:
        lines += [
            "",
            "## Where the milliseconds of a warm `run --rm`, slirp, go",
            "",
            "Medians of the steps, one after the other; the last lines are not on the way to the answer.",
            "",
            "| step | ms |",
            "|---|---|",
        ]
        lines += [f"| {name} | {milliseconds:.2f} |" for name, milliseconds in steps]
    RESULTS.write_text("\n".join(lines) + "\n")
