"""The service's socket: who may connect, one scope per connection, errors in words, idle exit."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Union

import msgspec
import structlog
import trio

from netconf.decode import UNREADABLE
from supervisor.errors import SupervisorError
from supervisor.groups import single_error
from supervisor.service.frames import FrameError, FrameSocket

log = structlog.get_logger()

HELLO_SECONDS = 30  # for a client to say what it wants
EARLY_CONTROLS = 64  # kept until somebody listens to them
ACCEPT_AGAIN_SECONDS = 0.1

# accept(2): no descriptor or memory is left for the moment, or the client went in between
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)

Handler = Callable[[Any, "Connection"], Awaitable[Any]]


class Exited(msgspec.Struct, frozen=True):
    """A handler's answer that ends the client with this status."""

    status: int


class Control(msgspec.Struct, frozen=True):
    """What a client may say after its request: {"op": "signal", "signal": 2} or {"op": "detach"}."""

    op: str
    signal: int = 0


_control = msgspec.json.Decoder(Control).decode


class Connection:
    """One client and its one request."""

    def __init__(self, frames: FrameSocket) -> None:
        self._frames = frames
        self._handle: Callable[[Control], Awaitable[None]] | None = None
        self._early: list[Control] = []
        self.take_descriptors = frames.take_descriptors

    async def send(self, event: str, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
        """One event to the client; the descriptors stay the caller's."""
        await self._frames.send({"event": event, **fields}, descriptors)

    async def handle_controls(self, handle: Callable[[Control], Awaitable[None]]) -> None:
        """From now on `handle` gets what the client says, first of all what it has said already."""
        while self._early:
            await handle(self._early.pop(0))
        self._handle = handle

    async def receive_controls(self) -> None:
        """Take control frames until the client goes."""
        while (frame := await self._frames.receive()) is not None:
            try:
                control = _control(frame)
            except UNREADABLE as exc:
                log.warning("control_frame_refused", error=str(exc))
                continue
            if self._handle is not None:
                await self._handle(control)
            elif len(self._early) < EARLY_CONTROLS:
                self._early.append(control)
            else:
                raise FrameError("more controls than anybody types before a program starts")


class Server:
    """Answers requests of one user on one socket with a table of handlers."""

    def __init__(self, handlers: Mapping[type[msgspec.Struct], Handler], *, version: str) -> None:
        self._handlers = handlers
        self._version = version
        self._decode = msgspec.json.Decoder(Union[tuple(handlers)]).decode  # noqa: UP007 -- made at run time
        self.connections = 0
        self.last_used = time.monotonic()
        self.is_idle: Callable[[], bool] = lambda: True
        self.stopping = trio.Event()
        self.stop_after_answer = False

    async def serve(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        server = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection, _ = await server.accept()
                except OSError as exc:
                    if exc.errno not in _PASSING:
                        raise
                    log.warning("accept_failed", error=str(exc))
                    await trio.sleep(ACCEPT_AGAIN_SECONDS)
                    continue
                nursery.start_soon(self.serve_connection, connection)

    async def serve_connection(self, connection: trio.socket.SocketType) -> None:
        """One request, its events and its end. Never raises an Exception."""
        frames = FrameSocket(connection)
        self.connections += 1
        try:
            if peer_uid(connection) not in (os.geteuid(), 0):
                log.warning("peer_refused", uid=peer_uid(connection))
                return
            await self._answer(frames)
        except FrameError as exc:
            log.warning("peer_refused", error=str(exc))
        except Exception as exc:  # of ours, in one connection: the others have nothing to do with it
            log.error("connection_failed", error=repr(single_error(exc)), exc_info=True)
        finally:
            self.connections -= 1
            self.last_used = time.monotonic()
            frames.close()

    async def _answer(self, frames: FrameSocket) -> None:
        frame = None
        with trio.move_on_after(HELLO_SECONDS):
            frame = await frames.receive()
        if frame is None:
            return
        told = _version_of(frame)
        if told is None:
            await frames.send(_error("request not understood: it carries no version"))
            return
        if told != self._version:
            await self._refuse_version(frames, told)
            return
        try:
            request = self._decode(frame)
        except UNREADABLE as exc:
            await frames.send(_error(f"request not understood: {exc}"))
            return
        async with trio.open_nursery() as nursery:
            connection = Connection(frames)
            nursery.start_soon(self._follow, connection, nursery.cancel_scope)
            try:
                answer = await self._handlers[type(request)](request, connection)
                if isinstance(answer, Exited):
                    await frames.send({"event": "exited", "status": answer.status})
                else:
                    await frames.send({"event": "result", "value": answer})
            except Exception as exc:
                log.info("request_failed", request=type(request).__name__, error=str(single_error(exc)))
                await frames.send(describe_error(exc))
            nursery.cancel_scope.cancel()
        if self.stop_after_answer:
            self.stopping.set()

    async def _follow(self, connection: Connection, scope: trio.CancelScope) -> None:
        try:
            await connection.receive_controls()
        except FrameError as exc:
            log.warning("peer_refused", error=str(exc))
        scope.cancel()  # the client has gone, and with it the reason to go on

    async def _refuse_version(self, frames: FrameSocket, told: str) -> None:
        restart = self.is_idle() and self.connections == 1
        message = f"the service runs version {self._version}, this ctnr is version {told}"
        cure = "stop the containers, then: ctnr supervisor stop"
        await frames.send({**_error(message, cure), "restart": restart})
        if restart:
            self.stopping.set()


class _Versioned(msgspec.Struct):
    version: str | None = None


def _version_of(frame: bytes) -> str | None:
    try:
        return msgspec.json.decode(frame, type=_Versioned).version
    except UNREADABLE:
        return None


def peer_uid(connection: trio.socket.SocketType) -> int:
    """The user at the other end (SO_PEERCRED, unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


def _error(message: str, cure: str | None = None, status: int = 125) -> dict[str, Any]:
    # it may tell a file name of any bytes, or what a client has sent
    message = " ".join(message.encode(errors="backslashreplace").decode().splitlines())
    return {"event": "error", "message": message, "cure": cure, "status": status, "traceback": None}


def describe_error(exc: Exception) -> dict[str, Any]:
    """An exception as the error event: words for people, and the traceback for --debug."""
    exc = single_error(exc)
    trace = "".join(traceback.format_exception(exc)).encode(errors="backslashreplace").decode()
    if isinstance(exc, ExceptionGroup):
        inner = [describe_error(one) for one in exc.exceptions]
        message = "; ".join(dict.fromkeys(str(one["message"]) for one in inner))
        cure = next((one["cure"] for one in inner if one["cure"]), None)
        return {**_error(message, cure, min(one["status"] for one in inner)), "traceback": trace}
    if isinstance(exc, OSError):
        return {**_error(_os_error_text(exc), _os_error_cure(exc)), "traceback": trace}
    known = isinstance(exc, SupervisorError) or hasattr(exc, "cure")
    message = str(exc) if known else f"internal error: {type(exc).__name__}: {exc}"
    cure = getattr(exc, "cure", None) if known else "run it again with --debug and report what it shows"
    return {**_error(message, cure, getattr(exc, "exit_status", 125)), "traceback": trace}


def _os_error_text(exc: OSError) -> str:
    text = exc.strerror or str(exc)
    return f"{exc.filename}: {text}" if exc.filename else text


def _os_error_cure(exc: OSError) -> str | None:
    cures = {28: "free some space (ctnr image gc drops what no image needs), or move the store: --store-dir",
             20: "choose another store: --store-dir",
             30: "choose a store on a writable file system: --store-dir",
             13: "see that the path belongs to you, or choose another store: --store-dir"}  # fmt: skip
    return cures.get(exc.errno or 0)
