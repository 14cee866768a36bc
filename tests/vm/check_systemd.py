"""The units that `ctnr generate systemd` writes, run by the manager they are for; containers' lines in the journal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.vm.login import Login

SCRIPT = "trap 'exit 0' TERM; echo up; while :; do sleep 1; done"
UNIT = "ctnr-web.service"

Eventually = Callable[[Callable[[], bool]], None]


def state(me: Login, word: str = "ActiveState") -> str:
    return me.systemctl("show", "--property", word, "--value", UNIT).ok.stdout.strip()


def running(me: Login) -> bool:
    return me.ctnr("inspect", "--format={{.State.Running}}", "web").stdout == "true\n"


@pytest.fixture
def unit(me: Login) -> Iterator[str]:
    """The unit of a container, known to the manager, and verified."""
    me.ctnr("create", "--name=web", "--network=none", "--stop-timeout=20", "demo", "sh", "-c", SCRIPT).ok  # noqa: B018
    me.run("mkdir", "-p", str(me.unit_dir)).ok  # noqa: B018
    me.run("sh", "-c", f"cd {me.unit_dir} && ctnr generate systemd -f web").ok  # noqa: B018
    verified = me.run(
        "systemd-analyze", *(() if me.is_root else ("--user",)), "verify", f"{me.unit_dir}/{UNIT}"
    )
    assert (verified.stdout + verified.stderr, verified.status) == ("", 0)
    me.systemctl("daemon-reload").ok  # noqa: B018
    yield UNIT
    me.systemctl("stop", UNIT)
    (me.unit_dir / UNIT).unlink()
    me.systemctl("daemon-reload").ok  # noqa: B018
    me.ctnr("rm", "-f", "web").ok  # noqa: B018


def test_life_of_a_unit(me: Login, unit: str, eventually: Eventually) -> None:
    me.ctnr("supervisor", "stop", "--force")  # so that the unit starts the service, too
    me.systemctl("start", unit).ok  # noqa: B018
    assert state(me) == "active"
    eventually(lambda: running(me))
    me.systemctl("restart", unit).ok  # noqa: B018
    eventually(lambda: running(me))
    pid = state(me, "MainPID")
    me.run("kill", "-KILL", pid).ok  # noqa: B018 -- Restart=on-failure
    eventually(lambda: state(me, "MainPID") not in (pid, "0") and running(me))
    assert state(me, "NRestarts") == "1"
    me.systemctl("stop", unit).ok  # noqa: B018
    assert (state(me), state(me, "Result")) == ("inactive", "success")
    assert not running(me)
    me.systemctl("enable", unit).ok  # noqa: B018
    assert me.systemctl("is-enabled", unit).ok.stdout == "enabled\n"
    me.systemctl("disable", unit).ok  # noqa: B018


def test_the_service_is_killed(me: Login, unit: str, eventually: Eventually) -> None:
    me.systemctl("start", unit).ok  # noqa: B018
    eventually(lambda: running(me))
    service = json.loads(me.ctnr("supervisor", "status", "--format=json").ok.stdout)["pid"]
    me.run("kill", "-KILL", str(service)).ok  # noqa: B018
    eventually(lambda: state(me, "NRestarts") == "1" and running(me))
    assert state(me) == "active"


def test_the_journal(me: Login, eventually: Eventually) -> None:
    line = ["run", "-d", "--log-driver=journald", "--network=none", "--name=told", "demo", "sh", "-c"]
    started = me.ctnr(*line, "echo one; echo two >&2; printf three").ok.stdout.strip()
    me.ctnr("wait", "told").ok  # noqa: B018

    def lines() -> list[dict[str, str]]:
        out = me.run("journalctl", "-o", "json", "CONTAINER_NAME=told").ok.stdout
        return [json.loads(one) for one in out.splitlines()]

    eventually(lambda: len(lines()) == 3)
    assert {(one["MESSAGE"], one["PRIORITY"]) for one in lines()} == {
        ("one", "6"),
        ("two", "3"),
        ("three", "6"),
    }
    for one in lines():
        assert one["CONTAINER_ID_FULL"] == started
        assert one["CONTAINER_ID"] == started[:12]
        assert one["SYSLOG_IDENTIFIER"] == "told"
        assert one["_UID"] == ("0" if me.is_root else "1000")
    assert "journalctl CONTAINER_NAME=told" in me.ctnr("logs", "told").stderr
    me.ctnr("rm", "told").ok  # noqa: B018
