"""Restart policies on the command line, `ctnr restart`, and what a new service brings back."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.world.people import Person


def inspected(me: Person, name: str) -> Any:
    return json.loads(me.ctnr("inspect", name).ok.stdout)[0]


def wait_for(me: Person, name: str, *, restarts: int = 0, status: str | None = None) -> Any:
    """Until `inspect` says so."""
    deadline = time.monotonic() + 30
    while True:
        seen = inspected(me, name)
        if seen["RestartCount"] >= restarts and status in (None, seen["State"]["Status"]):
            return seen
        assert time.monotonic() < deadline, f"{name}: {restarts} restarts, {status}; but it is {seen}"
        time.sleep(0.05)


def start(me: Person, names: list[str], name: str, policy: str, script: str) -> None:
    names.append(name)
    options = ("-d", f"--name={name}", f"--restart={policy}", "--network=none")
    me.ctnr("run", *options, "demo", "sh", "-c", script).ok  # noqa: B018


def test_on_failure_gives_up(me: Person, names: list[str]) -> None:
    start(me, names, "fails", "on-failure:2", "echo x; exit 3")
    assert me.ctnr("wait", "fails").ok.stdout == "3\n"
    assert me.ctnr("logs", "fails").ok.stdout == "x\nx\nx\n"
    assert "Exited (3)" in me.ctnr("ps", "-a", "--filter", "name=fails").ok.stdout
    assert inspected(me, "fails")["RestartCount"] == 2
    assert inspected(me, "fails")["HostConfig"]["RestartPolicy"] == {
        "Name": "on-failure",
        "MaximumRetryCount": 2,
    }


def test_a_back_off_is_shown_and_can_be_stopped(me: Person, names: list[str]) -> None:
    start(me, names, "loop", "always", "exit 4")
    wait_for(me, "loop", restarts=3)
    shown = me.ctnr("ps", "--filter", "name=loop", "--format", "{{.Status}}").ok.stdout
    assert shown.startswith(("Restarting (4) ", "Up "))
    me.ctnr("stop", "-t", "1", "loop").ok  # noqa: B018
    assert inspected(me, "loop")["State"]["Status"] == "exited"


@pytest.mark.parametrize("signalled", ["KILL", "TERM"])
def test_kill_is_for_good(me: Person, names: list[str], signalled: str) -> None:
    script = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    start(me, names, "killed", "always", script)
    time.sleep(0.2)
    me.ctnr("kill", "-s", signalled, "killed").ok  # noqa: B018
    assert me.ctnr("wait", "killed").ok.stdout in ("137\n", "0\n")


def test_restart_after_a_signal_that_the_program_ignores(me: Person, names: list[str]) -> None:
    """The kernel gives SIGTERM to no first process that has not asked for it: it was told to end, and has not."""
    start(me, names, "deaf", "no", "while :; do sleep 0.05; done")
    me.ctnr("kill", "-s", "TERM", "deaf").ok  # noqa: B018
    me.ctnr("restart", "-t", "0", "deaf").ok  # noqa: B018
    assert inspected(me, "deaf")["State"]["Status"] == "running"


def test_who_types_into_a_terminal_leaves_with_it(me: Person, names: list[str]) -> None:
    names.append("typed")
    script = "while :; do echo on; sleep 0.05; done & read line; exit 7"
    typed = ("run", "-dit", "--name=typed", "--restart=always", "--network=none", "demo")
    me.ctnr(*typed, "sh", "-c", script).ok  # noqa: B018
    with me.pty("attach", "typed") as pty:
        pty.expect("on")
        pty.line("end")
        assert pty.wait() == 7
    wait_for(me, "typed", restarts=1, status="running")
    me.ctnr("stop", "-t", "0", "typed").ok  # noqa: B018


def test_restart_by_hand(me: Person, names: list[str]) -> None:
    me.ctnr("run", "-d", "--name=again", "demo", "sh", "-c", "echo up; exec sleep 1000").ok  # noqa: B018
    names.append("again")
    first = inspected(me, "again")["State"]["Pid"]
    assert me.ctnr("restart", "-t", "0", "again").ok.stdout == "again\n"
    second = inspected(me, "again")
    assert (second["State"]["Running"], second["State"]["Pid"] != first, second["RestartCount"]) == (
        True,
        True,
        0,
    )
    me.ctnr("stop", "-t", "0", "again").ok  # noqa: B018
    me.ctnr("restart", "again").ok  # noqa: B018 -- starts it
    assert inspected(me, "again")["State"]["Running"]
    assert me.ctnr("logs", "again").ok.stdout == "up\nup\nup\n"
    unknown = me.ctnr("restart", "nobody")
    assert (unknown.status, unknown.stderr.count("\n")) == (125, 1)
    assert me.ctnr("restart", "-t", "soon", "again").status == 125


def test_a_follower_and_a_foreground_client_stay_over_a_restart(me: Person) -> None:
    run = ("ctnr", "run", "--rm", "--name=fore", "--network=none", "demo", "sh", "-c", "echo up; sleep 1000")
    foreground = me.popen(run)
    assert foreground.stdout is not None
    assert foreground.stdout.readline() == b"up\n"
    me.ctnr("restart", "-t", "0", "fore").ok  # noqa: B018
    assert foreground.stdout.readline() == b"up\n"
    me.ctnr("stop", "-t", "0", "fore").ok  # noqa: B018
    foreground.communicate()
    assert foreground.returncode == 137
    assert "fore" not in me.ctnr("ps", "-a").ok.stdout


def test_with_a_terminal_it_goes_on_in_the_background(me: Person, names: list[str]) -> None:
    names.append("tty")
    script = "echo here; sleep 0.5; exit 5"
    with me.pty(
        "run", "-t", "--name=tty", "--restart=always", "--network=none", "demo", "sh", "-c", script
    ) as pty:
        pty.expect("here")
        assert pty.wait() == 5
    wait_for(me, "tty", restarts=2)
    assert "here" in me.ctnr("logs", "tty").ok.stdout
    me.ctnr("stop", "-t", "0", "tty").ok  # noqa: B018


def test_another_policy_while_it_runs(me: Person, names: list[str]) -> None:
    start(me, names, "changed", "no", "sleep 1; exit 3")
    me.ctnr("update", "--restart=on-failure:1", "changed").ok  # noqa: B018
    assert me.ctnr("wait", "changed").ok.stdout == "3\n"
    seen = inspected(me, "changed")
    assert seen["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 1}
    asked = (
        "events",
        "--stream=false",
        "--filter=container=changed",
        "--filter=event=start",
        "--format={{.Name}}",
    )
    assert me.ctnr(*asked).ok.stdout == "changed\n" * 2
    told = me.ctnr("update", "--restart=sometimes", "changed")
    assert (told.status, told.stderr.count("\n")) == (125, 1)


@pytest.mark.parametrize("policy", ["sometimes", "on-failure:x", "always:3"])
def test_an_unknown_policy_is_one_line(me: Person, policy: str) -> None:
    told = me.ctnr("run", "-d", f"--restart={policy}", "demo", "true")
    assert (told.status, told.stderr.count("\n")) == (125, 1)
    assert policy in told.stderr
    both = me.ctnr("run", "--rm", "--restart=always", "demo", "true")
    assert (both.status, both.stderr.count("\n")) == (125, 1)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_new_service_brings_back_what_nobody_has_stopped(newcomer: Person, end: str) -> None:
    policies = {"kept": "always", "left": "unless-stopped", "plain": "no", "fail": "on-failure"}
    for name, policy in policies.items():
        newcomer.ctnr("run", "-d", f"--name={name}", f"--restart={policy}", "demo", "sleep", "1000").ok  # noqa: B018
    newcomer.ctnr("stop", "-t", "0", "left").ok  # noqa: B018
    service = json.loads(newcomer.ctnr("supervisor", "status", "--format", "json").ok.stdout)["pid"]
    if end == "stop":
        newcomer.ctnr("supervisor", "stop", "--force").ok  # noqa: B018
    else:
        os.kill(service, signal.SIGKILL)
        while newcomer.service_pids():
            time.sleep(0.02)
    newcomer.ctnr("supervisor", "start", env={"CTNR_IDLE_SECONDS": "0.1"}).ok  # noqa: B018
    shown = newcomer.ctnr("ps", "-a", "--format", "{{.Names}} {{.State}}").ok.stdout
    states = dict(line.split() for line in shown.splitlines())
    assert states == {"kept": "running", "left": "exited", "plain": "exited", "fail": "exited"}
    assert (
        newcomer.ctnr("wait", "plain").ok.stdout == "137\n"
    )  # killed with its service, if that could not tell
    assert newcomer.ctnr("inspect", "-f", "{{.State.ExitCode}}", "plain").ok.stdout == "137\n"
    assert newcomer.ctnr("ps", "-aq", "--filter", "name=plain", "--filter", "exited=137").ok.stdout
    time.sleep(0.5)  # it is not idle
    assert newcomer.ctnr("exec", "kept", "echo", "hi").ok.stdout == "hi\n"
    newcomer.ctnr("rm", "-f", *policies).ok  # noqa: B018


def test_what_can_not_be_brought_back_is_told(newcomer: Person) -> None:
    options = ("-d", "--name=kept", "--restart=always", "-v", "/tmp:/mnt")
    newcomer.ctnr("run", *options, "demo", "sleep", "1000").ok  # noqa: B018
    newcomer.ctnr("supervisor", "stop", "--force").ok  # noqa: B018
    record = next(newcomer.store_dir.glob("containers/*/container.json"))
    record.write_text(record.read_text().replace("/tmp:/mnt", "/not-there:/mnt"))
    newcomer.ctnr("supervisor", "start").ok  # noqa: B018
    seen = wait_for(newcomer, "kept", status="exited")
    assert "not-there" in seen["State"]["Error"]
    told = newcomer.ctnr(
        "events", "--stream=false", "--format", "{{.Action}} {{.Attributes.error}}"
    ).ok.stdout
    assert "failed" in told
    assert "not-there" in told
    newcomer.ctnr("rm", "-f", "kept").ok  # noqa: B018
