"""What tests of containers share."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor import ContainerSpec, open_supervisor
from supervisor.bundle import open_bundle
from supervisor.runtime.stdio import Stdio

KINDS = pytest.mark.parametrize("rootless", [False, True], ids=["plain", "userns"])


class Outlet:
    """A pipe for a container's output."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.stdio = Stdio(stdout=self.writer, stderr=self.writer)

    def close(self) -> bytes:
        os.close(self.writer)
        said = b""
        while part := os.read(self.reader, 65536):
            said += part
        os.close(self.reader)
        return said


def spec(bundle: Path, args: Sequence[str], **more: Any) -> ContainerSpec:
    return open_bundle(str(bundle), args=args, **more)


async def said_by(bundle: Path, args: Sequence[str], *, rootless: bool, **more: Any) -> tuple[int, str]:
    outlet = Outlet()
    async with (
        open_supervisor() as supervisor,
        supervisor.run(spec(bundle, args, stdio=outlet.stdio, **more), rootless=rootless) as container,
    ):
        with trio.fail_after(20):
            status = await container.wait()
    return status, outlet.close().decode()


@contextmanager
def no_descriptors_for(pid: int) -> Iterator[None]:
    """The process keeps those that it has, and gets no more: 0, 1 and 2 are taken."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
