"""`ctnr run -ti` and `exec -ti` in a real terminal."""

from __future__ import annotations

import time

from tests.world.people import Person


def test_prompt_size_keys_and_status(me: Person) -> None:
    with me.pty("run", "--rm", "-ti", "--network=none", "demo", "sh", rows=31, columns=99) as terminal:
        before = terminal.mode()
        terminal.expect(r"/ # ")
        terminal.line("stty size")
        terminal.expect(r"31 99\s")
        terminal.resize(40, 120)
        terminal.line("sleep 0.2; stty size")
        terminal.expect(r"40 120\s")
        terminal.line("echo go-$((1+1)); sleep 1000")
        terminal.expect("go-2")
        time.sleep(0.3)  # a person is not faster either: sleep must be there to be interrupted
        terminal.ctrl("c")
        terminal.expect(r"/ # ")
        terminal.line("exit 7")
        assert terminal.wait() == 7
        assert before == terminal.mode()


def test_end_of_input_ends_the_shell(me: Person) -> None:
    with me.pty("run", "--rm", "-ti", "--network=none", "demo", "sh") as terminal:
        terminal.expect(r"/ # ")
        terminal.ctrl("d")
        assert terminal.wait() == 0


def test_detach_look_and_come_back(me: Person) -> None:
    with me.pty("run", "--name=det", "-ti", "--network=none", "demo", "sh") as terminal:
        before = terminal.mode()
        terminal.expect(r"/ # ")
        terminal.ctrl("p")
        terminal.ctrl("q")
        assert terminal.wait() == 0
        assert before == terminal.mode()
    try:
        assert "Up" in me.ctnr("ps", "--filter", "name=det").ok.stdout
        assert me.ctnr("exec", "det", "echo", "still here").ok.stdout == "still here\n"
        with me.pty("attach", "det") as terminal:
            terminal.line("echo back-$((40+2))")
            terminal.expect(r"back-42")
            terminal.ctrl("p")
            terminal.ctrl("q")
            assert terminal.wait() == 0
        assert "back-42" in me.ctnr("logs", "det").ok.stdout
    finally:
        me.ctnr("rm", "-f", "det").ok  # noqa: B018


def test_exec_with_a_terminal_joins_from_another(me: Person) -> None:
    with me.pty("run", "--rm", "--name=joined", "-ti", "--network=slirp", "demo", "sh") as first:
        first.expect(r"/ # ")
        with me.pty("exec", "-ti", "joined", "sh", rows=20, columns=70) as second:
            second.expect(r"/ # ")
            second.line("stty size; ip addr show cni0; ps | grep -c sh")
            second.expect(r"20 70\s")
            second.expect(r"10\.0\.2\.100/24")
            second.line("exit 3")
            assert second.wait() == 3
        first.line("exit")
        assert first.wait() == 0
