"""The root of a container's file system, whether it runs or not."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from ctnr.engine import Engine
from ctnr.records import Record
from supervisor.errors import NotFound, WrongState
from supervisor.sandbox.process import Completed
from supervisor.sandbox.sandbox import Sandbox, python_argv
from supervisor.spec import State

ROOT_DESCRIPTOR = 9  # what the programs beside expect
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@asynccontextmanager
async def open_root(engine: Engine, record: Record | None) -> AsyncIterator[int]:
    """A descriptor of its root directory, as long as the block lasts; None is the host's.

    Of one that runs it is the program's own view, with its volumes. Of one that does not, its overlay is mounted in the
    sandbox meanwhile, and it can't be started. Raises: WrongState, NotFound, BundleBusy, OSError.
    """
    if record is None:
        descriptor = os.open("/", _DIRECTORY)
    elif (container := engine.live(record)) is not None:
        if container.state is not State.RUNNING or (pid := container.host_pid) is None:
            raise WrongState(f"container {record.name} is being started or stopped", cure="try again")
        descriptor = os.open(f"/proc/{pid}/root", _DIRECTORY)
    else:
        async with _mounted(engine, record) as descriptor:
            yield descriptor
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@asynccontextmanager
async def _mounted(engine: Engine, record: Record) -> AsyncIterator[int]:
    image = engine.images.load(record.image_id)
    if image is None:
        raise NotFound(f"the image of container {record.name} is gone", cure=f"ctnr pull {record.image}")
    sandbox = await engine.sandbox(record.request.rootless)
    directory = f"{sandbox.run_dir}/files/{record.id}"
    bundle = engine.bundles.open(record.bundle)
    try:
        await sandbox.mount_overlay(tuple(reversed(image.layer_paths)), bundle.upper, bundle.work, directory)
        descriptor = await sandbox.open_in_root(directory, "/", os.O_PATH | os.O_DIRECTORY)
        assert descriptor is not None
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        try:
            with trio.CancelScope(shield=True):
                await sandbox.unmount(directory)
                await sandbox.remove_tree(directory)
        finally:
            bundle.close()


async def run_program(
    sandbox: Sandbox,
    name: str,
    job: Mapping[str, object],
    *,
    root: int | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
) -> Completed:
    """One of the programs of this package, to its end."""
    return await sandbox.run(
        python_argv(f"ctnr.files.{name}", json.dumps(job)), stdin=stdin, stdout=stdout,
        pass_fds=None if root is None else {ROOT_DESCRIPTOR: root},
    )  # fmt: skip
