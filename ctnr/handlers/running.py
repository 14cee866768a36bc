"""A program in a container, and the client that accompanies it: run, exec, attach."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.engine import Engine
from ctnr.progress import reporting
from ctnr.records import Record
from supervisor.container import Container
from supervisor.runtime.oci import Started
from supervisor.runtime.stdio import Stdio
from supervisor.sandbox.descriptors import close_all
from supervisor.service.server import Connection, Control, Exited
from supervisor.spec import State


async def run(engine: Engine, request: requests.Run, connection: Connection) -> Any:
    """`ctnr run` and `ctnr create`. A foreground container ends with its client."""
    descriptors = connection.take_descriptors()
    record = None
    try:
        async with reporting(connection, bars=request.progress) as report:
            record = await engine.create(request, report)
        if not request.start:
            return {"container": record.id, "name": record.name}
        await _announce(request, connection)
        container = await engine.start(record, _stdio(request, descriptors, tty=request.tty))
    except BaseException:  # from the record on: the client may go before the start
        if record is not None:
            with trio.CancelScope(shield=True):
                await engine.forget_failed(record)
        raise
    finally:
        close_all(descriptors)
    if request.detach:
        if request.ready is not None:
            await container.wait_ready()
        return {"container": record.id, "name": record.name}
    return await _stay(engine, record, container, connection)


async def start_here(engine: Engine, request: requests.StartHere, connection: Connection) -> Any:
    """`ctnr start --attach`: in the foreground, as run; a container that runs already is joined."""
    record = engine.records.get(request.container)
    if engine.live(record) is not None:
        return await _join(engine, record, connection, stdin=request.interactive)
    descriptors = connection.take_descriptors()
    try:
        stdio = _stdio(request, descriptors, tty=record.request.tty)
        if not stdio.tty:
            await connection.send("starting")
        container = await engine.start(record, stdio, background=False)
    finally:
        close_all(descriptors)
    return await _stay(engine, record, container, connection)


async def _stay(engine: Engine, record: Record, container: Container, connection: Connection) -> Any:
    """With a container that goes when its client goes, unless that detaches."""
    try:
        detached = await _accompany(engine, container, connection)
    except BaseException:  # the client has gone
        container.cancel()
        with trio.CancelScope(shield=True):
            await container.wait_gone()
        raise
    if detached:
        return {"container": record.id, "name": record.name, "detached": True}
    return Exited(container.status or 0)


async def _announce(request: requests.Run | requests.ExecIn, connection: Connection) -> None:
    """From here a signal is meant for the program; one that comes before it has started is kept for it."""
    if not request.tty and not request.detach:
        await connection.send("starting")


async def _accompany(engine: Engine, container: Container, connection: Connection) -> bool:
    """Until a foreground container is gone, or its client detaches (True).

    One that will be started again and has a terminal is left alone after its first round: its next terminal is another.
    """
    with _copies(container.streams.terminal) as terminal:
        await connection.send("started", terminal, container=container.id, name=container.name)
    end = container.wait_round if container.spec.stdio.tty else container.wait_gone
    detached = await _obey_until(end, connection, partial(_signal, container))
    if not container.has_ended and (detached or container.spec.stdio.tty):
        engine.keep_in_background(container)
        return detached
    await container.wait_gone()
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


@contextmanager
def _copies(descriptor: int | None) -> Iterator[tuple[int, ...]]:
    """One of it, if it is one, as long as the block lasts: its owner may close it then, and the number be another's."""
    copy = () if descriptor is None else (os.dup(descriptor),)
    try:
        yield copy
    finally:
        close_all(list(copy))


async def _signal(container: Container, number: int) -> None:
    """One that comes too late is for nobody."""
    if container.state is State.RUNNING:
        await container.signal(number)


def _stdio(
    request: requests.Run | requests.ExecIn | requests.StartHere, descriptors: list[int], *, tty: bool
) -> Stdio:
    size = request.terminal
    rows, columns = (size.rows, size.columns) if size is not None else (0, 0)
    if tty:
        return Stdio(tty=True, rows=rows, columns=columns)
    if len(descriptors) < 3 or (not isinstance(request, requests.StartHere) and request.detach):
        return Stdio()
    return Stdio(descriptors[0] if request.interactive else None, descriptors[1], descriptors[2])


async def exec_in(engine: Engine, request: requests.ExecIn, connection: Connection) -> Any:
    """One more program in a running container; it ends with its client unless detached."""
    descriptors = connection.take_descriptors()
    try:
        container = engine.running(engine.records.get(request.container))
        await _announce(request, connection)
        started = await engine.exec(request, _stdio(request, descriptors, tty=request.tty))
    finally:
        close_all(descriptors)
    try:
        container.tell("exec_start", command=" ".join(request.args))
        if request.detach:
            return {"container": request.container}
        answer = await _accompany_exec(started, connection, request.container)
        if isinstance(answer, Exited):
            container.tell("exec_die", status=answer.status)
        return answer
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

    `started` brings one descriptor to read from and, if there is something to type into, one more. Who types into a
    terminal leaves with it, also when the container is started again: its next terminal is another.
    """
    return await _join(engine, engine.records.get(request.container), connection, stdin=request.stdin)


async def _join(engine: Engine, record: Record, connection: Connection, *, stdin: bool) -> Any:
    close_all(connection.take_descriptors())
    container = engine.running(record)
    tty = container.spec.stdio.tty
    into = (container.streams.terminal if tty else container.streams.stdin) if stdin else None
    end = container.wait_round if tty and into is not None else container.wait_gone
    async with container.streams.output.copied() as output:
        try:
            with _copies(into) as more:
                ends = (output, *more)
                await connection.send("started", ends, container=container.id, name=container.name, tty=tty)
        finally:
            os.close(output)
        container.tell("attach")
        detached = await _obey_until(end, connection, partial(_signal, container))
    if detached:
        container.tell("detach")
        return {"container": container.id, "detached": True}
    return Exited(container.status or 0)


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Run: run,
    requests.ExecIn: exec_in,
    requests.Attach: attach,
    requests.StartHere: start_here,
}
