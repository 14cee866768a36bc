"""stats and top: numbers of real containers, from cgroups and from /proc."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.world.people import Person

HOLDS_20_MB = (
    "dd if=/dev/zero bs=20M count=1 | sleep 1000"  # dd waits for a reader, with all of it in its buffer
)


@contextmanager
def running(me: Person, name: str, *args: str) -> Iterator[None]:
    me.ctnr("run", "-d", f"--name={name}", *args).ok  # noqa: B018
    try:
        yield
    finally:
        me.ctnr("rm", "-f", name).ok  # noqa: B018


def sample(me: Person, *names: str) -> dict[str, dict[str, object]]:
    rows = json.loads(me.ctnr("stats", "--no-stream", "--format=json", *names).ok.stdout)
    return {row["name"]: row for row in rows}


def until(me: Person, name: str, field: str, least: float) -> dict[str, object]:
    """The first sample whose field is that large."""
    deadline = time.monotonic() + 20
    while True:
        row = sample(me, name)[name]
        value = row[field]
        assert isinstance(value, (int, float))
        if value >= least:
            return row
        assert time.monotonic() < deadline, row
        time.sleep(0.05)


def test_what_a_container_uses(me: Person) -> None:
    """Its memory is known, and its programs are counted, those of exec too."""
    with running(me, "holder", "--network=none", "demo", "sh", "-c", HOLDS_20_MB):
        me.ctnr("exec", "-d", "holder", "sleep", "77").ok  # noqa: B018
        row = until(me, "holder", "memory", 20_000_000)
        assert row["pids"] == 4
        assert row["summed"] == ["cpu", "memory", "pids", "block io"]
        assert (row["received"], row["sent"]) == (0, 0)


def test_processor_time_is_told(me: Person) -> None:
    with running(me, "busy", "--network=none", "demo", "sh", "-c", "while :; do :; done"):
        row = until(me, "busy", "cpu_seconds", 0.2)
        assert 0 < float(str(row["cpu_percent"])) <= 110


def test_a_cgroup_is_asked_where_there_is_one(me: Person) -> None:
    if me.uid:
        pytest.skip("an ordinary user without delegation has none")
    script = f"dd if=/dev/zero of=/dev/shm/full bs=1M count=20; {HOLDS_20_MB}"
    with running(me, "holder", "--network=none", "-m", "64m", "--pids-limit=20", "demo", "sh", "-c", script):
        row = until(me, "holder", "memory", 40_000_000)  # with what lies in /dev/shm
        assert row["memory_limit"] == 64 << 20
        assert row["pids"] == 3
        assert row["summed"] == ["cpu", "block io"]


def test_the_table(me: Person) -> None:
    with running(me, "web", "--network=none", "demo", "sleep", "1000"):
        me.ctnr("create", "--name=still", "demo", "true").ok  # noqa: B018
        done = me.ctnr("stats", "--no-stream", "--all")
        lines = done.ok.stdout.splitlines()
        assert re.split(r"\s{2,}", lines[0]) == [
            "CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS",
        ]  # fmt: skip
        rows = {cells[1]: cells for line in lines[1:] if (cells := re.split(r"\s{2,}", line.strip()))}
        assert rows["still"][2:] == ["--"] * 6
        assert re.fullmatch(r"\d+\.\d\d%", rows["web"][2])
        assert rows["web"][-1] == "1"
        assert (
            done.stderr
            == "cpu, memory, pids, block io of web: summed over processes, as no cgroup counts it\n"
        )
        assert (
            me.ctnr("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "web").ok.stdout == "web 1\n"
        )
        assert "still" not in me.ctnr("stats", "--no-stream").ok.stdout
        me.ctnr("rm", "still").ok  # noqa: B018
    assert me.ctnr("stats", "--no-stream", "web").status == 125


def test_stats_stay_in_their_place(me: Person) -> None:
    with (
        running(me, "web", "--network=none", "demo", "sleep", "1000"),
        me.pty("stats", "-i", "200ms") as terminal,
    ):
        for _ in range(3):
            terminal.expect(r"\x1b\[HCONTAINER ID")
            terminal.expect("web")
            terminal.expect("summed over processes")
            terminal.expect(r"\x1b\[J")
        terminal.ctrl("c")
        assert terminal.wait() == 130


def test_stats_in_a_pipe_end_in_whole_lines(me: Person) -> None:
    with (
        running(me, "web", "--network=none", "demo", "sleep", "1000"),
        me.popen(["ctnr", "stats", "-i", "50ms", "web"]) as process,
    ):
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(8)]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert sum(line.startswith(b"CONTAINER ID") for line in lines) == 2


def test_traffic_is_counted(me: Person) -> None:
    with running(me, "talker", "--network=slirp", "demo", "sleep", "1000"):
        before = sample(me, "talker")["talker"]
        for _ in range(5):
            assert me.ctnr("exec", "talker", "wget", "-O-", "http://10.0.2.2:1/").status == 1
        after = sample(me, "talker")["talker"]
        for field in ("received", "sent"):
            assert int(str(after[field])) >= int(str(before[field])) + 5 * 40


def test_top_shows_what_runs_inside(me: Person) -> None:
    with running(me, "web", "--network=none", "-u", "7:9", "demo", "sh", "-c", "sleep 500 & exec sleep 400"):
        me.ctnr("exec", "-d", "-u", "0", "web", "sleep", "77").ok  # noqa: B018
        lines = me.ctnr("top", "web").ok.stdout.splitlines()
        assert lines[0].split() == ["USER", "PID", "PPID", "%CPU", "ELAPSED", "TTY", "TIME", "COMMAND"]
        rows = [line.split(None, 7) for line in lines[1:]]
        assert [(row[0], row[2], row[7]) for row in rows] == [
            ("7", "0", "sleep 400"), ("7", "1", "sleep 500"), ("root", "0", "sleep 77"),
        ]  # fmt: skip
        assert rows[0][1] == "1"
        columns = me.ctnr("top", "web", "pid,uid", "huser", "hpid", "group", "comm").ok.stdout.splitlines()
        assert columns[0].split() == ["PID", "UID", "HUSER", "HPID", "GROUP", "COMMAND"]
        first = columns[1].split()
        assert (first[:2], first[4:]) == (["1", "7"], ["9", "sleep"])
        assert first[3] == me.ctnr("inspect", "web", "--format", "{{.State.Pid}}").ok.stdout.strip()
        for words in (["-ef"], ["aux"], ["-o", "pid,cmd"], ["-eo", "pid", "args"]):
            assert "sleep 500" in me.ctnr("top", "web", *words).ok.stdout
        wrong = me.ctnr("top", "web", "pid,colour")
        assert wrong.status == 125
        assert "no column 'colour'; there are: args, c," in wrong.stderr


def test_top_of_one_that_does_not_run(me: Person) -> None:
    me.ctnr("create", "--name=still", "demo", "true").ok  # noqa: B018
    done = me.ctnr("top", "still")
    assert done.status == 125
    assert "container still is not running" in done.stderr
    me.ctnr("rm", "still").ok  # noqa: B018
