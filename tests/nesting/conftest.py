"""A repository after `make dist`, somebody who works in it, and an image that stands in for alpine's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import images
from tests.world.machine import Machine, run
from tests.world.people import Person
from tests.world.registry import Registry

ROOT = Path(__file__).parents[2]
# Debian's busybox calls it -ll what alpine's calls -lk
NETCAT = b'#!/bin/sh\n[ "$1" = -lk ] && shift && set -- -ll "$@"\nexec busybox nc "$@"\n'


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
def alpine(machine: Machine, registry: Registry, busybox_rootfs: Path) -> str:
    """docker.io's alpine:3.8, as far as this machine can tell: a busybox, with alpine's own configuration."""
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = {"Cmd": ["/bin/sh"], "Env": [path, "ENV=/etc/shrc"]}
    # Debian's busybox shell would take its own nc before it looks into /bin
    netcat = images.layer(
        [images.Entry("bin/nc", NETCAT, mode=0o755), images.Entry("etc/shrc", b"alias nc=/bin/nc\n")]
    )
    layout = images.write_image(machine.root / "alpine", [images.tar_folder(busybox_rootfs), netcat], config)
    for tag in ("3.8", "latest"):
        registry.push(layout, f"library/alpine:{tag}")
    return "docker://alpine:3.8"


@pytest.fixture
def typist(as_user: Person, repository: Path, alpine: str) -> Person:
    """Somebody whose `ctnr` is that of `make dist`, and who has set nothing that the seed does not mention."""
    del as_user.env["CTNR_STORE_DIR"]
    as_user.env["PATH"] = f"{repository}/dist/bin:" + as_user.env["PATH"].partition(":")[2]
    return as_user
