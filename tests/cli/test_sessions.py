"""Sessions in a terminal: sizes, keys, ends of all kinds, and the terminal as it was afterwards."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.world.people import Person


def test_the_size_of_a_window_changes_for_exec_as_well(me: Person, names: list[str]) -> None:
    me.ctnr("run", "-d", "--name=sized", "--network=none", "demo", "sleep", "1000").ok  # noqa: B018
    names.append("sized")
    with me.pty("exec", "-ti", "sized", "sh", rows=21, columns=71) as terminal:
        terminal.expect(r"/ # ")
        terminal.resize(50, 132)
        terminal.line("sleep 0.2; stty size")
        terminal.expect(r"50 132\s")
        terminal.expect(r"/ # ")  # a ^D that comes before is lost
        terminal.ctrl("d")
        assert terminal.wait() == 0


def test_piped_input_ends_what_reads_a_terminal(me: Person) -> None:
    """^D that comes while the shell sets its terminal up is lost: it is typed again."""
    run = ["run", "--rm", "-ti", "--network=none", "demo", "sh"]
    for _ in range(3):
        assert me.ctnr(*run, seconds=20).status == 0
    two = me.ctnr(*run, "-c", "cat; cat; echo both", stdin="unfinished", seconds=20)
    assert two.ok.stdout.endswith("both\r\n")
    typed = me.ctnr(*run, stdin="echo $((40+2)); exit 3\n", seconds=20)
    assert typed.status == 3
    assert "\n42\r\n" in typed.stdout


def test_keys_of_ones_own_then_logs_exec_and_stop(me: Person, names: list[str]) -> None:
    names.append("away")
    keys = ["--detach-keys", "ctrl-x,d"]
    with me.pty("run", "--name=away", "-ti", "--network=none", *keys, "demo", "sh") as terminal:
        terminal.expect(r"/ # ")
        terminal.ctrl("p")  # no part of these keys: it reaches the shell
        terminal.line("(sleep 0.3; echo late-$((1+1))) &")
        terminal.expect(r"/ # ")
        terminal.ctrl("x")
        terminal.send("d")
        assert terminal.wait() == 0
        assert "detached" in terminal.text
    deadline = time.monotonic() + 10
    while "late-2" not in me.ctnr("logs", "away").ok.stdout:
        assert time.monotonic() < deadline
    assert me.ctnr("exec", "away", "echo", "in").ok.stdout == "in\n"
    assert "away" in me.ctnr("ps").ok.stdout
    me.ctnr("stop", "-t", "0", "away").ok  # noqa: B018
    assert me.ctnr("wait", "away").ok.stdout == "137\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_client_that_is_ended_restores_the_terminal(me: Person, number: signal.Signals) -> None:
    with me.pty("run", "--rm", "--name=ended", "-ti", "--network=none", "demo", "sh") as terminal:
        before = terminal.mode()
        terminal.expect(r"/ # ")
        assert before != terminal.mode(), "raw as long as the session lasts"
        os.kill(terminal.pid, number)
        assert terminal.wait() == 128 + number
        assert before == terminal.mode()
    assert "ended" not in me.ctnr("ps", "-a").ok.stdout


def test_ctrl_c_with_and_without_an_init(me: Person) -> None:
    flags = ["--rm", "--network=none", "-ti"]
    # the shell has put itself between the terminal and the pipe when the text comes, sleep may not have
    script = "trap 'exit 130' INT; echo up; while :; do sleep 0.1; done"  # one long sleep could begin after the signal
    with me.pty("run", "--init", *flags, "demo", "sh", "-c", script) as terminal:
        terminal.expect("up")
        terminal.ctrl("c")
        assert terminal.wait() == 128 + signal.SIGINT
    script = "trap 'echo caught; exit 8' INT; echo up; while :; do sleep 0.1; done"
    with me.pty("run", *flags, "demo", "sh", "-c", script) as terminal:
        terminal.expect("up")
        terminal.ctrl("c")
        terminal.expect("caught")
        assert terminal.wait() == 8


def test_errors_in_a_terminal(me: Person) -> None:
    for command, status, says in (
        (["run", "--rm", "-ti", "demo", "no-such"], 127, "not found in the container"),
        (["run", "--rm", "-ti", "--network=nope", "demo", "sh"], 125, "network nope"),
        (["run", "--rm", "-ti", "--detach-keys=ctrl-PQ", "demo", "sh"], 125, "is no key"),
        (["exec", "-ti", "nobody", "sh"], 125, "no container"),
        (["attach", "nobody"], 125, "no container"),
    ):
        with me.pty(*command, columns=200) as terminal:
            before = terminal.mode()
            assert terminal.wait() == status
            assert before == terminal.mode()
            assert says in terminal.text
            assert terminal.text.count("\n") == 1


def test_a_terminal_client_killed_takes_its_container_along(me: Person) -> None:
    with me.pty("run", "--name=hung", "-ti", "--network=none", "demo", "sh") as terminal:
        terminal.expect(r"/ # ")
        os.kill(terminal.pid, signal.SIGKILL)
        assert terminal.wait() == 137
    deadline = time.monotonic() + 10
    while "hung" in me.ctnr("ps").ok.stdout:
        assert time.monotonic() < deadline, "its container still runs"
    me.ctnr("rm", "-f", "hung")
