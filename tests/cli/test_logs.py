"""`logs` of real containers: many, followed, rotated, removed; log drivers."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from tests.world.people import Person

COUNT = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); done; exec sleep 1000"


@pytest.fixture
def pair(me: Person, names: list[str]) -> list[str]:
    """Two containers that have written in turn, and rest."""
    for name, words in (("first", "one three"), ("second", "two four")):
        a, b = words.split()
        script = (
            f"echo {a}; echo {a} >&2; until [ -e /turn ]; do sleep 0.02; done; echo {b}; exec sleep 1000"
        )
        me.ctnr("run", "-d", "--init", "--network=none", "--name", name, "demo", "sh", "-c", script).ok  # noqa: B018
        names.append(name)
        _await_log(me, name, a)
    for name in ("first", "second"):
        me.ctnr("exec", name, "touch", "/turn").ok  # noqa: B018
        _await_log(me, name, {"first": "three", "second": "four"}[name])
    return ["first", "second"]


def _await_log(me: Person, name: str, text: str) -> str:
    deadline = time.monotonic() + 20
    while text not in (out := me.ctnr("logs", name).ok.stdout):
        assert time.monotonic() < deadline, out
    return out


def test_of_several_containers_come_in_the_order_of_time(me: Person, pair: list[str]) -> None:
    named = me.ctnr("logs", "--names", *pair).ok
    assert named.stdout == "first one\nsecond two\nfirst three\nsecond four\n"
    assert named.stderr == "first one\nsecond two\n"
    ids = me.ctnr("ps", "-q", "--filter", "name=first").ok.stdout.split()
    assert me.ctnr("logs", *pair).ok.stdout.startswith(f"{ids[0]} one\n"), "as podman: by id"
    assert me.ctnr("logs", "--names", "--tail=1", *pair).ok.stdout == "first three\nsecond four\n"
    stamped = me.ctnr("logs", "--names", "-t", "first").ok.stdout.splitlines()[1]
    assert re.fullmatch(r"first \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z three", stamped)
    since = stamped.split()[1]
    assert me.ctnr("logs", "--since", since, "first").ok.stdout == "three\n"
    followed = me.ctnr("logs", "-f", "--names", "--until=1s", *pair).ok.stdout
    assert followed.count("\n") <= 4


def test_followers_of_two_end_with_the_last(me: Person, pair: list[str]) -> None:
    with me.popen(["ctnr", "logs", "-f", "--names", "--tail=0", *pair]) as follower:
        assert follower.stdout is not None
        time.sleep(0.3)  # nothing tells that it listens; what comes earlier than that it reads all the same
        me.ctnr("stop", "first").ok  # noqa: B018
        assert follower.poll() is None
        me.ctnr("stop", "second").ok  # noqa: B018
        assert follower.wait(10) == 0
        assert follower.stdout.read() == b""


def test_rotation_is_bounded_and_followed(me: Person, names: list[str]) -> None:
    options = ["--log-opt=max-size=2k", "--log-opt", "max-file=3"]
    me.ctnr("run", "-d", "--init", "--network=none", "--name=turned", *options, "demo", "sh", "-c", COUNT).ok  # noqa: B018
    names.append("turned")
    kept = _await_log(me, "turned", "\n299\n").split()
    assert kept == [str(number) for number in range(300 - len(kept), 300)]
    assert len(kept) < 300
    path = Path(me.ctnr("inspect", "--format={{.LogPath}}", "turned").ok.stdout.strip())
    files = sorted(path.parent.glob("container.log*"))
    assert [file.name for file in files] == ["container.log", "container.log.1", "container.log.2"]
    assert me.ctnr("logs", "--tail=100", "turned").ok.stdout.split() == kept[-100:]


def test_a_removed_log_goes_on(me: Person, names: list[str]) -> None:
    script = "echo before; until [ -e /go ]; do sleep 0.02; done; echo after; exec sleep 1000"
    me.ctnr("run", "-d", "--init", "--network=none", "--name=cut", "demo", "sh", "-c", script).ok  # noqa: B018
    names.append("cut")
    _await_log(me, "cut", "before")
    path = Path(me.ctnr("inspect", "--format={{.LogPath}}", "cut").ok.stdout.strip())
    with me.popen(["ctnr", "logs", "-f", "cut"]) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"before\n"
        path.unlink()
        assert me.ctnr("logs", "cut").ok.stdout == ""
        me.ctnr("exec", "cut", "touch", "/go").ok  # noqa: B018
        assert follower.stdout.readline() == b"after\n"
        me.ctnr("kill", "cut").ok  # noqa: B018
        assert follower.wait(10) == 0
    assert me.ctnr("logs", "cut").ok.stdout == "after\n"


def test_log_drivers(me: Person, names: list[str]) -> None:
    me.ctnr("run", "-d", "--network=none", "--log-driver=none", "--name=mute", "demo", "echo", "x").ok  # noqa: B018
    names.append("mute")
    me.ctnr("wait", "mute").ok  # noqa: B018
    mute = me.ctnr("logs", "mute")
    assert (mute.status, "log driver none" in mute.stderr) == (125, True)
    me.ctnr("run", "-d", "--network=none", "--log-driver=json-file", "--name=js", "demo", "echo", "x").ok  # noqa: B018
    names.append("js")
    me.ctnr("wait", "js").ok  # noqa: B018
    assert me.ctnr("logs", "js").ok.stdout == "x\n"
    for driver, why in (("journald", "there is no journal here"), ("syslog", "not known here")):
        refused = me.ctnr("run", "-d", f"--log-driver={driver}", "demo", "true")
        assert refused.status == 125
        assert why in refused.stderr
        assert refused.stderr.count("\n") == 1
    refused = me.ctnr("run", "-d", "--log-opt=max-size=much", "demo", "true")
    assert (refused.status, "max-size" in refused.stderr) == (125, True)


def test_the_journal_is_used_where_there_is_one(me: Person, names: list[str]) -> None:
    folder = Path("/run/systemd/journal")  # the test machine's own, thrown away with it
    folder.mkdir(parents=True, exist_ok=True)
    where = folder / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(where))
        where.chmod(0o666)
        try:
            journal.settimeout(20)
            started = me.ctnr("run", "-d", "--log-driver=journald", "--name=told", "demo", "echo", "hi")
            assert started.ok.stdout
            names.append("told")
            message = journal.recv(1 << 16).split(b"\n")
        finally:
            where.unlink()
            folder.rmdir()
            folder.parent.rmdir()
    assert message[0] == b"MESSAGE=hi"
    assert b"CONTAINER_NAME=told" in message
    elsewhere = me.ctnr("logs", "told")
    assert "journalctl CONTAINER_NAME=told" in elsewhere.stderr


def test_a_full_disk_does_not_stop_the_container(me: Person, names: list[str]) -> None:
    if me.uid:
        pytest.skip("only root can make a small disk")
    script = "yes | head -c 3000000; echo done; exit 4"
    assert me.ctnr("create", "--network=none", "--name=full", "demo", "sh", "-c", script).ok.stdout
    names.append("full")
    folder = Path(me.ctnr("inspect", "--format={{.LogPath}}", "full").ok.stdout.strip()).parent
    me.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]).ok  # noqa: B018
    try:
        me.ctnr("start", "full").ok  # noqa: B018
        assert me.ctnr("wait", "full").ok.stdout == "4\n"
        logs = me.ctnr("logs", "--tail=3", "full").ok
        assert logs.stderr == "ctnr: warning: the log of full is not whole: No space left on device\n"
        assert logs.stdout.startswith("y\n")
    finally:
        me.run(["umount", str(folder)]).ok  # noqa: B018
