"""Containers in the background: started, looked at, entered, ended."""

from __future__ import annotations

import json
import re

from tests.world.people import Person


def test_a_life_in_the_background(me: Person, names: list[str]) -> None:
    script = "echo first; echo problem >&2; trap 'echo bye; exit 6' TERM; while :; do sleep 0.05; done"
    container = me.ctnr(
        "run", "-d", "--name=web", "--label=tier=front", "demo", "sh", "-c", script
    ).ok.stdout.strip()
    names.append("web")
    assert len(container) == 64
    row = me.ctnr("ps", "--format", "{{.ID}} {{.Names}} {{.Image}}").ok.stdout
    assert row == f"{container[:12]} web demo\n"
    assert me.ctnr("ps", "-q", "--no-trunc").ok.stdout.strip() == container
    assert json.loads(me.ctnr("ps", "--format", "json").ok.stdout)[0]["labels"] == {"tier": "front"}
    assert me.ctnr("exec", "web", "sh", "-c", "echo in; exit 5").status == 5
    assert me.ctnr("exec", "-i", container[:8], "cat", stdin="x").ok.stdout == "x"
    assert (
        me.ctnr(
            "exec", "-u", "7", "-w", "/tmp", "-e", "A=b", "web", "sh", "-c", "id -u; pwd; echo $A"
        ).ok.stdout
        == "7\n/tmp\nb\n"
    )
    assert json.loads(me.ctnr("inspect", "web").ok.stdout)[0]["State"]["Status"] == "running"
    logs = me.ctnr("logs", "web").ok
    assert (logs.stdout, logs.stderr) == ("first\n", "problem\n")
    stamped = me.ctnr("logs", "--timestamps", "--tail=2", "web").ok
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\S* first\n", stamped.stdout)
    me.ctnr("stop", "-t", "5", "web").ok  # noqa: B018
    assert me.ctnr("wait", "web").ok.stdout == "6\n"
    assert "Exited (6)" in me.ctnr("ps", "-a", "--filter", "name=web").ok.stdout
    assert me.ctnr("logs", "web").ok.stdout == "first\nbye\n"
    me.ctnr("start", "web").ok  # noqa: B018
    assert "Up" in me.ctnr("ps").ok.stdout
    me.ctnr("stop", "web").ok  # noqa: B018
    me.ctnr("stop", "web").ok  # noqa: B018 -- fine when it has stopped


def test_logs_can_be_followed(me: Person, names: list[str]) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.2; done"
    me.ctnr("run", "-d", "--name=chatty", "demo", "sh", "-c", script).ok  # noqa: B018
    names.append("chatty")
    assert me.ctnr("logs", "-f", "chatty").ok.stdout == "1\n2\n3\n"


def test_kill_and_remove(me: Person, names: list[str]) -> None:
    me.ctnr("run", "-d", "--name=k", "demo", "sleep", "1000").ok  # noqa: B018
    names.append("k")
    running = me.ctnr("rm", "k")
    assert running.status == 125
    assert "running" in running.stderr
    assert me.ctnr("kill", "k").ok.stdout == "k\n"
    assert "Exited (137)" in me.ctnr("ps", "-a", "--filter", "name=k").ok.stdout
    again = me.ctnr("kill", "k")
    assert again.status == 125
    assert "not running" in again.stderr
    taken = me.ctnr("run", "-d", "--name=k", "demo", "true")
    assert taken.status == 125
    assert "in use" in taken.stderr


def test_create_and_start(me: Person, names: list[str]) -> None:
    me.ctnr("create", "--name=later", "demo", "sh", "-c", "echo done").ok  # noqa: B018
    names.append("later")
    assert "Created" in me.ctnr("ps", "-a", "--filter", "name=later").ok.stdout
    me.ctnr("start", "later").ok  # noqa: B018
    assert me.ctnr("wait", "later").ok.stdout == "0\n"
    assert me.ctnr("logs", "later").ok.stdout == "done\n"


def test_unknown_names_are_told(me: Person) -> None:
    for command in (
        ["exec", "nobody", "true"],
        ["logs", "nobody"],
        ["stop", "nobody"],
        ["inspect", "nobody"],
    ):
        done = me.ctnr(*command)
        assert done.status == 125
        assert "no container has the name or id nobody" in done.stderr
        assert done.stderr.count("\n") == 1
