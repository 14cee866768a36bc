"""Entries become output, line by line or many at once: with the same result."""

from __future__ import annotations

import random

import pytest

from ctnr.cli.logs import Printer


@pytest.mark.parametrize("seed", range(60))
def test_entries_become_what_they_once_were(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(seed)
    prefix, stamps = chance.choice([b"", b"web "]), chance.random() < 0.5
    entries, wanted = b"", {b"stdout": b"", b"stderr": b""}
    unfinished: set[bytes] = set()
    for moment in range(chance.randint(1, 12)):
        stamp = b"2026-01-31T12:00:00.%09dZ" % moment
        for _ in range(chance.randint(1, 6)):
            stream = chance.choice([b"stdout", b"stdout", b"stdout", b"stderr"])
            part = chance.random() < 0.15
            text = chance.choice([b"", b"x", b"a b", b"\r", stamp + b" stdout F again"])
            entries += b"%s %s %s %s\n" % (stamp, stream, b"P" if part else b"F", text)
            if stream not in unfinished:
                wanted[stream] += prefix + (stamp + b" " if stamps else b"")
            wanted[stream] += text + (b"" if part else b"\n")
            (unfinished.add if part else unfinished.discard)(stream)
        if chance.random() < 0.1:
            entries += b"what a full disk has left\n"
    printer = Printer(prefix, stamps=stamps)
    cut = chance.choice([0, entries.find(b"\n", len(entries) // 2) + 1])
    printer.print(entries[:cut])
    printer.print(entries[cut:])
    out, err = capfd.readouterr()
    assert (out.encode(), err.encode()) == (wanted[b"stdout"], wanted[b"stderr"])
