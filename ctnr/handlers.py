"""Requests of clients, one function each. What they do is `engine`'s; what stands here is who waits for what."""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.bundles.process import parse_signal
from ctnr.engine import Engine
from ctnr.info import describe_host
from ctnr.network_handlers import build_table as network_table
from ctnr.progress import reporting
from supervisor.container import Container, State
from supervisor.errors import SupervisorError, WrongState
from supervisor.runtime.logs import follow_log
from supervisor.runtime.oci import Started
from supervisor.runtime.stdio import Stdio
from supervisor.sandbox.descriptors import close_all
from supervisor.service.server import Connection, Control, Exited, Handler


def build_handlers(engine: Engine) -> Mapping[type[msgspec.Struct], Handler]:
    """The table of the service."""
    table: dict[type[msgspec.Struct], Any] = {
        requests.Run: run, requests.Start: start, requests.ExecIn: exec_in, requests.Attach: attach,
        requests.Ps: ps, requests.Inspect: inspect, requests.Logs: logs, requests.Wait: wait,
        requests.Stop: stop, requests.Kill: kill, requests.Remove: remove,
        requests.Pull: pull, requests.Images: images, requests.ImageImport: image_import,
        requests.ImageExport: image_export, requests.ImageTag: image_tag, requests.ImageUntag: image_untag,
        requests.ImageRemove: image_remove, requests.ImageGc: image_gc, requests.ImageConfig: image_config,
        requests.BundleList: bundle_list, requests.BundleDelete: bundle_delete, requests.BundleGc: bundle_gc,
        requests.Info: info, requests.ServiceStatus: service_status, requests.ServiceStop: service_stop,
    }  # fmt: skip
    return {kind: partial(handler, engine) for kind, handler in {**table, **network_table()}.items()}


# Running


async def run(engine: Engine, request: requests.Run, connection: Connection) -> Any:
    """`ctnr run` and `ctnr create`. A foreground container ends with its client."""
    descriptors = connection.take_descriptors()
    try:
        async with reporting(connection, bars=request.progress) as report:
            record = await engine.create(request, report)
        if not request.start:
            return {"container": record.id, "name": record.name}
        await _announce(request, connection)
        try:
            container = await engine.start(record, _stdio(request, descriptors))
        except BaseException:
            with trio.CancelScope(shield=True):
                await engine.forget_failed(record)
            raise
    finally:
        close_all(descriptors)
    if request.detach:
        return {"container": record.id, "name": record.name}
    try:
        detached = await _accompany(engine, container, connection)
    except BaseException:  # the client has gone
        container.cancel()
        with trio.CancelScope(shield=True):
            await container.wait_gone()
        raise
    if detached:
        return {"container": record.id, "name": record.name, "detached": True}
    return Exited(await container.wait())


async def _announce(request: requests.Run | requests.ExecIn, connection: Connection) -> None:
    """From here a signal is meant for the program; one that comes before it has started is kept for it."""
    if not request.tty and not request.detach:
        await connection.send("starting")


async def _accompany(engine: Engine, container: Container, connection: Connection) -> bool:
    """Until a foreground container is gone, or its client detaches (True)."""
    terminal = (container.terminal,) if container.terminal is not None else ()
    await connection.send("started", terminal, container=container.id, name=container.name)
    detached = await _obey_until(container.wait_gone, connection, partial(_signal, container))
    if detached and container.state is State.RUNNING:
        engine.keep_in_background(container)
        return True
    return False


async def _obey_until(
    end: Callable[[], Awaitable[object]],
    connection: Connection,
    send_signal: Callable[[int], Awaitable[None]],
) -> bool:
    """Do what the client says until `end` returns, or the client detaches (True)."""
    scope = trio.CancelScope()

    async def control(said: Control) -> None:
        if said.op == "detach":
            scope.cancel()
        elif said.op == "signal":
            await send_signal(said.signal)

    await connection.handle_controls(control)
    with scope:
        await end()
    return scope.cancel_called


async def _signal(container: Container, number: int) -> None:
    """One that comes too late is for nobody."""
    if container.state is State.RUNNING:
        await container.signal(number)


def _stdio(request: requests.Run | requests.ExecIn, descriptors: list[int]) -> Stdio:
    size = request.terminal
    rows, columns = (size.rows, size.columns) if size is not None else (0, 0)
    if request.tty:
        return Stdio(tty=True, rows=rows, columns=columns)
    if request.detach or len(descriptors) < 3:
        return Stdio()
    return Stdio(descriptors[0] if request.interactive else None, descriptors[1], descriptors[2])


