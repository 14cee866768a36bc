"""Files of containers: cp, diff."""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.bundles.build import wishes_of
from ctnr.bundles.init_program import DESTINATION as INIT_DESTINATION
from ctnr.engine import Engine
from ctnr.files.root import open_root, run_program
from ctnr.records import Record
from supervisor.errors import SupervisorError
from supervisor.sandbox.descriptors import close_all
from supervisor.sandbox.process import Completed
from supervisor.service.server import Connection

MADE_BY_US = (
    "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run/.containerenv", "/dev", "/proc", "/sys", "/dev/console",
    "/dev/pts", "/dev/shm", "/dev/mqueue", INIT_DESTINATION,
)  # fmt: skip
_CHANGES = {"A": 1, "C": 0, "D": 2}


async def copy(engine: Engine, request: requests.Copy, connection: Connection) -> Any:
    """A tree out of one root into another: two programs in the sandbox with a pipe between them.

    A descriptor that comes along is the archive itself, to be read or to be written.
    """
    descriptors = connection.take_descriptors()
    try:
        source = engine.records.get(request.source) if request.source else None
        target = engine.records.get(request.target) if request.target else None
        if request.to_archive:
            await _send(engine, request, source, descriptors[0])
        elif request.from_archive:
            await _receive(engine, request, target, descriptors[0])
        else:
            await _pass_on(engine, request, source, target)
    finally:
        close_all(descriptors)


async def _pass_on(
    engine: Engine, request: requests.Copy, source: Record | None, target: Record | None
) -> None:
    ends = dict(zip(("read", "write"), os.pipe(), strict=True))
    failed: list[Exception] = []

    async def run(end: str, work: Any, record: Record | None) -> None:
        try:
            await work(engine, request, record, ends[end])
        except Exception as exc:
            failed.append(exc)
        finally:
            os.close(ends.pop(end))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "write", _send, source)
            nursery.start_soon(run, "read", _receive, target)
    finally:
        close_all(list(ends.values()))
    if failed:
        # one end complains of the other's end: the reason is the other error, if there is one
        raise next((exc for exc in failed if not _is_consequence(exc)), failed[0])


def _is_consequence(exc: Exception) -> bool:
    return any(words in str(exc) for words in ("cut off", "nothing came", "exit status 141"))


async def _send(engine: Engine, request: requests.Copy, record: Record | None, output: int) -> None:
    async with open_root(engine, record) as root:
        done = await run_program(
            await engine.sandbox(_rootless(engine, request)),
            "send",
            {"path": request.source_path, "follow": request.follow},
            root=root,
            stdout=output,
        )
    _check(done, record)


async def _receive(engine: Engine, request: requests.Copy, record: Record | None, source: int) -> None:
    job = {
        "path": request.target_path, "contents": request.source_path.endswith("/.") or request.source_path == ".",
        "archive": request.from_archive, "keep_ids": request.archive, "on_host": record is None,
    }  # fmt: skip
    async with open_root(engine, record) as root:
        done = await run_program(
            await engine.sandbox(_rootless(engine, request)), "receive", job, root=root, stdin=source
        )
    _check(done, record)


def _rootless(engine: Engine, request: requests.Copy) -> bool:
    """Where the programs run: with the ids of the container."""
    return any(
        engine.records.get(name).request.rootless for name in (request.source, request.target) if name
    )


def _check(done: Completed, record: Record | None) -> None:
    if done.status:
        where = "" if record is None else f"{record.name}:"
        raise SupervisorError(f"cp: {where}{done.last_line()}")


async def diff(engine: Engine, request: requests.Diff, connection: Connection) -> Any:
    """Rows of [kind (0 changed, 1 added, 2 deleted, as docker counts), path]."""
    record = engine.records.get(request.container)
    image = engine.images.load(record.image_id)
    upper = f"{engine.bundles.root}/{record.bundle}/upper"
    if image is None or not os.path.isdir(upper):
        return []
    job = {
        "upper": upper,
        "lower": list(reversed(image.layer_paths)),
        "mounts": [*MADE_BY_US, *(wish.target for wish in wishes_of(record.request))],
    }
    done = await run_program(await engine.sandbox(record.request.rootless), "changes", job)
    if done.status:
        raise SupervisorError(f"diff: {done.last_line()}")
    return [{"kind": _CHANGES[kind], "path": path} for kind, path in json.loads(done.stdout)]


TABLE: dict[type[msgspec.Struct], Any] = {requests.Copy: copy, requests.Diff: diff}
