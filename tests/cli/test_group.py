"""`run A … --- B …`: several containers in one foreground, ended together."""

from __future__ import annotations

import signal
import time

from tests.world.people import Person

WAIT = "trap 'echo told; exit 9' TERM; echo up; while :; do sleep 0.05; done"


def test_when_one_ends_the_others_are_stopped(me: Person) -> None:
    first = ["--name=g1", "--network=none", "demo", "sh", "-c", WAIT]
    second = ["--name=g2", "--network=none", "demo", "sh", "-c", "sleep 0.5; echo done; exit 3"]
    done = me.ctnr("run", "--rm", *first, "---", "--rm", *second)
    assert sorted(done.stdout.split()) == ["done", "told", "up"]
    assert done.status == 3, "that of the one which ended by itself"
    assert me.ctnr("ps", "-aq").ok.stdout == ""
    zero = me.ctnr("run", "--rm", *first, "---", "run", "--rm", "--network=none", "demo", "sleep", "0.2")
    assert zero.status == 0
    assert me.ctnr("ps", "-aq").ok.stdout == ""


def test_input_is_for_one_and_later_ones_may_share_what_the_first_has(me: Person) -> None:
    first = ["run", "--rm", "--init", "--name=net", "--network=bridge", "demo", "sleep", "1000"]
    done = me.ctnr(
        *first, "---", "--rm", "-i", "--network=container:net", "demo", "sh", "-c", "ip -4 -o addr show cni0; cat",
        stdin="typed\n",
    )  # fmt: skip
    assert done.status == 0
    assert "inet" in done.stdout
    assert done.stdout.endswith("typed\n")


def test_one_that_does_not_start_ends_all(me: Person) -> None:
    done = me.ctnr(
        "run", "--rm", "--init", "--network=none", "demo", "sleep", "1000", "---", "--rm", "demo", "nothing"
    )
    assert done.status == 127
    assert "nothing" in done.stderr
    assert done.stderr.count("\n") == 1
    assert me.ctnr("ps", "-aq").ok.stdout == ""


def test_in_a_terminal_lines_have_names_and_ctrl_c_stops_all(me: Person) -> None:
    parts = ["--rm", "--network=none", "demo", "sh", "-c", WAIT]
    with me.pty("run", "--name=one", *parts, "---", "--name=second", *parts) as terminal:
        terminal.expect(r"one    \| up")
        terminal.expect(r"second \| up")
        terminal.ctrl("c")
        assert terminal.wait() == 130
        assert terminal.text.count("| told") == 2
    assert me.ctnr("ps", "-aq").ok.stdout == ""


def test_killed_it_leaves_nothing(me: Person) -> None:
    parts = ["--rm", "--network=none", "demo", "sh", "-c", WAIT]
    with me.popen(["ctnr", "run", *parts, "---", *parts]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() + process.stdout.readline() == b"up\nup\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    deadline = time.monotonic() + 20
    while me.ctnr("ps", "-aq").ok.stdout:
        assert time.monotonic() < deadline


def test_what_is_for_one_container_only(me: Person) -> None:
    for words, why in (
        (["-d", "demo", "true", "---", "demo"], "--detach"),
        (["demo", "true", "---", "-t", "demo"], "--tty"),
        (["-i", "demo", "true", "---", "-i", "demo"], "standard input"),
        (["demo", "true", "---"], "an image is missing"),
        (["demo", "true", "---", "--nonsense", "demo"], "unknown flag"),
    ):
        refused = me.ctnr("run", *words)
        assert (refused.status, why in refused.stderr, refused.stderr.count("\n")) == (125, True, 1), words
