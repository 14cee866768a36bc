"""Health checks against real containers: the flags', the image's, and what follows from them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.world import images
from tests.world.people import Person

QUICK = ("--health-interval=0.2s", "--health-retries=2", "--network=none")


def state(me: Person, name: str) -> Any:
    return json.loads(me.ctnr("inspect", name).ok.stdout)[0]["State"]


def start(me: Person, names: list[str], name: str, *options: str, script: str = "exec sleep 1000") -> None:
    names.append(name)
    me.ctnr("run", "-d", f"--name={name}", *QUICK, *options, "demo", "sh", "-c", script).ok  # noqa: B018


def wait_for_health(me: Person, name: str, status: str) -> Any:
    deadline = time.monotonic() + 30
    while (seen := state(me, name)["Health"])["Status"] != status:
        assert time.monotonic() < deadline, f"{status} expected: {seen}"
        time.sleep(0.1)
    return seen


def test_three_states(me: Person, names: list[str]) -> None:
    start(me, names, "sick", "--health-cmd=echo looking; test -e /well")
    shown = ("ps", "--filter", "name=sick", "--format", "{{.Status}}")
    first = me.ctnr(*shown).ok.stdout
    assert first.endswith(("(health: starting)\n", "(unhealthy)\n"))
    seen = wait_for_health(me, "sick", "unhealthy")
    assert seen["FailingStreak"] >= 2
    assert seen["Log"][-1]["ExitCode"] == 1
    assert seen["Log"][-1]["Output"] == "looking\n"
    assert me.ctnr(*shown).ok.stdout.endswith("(unhealthy)\n")
    failed = me.ctnr("healthcheck", "run", "sick")
    assert (failed.status, failed.stdout, failed.stderr) == (1, "unhealthy\n", "looking\n")
    me.ctnr("exec", "sick", "touch", "/well").ok  # noqa: B018
    me.ctnr("wait", "--condition=healthy", "sick").ok  # noqa: B018
    time.sleep(1.2)
    seen = state(me, "sick")["Health"]
    assert (seen["Status"], len(seen["Log"])) == ("healthy", 5)
    me.ctnr("healthcheck", "run", "sick").ok  # noqa: B018
    assert me.ctnr("ps", "--filter=health=healthy", "--format={{.Names}}").ok.stdout == "sick\n"
    asked = ("events", "--stream=false", "--filter=event=health_status", "--filter=container=sick")
    assert me.ctnr(*asked, "--format", "{{.HealthStatus}}").ok.stdout == "unhealthy\nhealthy\n"


ESCAPES = (
    "setsid sleep 4242 & (env -i /bin/setsid /bin/sh -c '/bin/sleep 4444 & /bin/sleep 4545' &); sleep 4343"
)


def test_a_check_that_hangs_is_killed_with_its_children(me: Person, names: list[str]) -> None:
    """Also with those in sessions of their own, whose parents have gone."""
    start(me, names, "hangs", "--health-timeout=0.3s", "--health-interval=1000s", f"--health-cmd={ESCAPES}")
    failed = me.ctnr("healthcheck", "run", "hangs")
    assert "exceeded timeout (0.3s)" in failed.stderr
    seen = state(me, "hangs")["Health"]
    assert seen["Log"][-1]["ExitCode"] == -1
    deadline = time.monotonic() + 20
    while "sleep 4" in (
        running := me.ctnr("exec", "hangs", "ps").ok.stdout
    ):  # another check may be on its way
        assert time.monotonic() < deadline, running
        time.sleep(0.1)
    assert "sleep 1000" in running


def test_what_an_exec_has_started_goes_with_its_client(me: Person, names: list[str]) -> None:
    start(me, names, "left")
    with me.popen(["ctnr", "exec", "left", "sh", "-c", f"echo up; {ESCAPES}"]) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        deadline = time.monotonic() + 20
        while "sleep 4545" not in me.ctnr("exec", "left", "ps").ok.stdout:
            assert time.monotonic() < deadline
        client.kill()
    while "sleep 4" in (running := me.ctnr("exec", "left", "ps").ok.stdout):
        assert time.monotonic() < deadline, running
    assert "sleep 1000" in running


def test_what_an_exec_that_ends_has_started_goes_on(me: Person, names: list[str]) -> None:
    start(me, names, "daemon")
    me.ctnr("exec", "daemon", "sh", "-c", "setsid sleep 4242 > /dev/null 2>&1 &").ok  # noqa: B018
    assert "sleep 4242" in me.ctnr("exec", "daemon", "ps").ok.stdout


@pytest.mark.parametrize("action", ["kill", "stop", "restart"])
def test_on_failure(me: Person, names: list[str], action: str) -> None:
    start(me, names, action, "--health-cmd=false", f"--health-on-failure={action}", "--stop-timeout=0")
    if action == "restart":
        reader = (
            "events",
            "--since=1m",
            "--stream=false",
            "--filter=container=restart",
            "--format={{.Action}}",
        )
        deadline = time.monotonic() + 30
        while me.ctnr(*reader).ok.stdout.split().count("start") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    else:
        assert me.ctnr("wait", action).ok.stdout == "137\n"


def test_paused_it_is_not_checked(me: Person, names: list[str]) -> None:
    start(me, names, "held", "--health-cmd=true")
    me.ctnr("wait", "--condition=healthy", "held").ok  # noqa: B018
    if me.ctnr("pause", "held").status:
        pytest.skip("no freezer here")
    before = state(me, "held")["Health"]["Log"][-1]
    time.sleep(1)
    seen = state(me, "held")
    assert (seen["Status"], seen["Health"]["Status"]) == ("paused", "healthy")
    later = seen["Health"]["Log"][-1]
    assert later["Start"] <= before["End"] or later == before
    me.ctnr("unpause", "held").ok  # noqa: B018


def test_the_images_check(me: Person, names: list[str], tmp_path: Path, busybox_rootfs: Path) -> None:
    base = images.tar_folder(busybox_rootfs)
    check = {"Test": ["CMD-SHELL", "test -e /etc/hosts"], "Interval": 200_000_000}
    config = {"Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"], "Healthcheck": check}
    layout = images.write_image(me.machine.root / f"checked-{me.name}", [base], config)
    pulled = me.ctnr("pull", "-q", "--image-policy=insecure", f"oci:{layout}").ok.stdout.strip()
    for name, *options in (("own", "--network=none"), ("none", "--network=none", "--no-healthcheck")):
        names.append(name)
        me.ctnr("run", "-d", f"--name={name}", *options, pulled).ok  # noqa: B018
    me.ctnr("wait", "--condition=healthy", "own").ok  # noqa: B018
    assert "Health" not in state(me, "none")
    told = me.ctnr("healthcheck", "run", "none")
    assert (told.status, told.stderr.count("\n")) == (125, 1)
    assert "has no health check" in told.stderr
    assert me.ctnr("wait", "--condition=healthy", "none").status == 125


@pytest.mark.parametrize(
    "flags",
    [
        ["--health-interval=soon"], ["--health-on-failure=pray"], ["--health-on-failure=kill"], ["--health-cmd="],
        ["--health-retries=-1"], ["--health-cmd=true", "--no-healthcheck"], ["--health-cmd=[1"],
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(me: Person, flags: list[str]) -> None:
    told = me.ctnr("run", "--rm", *flags, "demo", "true")
    assert (told.status, told.stderr.count("\n")) == (125, 1), told.stderr
