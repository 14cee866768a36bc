"""Clients whose supervisor is their own, or is killed, or has a long way to go."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from tests.cli.test_service import daemons, wait_until
from tests.world.machine import Machine
from tests.world.people import Person


@pytest.fixture(scope="module", autouse=True)
def _furniture(machine: Machine, busybox_image: Path) -> None:
    """What root's first container makes and keeps for all that follow."""
    with contextlib.closing(Person(machine, "root")) as person:
        prepare(person, busybox_image)


@pytest.fixture
def newcomer(as_user: Person, busybox_image: Path) -> Person:
    """Somebody with the image `demo` and a service of a few seconds' age."""
    prepare(as_user, busybox_image)
    return as_user


def prepare(person: Person, image: Path) -> None:
    pulled = person.ctnr("pull", "-q", "--image-policy=insecure", f"oci:{image}").ok.stdout.strip()
    person.ctnr("image", "tag", pulled, "demo").ok  # noqa: B018
    person.ctnr("run", "--rm", "--network=none", "demo", "true").ok  # noqa: B018


def sweep(person: Person) -> None:
    """What a killed supervisor of root's had on record goes with the next start, not with a service that runs."""
    person.ctnr("supervisor", "stop").ok  # noqa: B018
    wait_until(lambda: not daemons(person), "it has not stopped")
    assert person.ctnr("run", "--rm", "--network=none", "demo", "echo", "again").ok.stdout == "again\n"


def test_a_command_with_a_supervisor_of_its_own(newcomer: Person) -> None:
    """--no-service beside the service, on the same store; its client killed, nothing stays (the leak guard looks)."""
    alone = newcomer.home / "alone"
    alone.mkdir(mode=0o700)
    os.chown(alone, newcomer.uid, newcomer.uid)
    own = {"CTNR_RUNTIME_DIR": str(alone)}
    run = ["--no-service", "run", "--rm", "--network=none", "-i", "demo"]
    done = newcomer.ctnr(*run, "sh", "-c", "cat; echo e >&2; exit 6", stdin="o", env=own)
    assert (done.status, done.stdout, done.stderr) == (6, "o", "e\n")
    assert (
        newcomer.ctnr("--no-service", "run", "--rm", "--network=none", "demo", "no-such", env=own).status
        == 127
    )
    told = newcomer.ctnr("--no-service", "run", "--rm", "--network=nope", "demo", "true", env=own)
    assert (told.status, told.stderr.count("\n")) == (125, 1)
    terminal_run = ["--no-service", "run", "--rm", "-ti", "--network=slirp", "demo", "sh"]
    with newcomer.pty(*terminal_run, env=own, rows=33, columns=77) as terminal:
        before = terminal.mode()
        terminal.expect("# ")
        terminal.line("stty size")
        terminal.expect(r"33 77\s")
        terminal.line("exit 4")
        assert terminal.wait() == 4
        assert before == terminal.mode()
    with newcomer.pty(*terminal_run, env=own) as terminal:
        terminal.expect("# ")
        os.kill(terminal.pid, 9)
        assert terminal.wait() == 137
    sweep(newcomer)


def test_a_plain_client_and_exec_when_the_service_is_killed(newcomer: Person) -> None:
    run = ["ctnr", "run", "--name=plain", "--network=none", "demo", "sh", "-c", "echo up; exec sleep 1000"]
    with newcomer.popen(run) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"up\n"
        with newcomer.pty("exec", "-ti", "plain", "sh") as terminal:
            before = terminal.mode()
            terminal.expect("# ")
            for pid in daemons(newcomer):
                os.kill(pid, 9)
            assert process.wait(10) == 125
            told = process.stderr.read().decode()
            assert told.startswith("ctnr: the service ended")
            assert told.count("\n") == 1
            assert terminal.wait() == 125
            assert before == terminal.mode()
            assert terminal.text.count("ctnr: the service ended") == 1
    wait_until(lambda: not newcomer.service_pids(), "something outlives the service")
    assert "Up" not in newcomer.ctnr("ps", "-a").ok.stdout
    sweep(newcomer)


def test_a_long_runtime_directory(newcomer: Person) -> None:
    """Sockets can't have long paths: told at the start, whatever the command is."""
    long = {"CTNR_RUNTIME_DIR": str(newcomer.home / ("long" * 20))}
    for command in (["images"], ["--no-service", "run", "--rm", "--network=none", "demo", "true"]):
        told = newcomer.ctnr(*command, env=long)
        assert (told.status, told.stderr.count("\n")) == (125, 1)
        assert "set CTNR_RUNTIME_DIR to a shorter path" in told.stderr