async def start(engine: Engine, request: requests.Start, connection: Connection) -> Any:
    """In the background, as they were made. One that runs is fine."""
    for name in request.containers:
        record = engine.records.get(name)
        if engine.live(record) is None:
            await engine.start(record, Stdio(tty=record.request.tty), background=True)
    return [engine.records.get(name).name for name in request.containers]


async def exec_in(engine: Engine, request: requests.ExecIn, connection: Connection) -> Any:
    """One more program in a running container; it ends with its client unless detached."""
    descriptors = connection.take_descriptors()
    try:
        await _announce(request, connection)
        started = await engine.exec(request, _stdio(request, descriptors))
    finally:
        close_all(descriptors)
    if request.detach:
        if started.terminal is not None:
            os.close(started.terminal)
        return {"container": request.container}
    try:
        return await _accompany_exec(started, connection, request.container)
    except BaseException:
        await started.process.kill_and_wait()
        raise
    finally:
        if started.terminal is not None:
            os.close(started.terminal)


async def _accompany_exec(started: Started, connection: Connection, container: str) -> Any:
    process = started.process
    terminal = (started.terminal,) if started.terminal is not None else ()
    await connection.send("started", terminal, container=container, name=container)
    await _obey_until(process.wait, connection, process.signal)
    if process.status is None:
        return {"container": container, "detached": True}
    return Exited(process.status)


async def attach(engine: Engine, request: requests.Attach, connection: Connection) -> Any:
    """Follow the output of a background container; with a terminal, or an open stdin, type into it as well.

    `started` brings one descriptor to read from and, if there is something to type into, one more.
    """
    close_all(connection.take_descriptors())
    container = engine.running(engine.records.get(request.container))
    output = container.output.subscribe()
    ends = [output]
    into = container.terminal if container.spec.stdio.tty else container.stdin
    if into is not None and request.stdin:
        ends.append(into)
    try:
        await connection.send(
            "started", tuple(ends), container=container.id, name=container.name, tty=container.spec.stdio.tty
        )
    finally:
        os.close(output)
    if await _obey_until(container.wait_gone, connection, partial(_signal, container)):
        return {"container": container.id, "detached": True}
    return Exited(await container.wait())


# Looking


async def ps(engine: Engine, request: requests.Ps, connection: Connection) -> Any:
    rows = [engine.summary(record) for record in engine.records.all()]
    return [row for row in rows if request.all or row["state"] == State.RUNNING]


async def inspect(engine: Engine, request: requests.Inspect, connection: Connection) -> Any:
    return [engine.inspect(engine.records.get(name)) for name in request.containers]


async def logs(engine: Engine, request: requests.Logs, connection: Connection) -> Any:
    """Stream the lines as `item` events: {stream, data (base64), time}."""
    record = engine.records.get(request.container)
    path = engine.records.log_path(record)
    container = engine.live(record)
    if not os.path.exists(path) and (container is None or container.output.log is None):
        raise SupervisorError(
            f"container {record.name} has no log: its output went to the terminal that started it",
            cure="containers that run with -d have one",
        )
    writer = container.output.log if container is not None and request.follow else None
    kept: list[Any] = []
    async for line in follow_log(path, None if request.tail is not None else writer):
        if _wanted(request, line.time):
            if request.tail is None:
                await _send_line(connection, line)
            else:
                kept.append(line)
                del kept[: -request.tail or len(kept)]
    for line in kept:
        await _send_line(connection, line)
    if request.tail is not None and writer is not None:
        last = kept[-1].time if kept else 0.0
        async for line in follow_log(path, writer):
            if line.time > last and _wanted(request, line.time):
                await _send_line(connection, line)
    return None


def _wanted(request: requests.Logs, time: float) -> bool:
    return (request.since is None or time >= request.since) and (
        request.until is None or time <= request.until
    )


async def _send_line(connection: Connection, line: Any) -> None:
    await connection.send("item", value={"stream": line.stream, "data": line.data, "time": line.time})


async def wait(engine: Engine, request: requests.Wait, connection: Connection) -> Any:
    """The exit statuses, when all have ended."""
    statuses = []
    for name in request.containers:
        record = engine.records.get(name)
        container = engine.live(record)
        if container is not None:
            await container.wait_gone()
            statuses.append(container.status)
        else:
            statuses.append(record.status if record.status is not None else 137)
    return statuses


# Ending


