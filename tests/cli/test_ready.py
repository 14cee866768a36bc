"""Readiness, who depends on whom, and the order in which they end."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.people import Person
from tests.world.registry import Registry

OPTIONS = ("-d", "--network=none", "--stop-timeout=1")


@pytest.fixture
def chain(me: Person) -> Iterator[Person]:
    yield me
    left = me.ctnr("ps", "-aq").ok.stdout.split()
    if left:
        me.ctnr("rm", "-f", *left).ok  # noqa: B018


def start(me: Person, name: str, *options: str, script: str = "exec sleep 1000") -> str:
    return me.ctnr("run", f"--name={name}", *OPTIONS, *options, "demo", "sh", "-c", script).ok.stdout


@pytest.mark.parametrize(
    ("ready", "script"),
    [
        ("log:^listening on [0-9]+", "sleep 0.5; touch /up; echo listening on 80; exec sleep 1000"),
        ("port:8080", "sleep 0.5; touch /up; exec nc -l -p 8080"),
        ("health", "sleep 0.5; touch /up; exec sleep 1000"),
    ],
)
def test_run_returns_when_it_is_ready(chain: Person, ready: str, script: str) -> None:
    start(
        chain,
        "slow",
        f"--ready={ready}",
        "--health-cmd=test -e /up",
        "--health-interval=0.1s",
        "--health-retries=99",
        script=script,
    )
    chain.ctnr("exec", "slow", "test", "-e", "/up").ok  # noqa: B018
    chain.ctnr("wait", "--condition=ready", "slow").ok  # noqa: B018
    told = chain.ctnr("events", "--stream=false", "--filter=event=ready", "--format={{.Name}}").ok.stdout
    assert told.endswith("slow\n")


def test_a_pattern_that_takes_for_ever_holds_nobody_up(chain: Person) -> None:
    script = "echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!; exec sleep 1000"
    command = ["ctnr", "run", "--name=slow", *OPTIONS, "--ready=log:^(a+)+$", "demo", "sh", "-c", script]
    with chain.popen(command) as starting:
        deadline = time.monotonic() + 20
        while chain.ctnr("logs", "slow").stdout == "":
            assert time.monotonic() < deadline
        for _ in range(5):
            assert "slow" in chain.ctnr("ps", seconds=9).ok.stdout  # less than the pattern may take
        told = starting.communicate(timeout=60)[1].decode()
    assert (starting.returncode, told.count("\n")) == (125, 1), told
    assert "its pattern needs more than 10 s" in told
    assert chain.ctnr("exec", "slow", "echo", "runs").ok.stdout == "runs\n"
    assert chain.ctnr("wait", "--condition=ready", "slow").status == 125


def test_health_is_seen_long_before_the_first_check_is_due(chain: Person) -> None:
    started = time.monotonic()
    start(
        chain,
        "slow",
        "--ready=health",
        "--health-cmd=test -e /up",
        script="sleep 0.5; touch /up; exec sleep 1000",
    )
    assert time.monotonic() - started < 15  # half of the default interval
    assert chain.ctnr("inspect", "--format={{.State.Health.FailingStreak}}", "slow").ok.stdout == "0\n"


def test_its_own_word(chain: Person) -> None:
    """sd_notify(3): sent from outside here, through the container's own mount of the socket."""
    script = 'echo "$NOTIFY_SOCKET"; exec sleep 1000'
    command = ["ctnr", "run", "--name=says", *OPTIONS, "--ready=notify", "demo", "sh", "-c", script]
    starting = chain.popen(command)
    deadline = time.monotonic() + 20
    while (path := chain.ctnr("logs", "says").stdout.strip()) == "":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert path == "/run/notify/notify.sock"
    pid = chain.ctnr("inspect", "--format={{.State.Pid}}", "says").ok.stdout.strip()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"STATUS=nearly\n", f"/proc/{pid}/root{path}")
        time.sleep(0.3)
        assert starting.poll() is None
        sender.sendto(b"MAINPID=1\nREADY=1\n", f"/proc/{pid}/root{path}")
        starting.communicate(timeout=20)
        assert starting.returncode == 0
        sender.settimeout(10)
        for _ in range(100):  # more than the socket's queue holds
            sender.sendto(b"WATCHDOG=1\n", f"/proc/{pid}/root{path}")


def test_one_that_ends_before_it_is_ready(chain: Person) -> None:
    run = ("run", "--name=short", *OPTIONS, "--ready=log:never", "demo", "sh", "-c", "sleep 0.2; exit 3")
    told = chain.ctnr(*run)
    assert (told.status, told.stderr.count("\n")) == (125, 1)
    assert "ended with status 3" in told.stderr


