"""A container's whole life, cancelled at each step of it, in each of its kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from netconf import load_builtin
from supervisor import ContainerSpec, open_supervisor
from supervisor.bundle import open_bundle
from supervisor.runtime.stdio import Stdio
from tests.sweep.sweeping import Story, sweep

KINDS = pytest.mark.parametrize("rootless", [False, True], ids=["plain", "userns"])


def story_of(spec: ContainerSpec, *, rootless: bool) -> Story:
    async def story() -> None:
        async with open_supervisor() as supervisor, supervisor.run(spec, rootless=rootless) as container:
            await container.wait()

    return story


@KINDS
def test_slirp(bundle: Path, rootless: bool) -> None:
    points = sweep(
        story_of(
            open_bundle(str(bundle), args=["true"], networks=[load_builtin("slirp")]), rootless=rootless
        )
    )
    assert points > 20


@KINDS
def test_terminal(bundle: Path, rootless: bool) -> None:
    spec = open_bundle(str(bundle), args=["true"], stdio=Stdio(tty=True, rows=24, columns=80))
    assert sweep(story_of(spec, rootless=rootless)) > 20


@KINDS
def test_background_with_a_log(bundle: Path, tmp_path: Path, rootless: bool) -> None:
    spec = open_bundle(str(bundle), args=["echo", "hi"], log_path=str(tmp_path / "log"))
    assert sweep(story_of(spec, rootless=rootless)) > 20


@KINDS
def test_bridge(bundle: Path, rootless: bool) -> None:
    spec = open_bundle(str(bundle), args=["true"], networks=[load_builtin("bridge")])
    assert sweep(story_of(spec, rootless=rootless), stride=12) > 5