async def _each(names: tuple[str, ...], work: Any) -> list[str]:
    """Do it for all at the same time, every one tried. Raises: ExceptionGroup, or the one error."""
    failed: list[Exception] = []

    async def one(name: str) -> None:
        try:
            await work(name)
        except Exception as exc:
            failed.append(exc)

    async with trio.open_nursery() as nursery:
        for name in dict.fromkeys(names):
            nursery.start_soon(one, name)
    if failed:
        raise ExceptionGroup("some failed", failed)
    return list(names)


async def stop(engine: Engine, request: requests.Stop, connection: Connection) -> Any:
    """Stop signal, grace, SIGKILL. One that has stopped is fine."""

    async def one(name: str) -> None:
        container = engine.live(engine.records.get(name))
        if container is not None:
            await container.stop(request.seconds)

    return await _each(request.containers, one)


async def kill(engine: Engine, request: requests.Kill, connection: Connection) -> Any:
    number = parse_signal(request.signal)

    async def one(name: str) -> None:
        container = engine.running(engine.records.get(name))
        await container.signal(number)
        if number == signals.SIGKILL:
            await container.wait_gone()

    return await _each(request.containers, one)


async def remove(engine: Engine, request: requests.Remove, connection: Connection) -> Any:
    async def one(name: str) -> None:
        record = engine.records.get(name)
        container = engine.live(record)
        if container is not None:
            if not request.force:
                raise WrongState(
                    f"container {record.name} is running",
                    cure=f"ctnr stop {record.name}, or: ctnr rm -f {record.name}",
                )
            container.cancel()
            await container.wait_gone()
        await engine.remove(record)

    return await _each(request.containers, one)


# Images and bundles


async def pull(engine: Engine, request: requests.Pull, connection: Connection) -> Any:
    async with reporting(connection, bars=request.progress) as report:
        image = await engine.pull(
            request.image, policy=request.image_policy, mode=request.pull, platform=request.platform,
            environ=request.environ, report=report,
        )  # fmt: skip
    return {"id": image.id, "names": list(image.names)}


async def images(engine: Engine, request: requests.Images, connection: Connection) -> Any:
    return engine.images.list()


async def image_import(engine: Engine, request: requests.ImageImport, connection: Connection) -> Any:
    descriptors = connection.take_descriptors()
    try:
        async with reporting(connection, bars=False) as report:
            image = await engine.import_image(request, descriptors[0] if descriptors else None, report)
    finally:
        close_all(descriptors)
    return {"id": image.id, "names": list(image.names)}


async def image_export(engine: Engine, request: requests.ImageExport, connection: Connection) -> Any:
    await engine.images.export(request.image, request.destination)
    return None


async def image_tag(engine: Engine, request: requests.ImageTag, connection: Connection) -> Any:
    await engine.images.tag(request.image, request.name)
    return None


async def image_untag(engine: Engine, request: requests.ImageUntag, connection: Connection) -> Any:
    await engine.images.untag(request.name)
    return None


async def image_remove(engine: Engine, request: requests.ImageRemove, connection: Connection) -> Any:
    return await engine.remove_images(request)


async def image_gc(engine: Engine, request: requests.ImageGc, connection: Connection) -> Any:
    return await engine.collect_images(request)


async def image_config(engine: Engine, request: requests.ImageConfig, connection: Connection) -> Any:
    return msgspec.Raw(engine.image(request.image).config_bytes)


async def bundle_list(engine: Engine, request: requests.BundleList, connection: Connection) -> Any:
    return engine.bundles.list()


async def bundle_delete(engine: Engine, request: requests.BundleDelete, connection: Connection) -> Any:
    return await engine.delete_bundles(request)


async def bundle_gc(engine: Engine, request: requests.BundleGc, connection: Connection) -> Any:
    return await engine.collect_bundles()


# The host and the service


async def info(engine: Engine, request: requests.Info, connection: Connection) -> Any:
    return await describe_host(engine.supervisor, engine.store_dir)


async def service_status(engine: Engine, request: requests.ServiceStatus, connection: Connection) -> Any:
    return engine.service_status()


async def service_stop(engine: Engine, request: requests.ServiceStop, connection: Connection) -> Any:
    running = list(engine.supervisor.containers.values())
    if running and not request.force:
        names = ", ".join(sorted(container.name for container in running))
        raise WrongState(
            f"containers are running: {names}", cure="stop them, or: ctnr supervisor stop --force"
        )
    await engine.supervisor.stop_all()
    assert engine.server is not None
    engine.server.stop_after_answer = True
    return None