@pytest.mark.parametrize(
    "flag",
    [
        "--ready=soon", "--ready=port:0", "--ready=log:[", "--ready=log:", "--ready=health", "--depends-on=nobody",
        "--depends-on=x:later", "--depends-on=:ready",
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(chain: Person, flag: str) -> None:
    told = chain.ctnr("run", "-d", flag, "demo", "true")
    assert (told.status, told.stderr.count("\n")) == (125, 1), told.stderr


def test_in_the_foreground_there_is_no_log_to_look_at(chain: Person) -> None:
    told = chain.ctnr("run", "--rm", "--ready=log:x", "demo", "true")
    assert (told.status, told.stderr.count("\n")) == (125, 1)
    assert "-d" in told.stderr


def test_dependencies_are_started_and_waited_for(chain: Person) -> None:
    script = "sleep 0.5; echo up; exec sleep 1000"
    options = ("--name=db", "--network=none", "--stop-timeout=1", "--restart=always", "--ready=log:up")
    chain.ctnr("create", *options, "demo", "sh", "-c", script).ok  # noqa: B018
    start(chain, "app", "--depends-on=db:ready")
    start(chain, "web", "--depends-on=app")
    actions = ("events", "--since=1m", "--stream=false", "--format={{.Action}} {{.Name}}")
    told = chain.ctnr(*actions).ok.stdout.splitlines()
    order = [line for line in told if line in ("start db", "ready db", "start app", "start web")]
    assert order == ["start db", "ready db", "start app", "start web"]
    chain.ctnr("stop", "db", "web", "app").ok  # noqa: B018
    told = chain.ctnr(*actions).ok.stdout.splitlines()
    assert [line for line in told if line.startswith("die ")][-3:] == ["die web", "die app", "die db"]
    chain.ctnr("start", "web").ok  # noqa: B018
    assert chain.ctnr("ps", "-q").ok.stdout.count("\n") == 3


def test_a_circle_is_told(chain: Person) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        chain.ctnr("create", f"--name={name}", f"--depends-on={other}", "demo", "true").ok  # noqa: B018
    told = chain.ctnr("start", "a")
    assert (told.status, told.stderr.count("\n")) == (125, 1)
    assert "a → b → c → a" in told.stderr
    chain.ctnr("stop", "a", "b", "c", seconds=20).ok  # noqa: B018 -- nobody waits for the other


def test_wait_for_a_condition(chain: Person) -> None:
    start(chain, "one")
    chain.ctnr("wait", "--condition=running", "one").ok  # noqa: B018
    waiting = chain.popen(["ctnr", "wait", "--condition=removed", "one"])
    time.sleep(0.3)
    assert waiting.poll() is None
    chain.ctnr("rm", "-f", "one").ok  # noqa: B018
    out, _ = waiting.communicate()
    assert (waiting.returncode, out) == (0, b"")
    assert chain.ctnr("wait", "--condition=bored", "one").status == 125


def test_the_service_ends_them_gracefully(newcomer: Person) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    start(newcomer, "polite", "--stop-timeout=10", "--ready=log:up", script=script)
    service = newcomer.ctnr("supervisor", "status", "--format", "{{.pid}}").ok.stdout.strip()
    os.kill(int(service), 15)
    while newcomer.service_pids():
        time.sleep(0.02)
    assert newcomer.ctnr("logs", "polite").ok.stdout == "up\nbye\n"
    newcomer.ctnr("rm", "polite").ok  # noqa: B018


def test_the_readme_is_true(as_user: Person, registry: Registry, busybox_image: Path) -> None:
    for name in ("busybox", "alpine"):
        registry.push(busybox_image, f"library/{name}:latest")
    (as_user.home / "site").mkdir()
    (as_user.home / "site/index.html").write_text("hello\n")
    blocks = (Path(__file__).parents[2] / "README.md").read_text().split("```")
    block = next(block for block in blocks if "--ready=health" in block).replace("\\\n", "")
    for line in block.strip().splitlines():
        if "events" not in line:  # which goes on until Ctrl-C
            as_user.run(["sh", "-c", line.removeprefix("$ ")], seconds=20).ok  # noqa: B018
    assert as_user.ctnr("inspect", "-f", "{{.State.Health.Status}}", "api").ok.stdout == "healthy\n"
    as_user.ctnr("rm", "-f", "shop", "api").ok  # noqa: B018
