"""`exec`, `logs` and commands about many containers, on containers in the background."""

from __future__ import annotations

import json
import signal
import time

from tests.world.people import Person


def test_logs_by_count_and_time(me: Person, names: list[str]) -> None:
    script = "for i in 1 2 3 4 5; do echo $i; done; exec sleep 1000"
    me.ctnr("run", "-d", "--init", "--name=told", "--network=none", "demo", "sh", "-c", script).ok  # noqa: B018
    names.append("told")
    deadline = time.monotonic() + 10
    while "5" not in me.ctnr("logs", "told").ok.stdout:
        assert time.monotonic() < deadline
    assert me.ctnr("logs", "--tail=2", "told").ok.stdout == "4\n5\n"
    assert me.ctnr("logs", "--tail=0", "told").ok.stdout == ""
    assert me.ctnr("logs", "--since=1h", "told").ok.stdout == "1\n2\n3\n4\n5\n"
    assert me.ctnr("logs", "--until=1h", "told").ok.stdout == ""
    follow = ["ctnr", "logs", "-f", "--tail=1", "told"]
    with me.popen(follow) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"5\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) in (130, -signal.SIGINT)
    with me.popen(follow) as follower, me.popen(["ctnr", "wait", "told"]) as waiter:
        assert follower.stdout is not None
        assert waiter.stdout is not None
        assert follower.stdout.readline() == b"5\n"
        me.ctnr("kill", "-s", "TERM", "told").ok  # noqa: B018
        assert waiter.stdout.read() == b"143\n"
        assert follower.wait(10) == 0, "it ends with what it follows"


def test_many_at_once(me: Person, names: list[str]) -> None:
    for name in ("m1", "m2"):
        me.ctnr("run", "-d", "--init", "--network=none", "--name", name, "demo", "sleep", "1000").ok  # noqa: B018
        names.append(name)
    table = me.ctnr(
        "ps", "--filter", "name=m", "--format", "table {{.Names}}\t{{.State}}"
    ).ok.stdout.splitlines()
    assert table[0].split() == ["NAMES", "STATE"]
    assert {"m1", "m2"} <= {line.split()[0] for line in table[1:]}
    last = me.ctnr("ps", "-n1", "--format", "{{json .}}").ok.stdout
    assert json.loads(last)["Names"] == "m2"
    assert me.ctnr("stop", "m1", "m2").ok.stdout == "m1\nm2\n"
    assert me.ctnr("wait", "m1", "m2").ok.stdout == "143\n143\n"
    assert me.ctnr("ps", "-a", "--filter", "status=running", "-q").ok.stdout == ""
    assert me.ctnr("start", "m1", "m2").ok.stdout == "m1\nm2\n"
    partly = me.ctnr("rm", "-f", "m1", "nobody", "m2")
    assert (partly.status, partly.stderr.count("\n")) == (125, 1)
    assert me.ctnr("ps", "-a", "-q").ok.stdout == "", "those that could be removed are"


def test_formats_tell_what_there_is(me: Person, names: list[str]) -> None:
    me.ctnr("create", "--name=row", "demo").ok  # noqa: B018
    names.append("row")
    for flag, value, says in (
        ("--format", "{{.Nope}}", "there are: ID"),
        ("--filter", "nope=a", "one of: id"),
    ):
        done = me.ctnr("ps", "-a", flag, value)
        assert (done.status, done.stderr.count("\n")) == (125, 1)
        assert says in done.stderr


def test_exec_and_what_becomes_of_it(me: Person, names: list[str]) -> None:
    flags = ["-d", "--name=host", "--network=none", "-e", "A=1", "-v", "/data"]
    me.ctnr("run", *flags, "demo", "sleep", "1000").ok  # noqa: B018
    names.append("host")
    for command, status, says in (
        (["host", "no-such"], 127, "not found in the container"),
        (["host", "/etc"], 126, "can't be executed"),
        (["-w", "/nowhere", "host", "true"], 125, "working directory /nowhere: not there"),
        (["-w", "/etc/passwd", "host", "true"], 125, "not a directory"),
        (["-u", "nobody-here", "host", "true"], 125, "not in /etc/passwd"),
    ):
        done = me.ctnr("exec", *command)
        assert status == done.status
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    assert me.ctnr("exec", "-w", "/data", "host", "sh", "-c", "echo $A; pwd; kill -9 $$").status == 137
    script = "pwd; echo $A"
    assert (
        me.ctnr("exec", "-w", "/dev/shm", "-e", "A=2", "host", "sh", "-c", script).ok.stdout
        == "/dev/shm\n2\n"
    )
    assert me.ctnr("exec", "-t", "host", "tty").ok.stdout == "/dev/pts/0\r\n"
    me.ctnr("exec", "-d", "host", "sh", "-c", "touch /data/made").ok  # noqa: B018
    deadline = time.monotonic() + 10
    while me.ctnr("exec", "host", "ls", "/data").ok.stdout != "made\n":
        assert time.monotonic() < deadline


def test_exec_ends_with_its_client_and_with_its_container(me: Person, names: list[str]) -> None:
    me.ctnr("run", "-d", "--name=host", "--network=none", "demo", "sleep", "1000").ok  # noqa: B018
    names.append("host")
    sleep = ["ctnr", "exec", "host", "sh", "-c", "echo up; exec sleep 777"]
    with me.popen(sleep) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
    deadline = time.monotonic() + 10
    while "sleep 777" in me.ctnr("exec", "host", "ps").ok.stdout:
        assert time.monotonic() < deadline, "it outlives its client"
    with me.popen(sleep) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        me.ctnr("kill", "host").ok  # noqa: B018
        assert process.wait(10) == 137
