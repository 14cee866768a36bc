"""Composition root: stores, supervisor and service put together; what the client starts, and `--no-service` too."""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TextIO, cast

import structlog
import trio

from ctnr import __version__
from ctnr.engine import Engine, check_runtime_dir
from ctnr.handlers import build_handlers
from ctnr.name_servers import follow_host
from ctnr.order import bring_back, stop_all
from supervisor.errors import SupervisorError
from supervisor.groups import bare_errors
from supervisor.service.server import Server
from supervisor.supervisor import open_supervisor

log = structlog.get_logger()

IDLE_SECONDS = 300.0


def main() -> None:
    """Serve on `<runtime dir>/service.sock` until stopped, or idle for `$CTNR_IDLE_SECONDS` (300)."""
    parser = argparse.ArgumentParser(prog="ctnr.daemon")
    parser.add_argument("--runtime-dir", required=True)
    parser.add_argument("--store-dir", required=True)
    parser.add_argument("--ready-fd", type=int)
    options = parser.parse_args()
    if options.ready_fd is not None:
        os.set_inheritable(options.ready_fd, False)
    configure_logging()
    try:
        check_runtime_dir(options.runtime_dir)
    except SupervisorError as exc:
        _tell(options.ready_fd, {"message": exc.message, "cure": exc.cure or ""})
        sys.exit(1)
    lock = os.open(f"{options.runtime_dir}/service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _tell(
            options.ready_fd, {"message": "another service has the lock", "cure": "ctnr supervisor status"}
        )
        sys.exit(1)
    listener = _listen(options.runtime_dir)
    try:
        trio.run(_serve_socket, options.runtime_dir, options.store_dir, listener, options.ready_fd)
    finally:
        os.unlink(f"{options.runtime_dir}/service.sock")


def _listen(runtime_dir: str) -> socket.socket:
    with suppress(FileNotFoundError):
        os.unlink(f"{runtime_dir}/service.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    directory = os.open(runtime_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    old = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{directory}/service.sock")  # a socket's own path has 107 bytes at most
    finally:
        os.umask(old)
        os.close(directory)
    listener.listen(128)
    return listener


def _tell(ready_fd: int | None, error: dict[str, str] | None) -> None:
    if ready_fd is not None:
        os.write(ready_fd, b"\n" if error is None else json.dumps(error).encode() + b"\n")
        os.close(ready_fd)


async def _serve_socket(
    runtime_dir: str, store_dir: str, listener: socket.socket, ready_fd: int | None
) -> None:
    async def serve(server: Server, engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, listener)
            nursery.start_soon(_end_when_idle, server, engine)
            nursery.start_soon(_end_on_signal, server, nursery.cancel_scope)
            nursery.start_soon(bring_back, engine)
            _tell(ready_fd, None)
            log.info("service_started", version=__version__, store=store_dir)
            await server.stopping.wait()
            await stop_all(engine)
            listener.close()  # new clients must not find a service that is about to go
            nursery.cancel_scope.cancel()
        log.info("service_ended")

    await run_engine(runtime_dir, store_dir, serve)


async def run_engine(
    runtime_dir: str, store_dir: str, serve: Callable[[Server, Engine], Awaitable[None]]
) -> None:
    """Run `serve` with everything that requests need. Raises: SupervisorError, OSError."""
    check_runtime_dir(runtime_dir)
    sandbox_dir = f"{runtime_dir}/sandbox"
    os.makedirs(sandbox_dir, 0o700, exist_ok=True)
    async with open_supervisor(sandbox_dir, runtime=os.environ.get("CTNR_RUNTIME")) as supervisor:
        engine = Engine(store_dir, supervisor, runtime_dir=runtime_dir)
        handlers = build_handlers(engine)
        server = Server(handlers, version=__version__)
        engine.server = server
        server.is_idle = lambda: engine.is_idle
        with bare_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow_host, supervisor, engine.records)
                await serve(server, engine)
                nursery.cancel_scope.cancel()


async def _end_when_idle(server: Server, engine: Engine) -> None:
    limit = float(os.environ.get("CTNR_IDLE_SECONDS", IDLE_SECONDS))
    while True:
        idle = time.monotonic() - server.last_used
        if server.connections or not engine.is_idle:
            idle = 0
        if idle >= limit:
            server.stopping.set()
        await trio.sleep(max(limit - idle, 0.05))


async def _end_on_signal(server: Server, scope: trio.CancelScope) -> None:
    """The first one ends the containers gracefully, the second one at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        async for _ in received:
            if server.stopping.is_set():
                scope.cancel()
            server.stopping.set()


class _Thread:
    """The service of one `--no-service` command, in a thread beside its client."""

    def __init__(self, runtime_dir: str, store_dir: str) -> None:
        self.client, self.server = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, args=(runtime_dir, store_dir), name="ctnr-service")

    def _run(self, runtime_dir: str, store_dir: str) -> None:
        async def serve(server: Server, engine: Engine) -> None:
            await server.serve_connection(trio.socket.from_stdlib_socket(self.server))

        try:
            trio.run(partial(run_engine, runtime_dir, store_dir, serve))
        except Exception as exc:
            self.error = exc
            self.server.close()


_threads: list[_Thread] = []


def serve_in_thread(store_dir: str, runtime_dir: str) -> int:
    """The same engine in this process: a connected socket's descriptor, for one request. The caller closes it."""
    configure_logging(level=os.environ.get("CTNR_LOG_LEVEL", "error"))
    thread = _Thread(runtime_dir, store_dir)
    thread.thread.start()
    _threads.append(thread)
    return thread.client.detach()


def stop_thread() -> None:
    """Wait until the thread has cleaned up. Raises: what it failed with."""
    while _threads:
        thread = _threads.pop()
        thread.thread.join()
        if thread.error is not None:
            raise thread.error


class _Stderr(io.TextIOBase):
    """Standard error, where it can be written: a full disk must not end what logs."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            os.write(2, text.encode(errors="backslashreplace"))
        return len(text)


def configure_logging(level: str | None = None) -> None:
    """One JSON object per line on stderr; `level` (default `$CTNR_LOG_LEVEL` or info) and above."""
    import logging

    wanted = (level or os.environ.get("CTNR_LOG_LEVEL") or "info").upper()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, wanted, logging.INFO)),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )


__all__ = ["SupervisorError", "main", "run_engine", "serve_in_thread", "stop_thread"]

if __name__ == "__main__":
    main()
