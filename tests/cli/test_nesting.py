"""The seed's text, typed as it stands there: `make dist`, containers in containers, and what they say to each other."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.world import images
from tests.world.internet import Internet
from tests.world.machine import Machine, run
from tests.world.people import Person
from tests.world.registry import Registry
from tests.world.terminal import Terminal

ROOT = Path(__file__).parents[2]
SECONDS = 60
ALPINE = "docker://alpine:3.8"
DIST_LIMIT_BYTES = 100 << 20
PROMPT = r"/ # "


@pytest.fixture(scope="session")
def repository(machine: Machine) -> Iterator[Path]:
    """A repository's directory after `make dist`, where everybody can read it."""
    folder = machine.root / "repository"
    folder.mkdir()
    run([str(machine.python), str(ROOT / ".ci/dist"), str(folder / "dist")])
    shutil.copy(ROOT / "image-policy-example.json", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def alpine(registry: Registry, busybox_image: Path) -> str:
    """docker.io's alpine:3.8, as far as this machine can tell. (Its busybox is Debian's; its shell is at /bin/sh, too.)"""
    registry.push(busybox_image, "library/alpine:3.8")
    return ALPINE


@pytest.fixture
def typist(as_user: Person, repository: Path, alpine: str) -> Person:
    """Somebody whose `ctnr` is that of `make dist`, and who has set nothing that the seed does not mention."""
    for name in ("CTNR_STORE_DIR",):
        del as_user.env[name]
    as_user.env["PATH"] = f"{repository}/dist/bin:" + as_user.env["PATH"].partition(":")[2]
    return as_user


OUTER = """\
dist/bin/ctnr run -ti -b test --update --privileged \\
	-v "$(pwd)/dist:/usr/local" \\
	-v "$(pwd)/image-policy-example.json:/etc/containers/policy.json" \\
	-v "$HOME/.ctnr:/root/.ctnr" \\
	--network=slirp \\
	--image-policy=image-policy-example.json \\
	docker://alpine:3.8"""


@contextmanager
def outer_container(person: Person, repository: Path, command: str = OUTER) -> Iterator[Terminal]:
    """Terminal 1, in the repository's directory: the outer container's shell."""
    with person.terminal(["sh", "-c", f"cd {repository} && exec {command}"]) as terminal:
        terminal.expect(PROMPT, SECONDS)
        yield terminal
        terminal.line("exit")
        terminal.wait(SECONDS)


def test_two_terminals(typist: Person, repository: Path) -> None:
    with outer_container(typist, repository) as first:
        first.line("ctnr run -ti --rootless --network=slirp,bridge docker://alpine:3.8")
        first.expect(PROMPT, SECONDS)
        first.line("ip -4 route get 10.2.0.0 | awk {'print $6'}")
        first.expect(r"^10\.2\.0\.2\s", SECONDS)
        first.line("nc -lk -p 8080 -e echo hello")
        second = typist.run(
            ["sh", "-c", "ctnr exec test ctnr run --rootless --network=slirp,bridge docker://alpine:3.8 nc 10.2.0.2 8080"]
        )
        assert second.ok.stdout == "hello\n"
        first.ctrl("c")
        first.expect(PROMPT, SECONDS)
        first.line("exit")
        first.expect(PROMPT, SECONDS)
