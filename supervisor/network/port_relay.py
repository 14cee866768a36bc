"""Published TCP ports by a relay in the container's netns: as quick as loopback, and the peer's address arrives.

The listening sockets are ours and stay so: a relay that dies is started again and gets them anew, and connections
wait in their queues meanwhile. Inside, the relay calls from the peer's own address; a mark keeps the answers inside.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Mapping, Sequence

import structlog
import trio

from supervisor.errors import AttachmentError
from supervisor.network.attachment import Publisher
from supervisor.network.ports import PortMapping, PortTaken, Reservation, open_host_socket
from supervisor.network.relay import MARK
from supervisor.network.reply_routes import route_relayed
from supervisor.sandbox.descriptors import rights
from supervisor.sandbox.process import Process
from supervisor.sandbox.sandbox import Sandbox, python_argv
from supervisor.teardown import Teardown, start_in_turn

log = structlog.get_logger()

ANSWER_SECONDS = 5
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.02, 2.0
STEADY_SECONDS = 10  # one that ran so long did not die of what killed those before it
BACKLOG = 4096


class PortRelay:
    """A task (`run`) beside its container. `published` is what it carries."""

    def __init__(self, sandbox: Sandbox, netns: str, addresses: Mapping[str, str]) -> None:
        """`addresses` are the container's, each with the one that stands for callers who can't be named there: those of
        the host's loopback, and of another family.
        """
        self._sandbox, self._netns, self._addresses = sandbox, netns, dict(addresses)
        self._names_callers: frozenset[int] | None = None  # in these address families, once that is known
        self._numbers = itertools.count(1)
        self._listeners: dict[PortMapping, tuple[int, socket.socket]] = {}
        self._control: trio.socket.SocketType | None = None
        self._process: Process | None = None
        self._wanted = trio.Event()
        self._asking = trio.Lock()
        self._has_ended = False

    @property
    def published(self) -> tuple[PortMapping, ...]:
        return tuple(self._listeners)

    @property
    def pid(self) -> int:
        """Its process, as the sandbox counts; 0 while none runs."""
        return self._process.pid if self._process is not None and self._process.status is None else 0

    def keeps_source(self, mapping: PortMapping) -> bool:
        """Whether the container sees the address of a peer that is another host."""
        address = self._address_for(mapping)
        return (":" in address) == mapping.is_ipv6 and self._is_named(address)

    async def publish(self, mapping: PortMapping) -> None:
        """Listen on the host, and carry what comes to the container's port. TCP only, IPv4 and IPv6.

        The relay is started for the first one; clients that come before it is up wait in the socket's queue.
        Raises: PortTaken, AttachmentError.
        """
        if self._has_ended:
            raise AttachmentError("the port relay has ended")
        if self._names_callers is None:
            self._names_callers = await route_relayed(self._sandbox, self._netns, MARK)
        number, listener = next(self._numbers), _listen(mapping)
        self._listeners[mapping] = (number, listener)
        self._wanted.set()
        try:
            async with self._asking:
                await self._add(mapping, number, listener)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.withdraw(mapping)
            raise

    async def withdraw(self, mapping: PortMapping) -> None:
        """Stop listening; connections that exist go on. Nothing if it is not published."""
        if mapping not in self._listeners:
            return
        number, listener = self._listeners.pop(mapping)
        listener.close()
        async with self._asking:
            await self._ask(f"del {number}")  # its copy holds the port

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled: a relay as soon as there is a port, and another one when it dies.

        Raises: SandboxError; OSError, AttachmentError if there can't be a first one.
        """
        pause = FIRST_PAUSE_SECONDS
        try:
            task_status.started()
            await self._wanted.wait()
            await self._start()
            while True:
                began = trio.current_time()
                assert self._process is not None
                status = await self._process.wait()
                if trio.current_time() - began > STEADY_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                log.warning("port_relay_ended", status=status, restart_seconds=pause)
                is_back = False
                while not is_back:
                    await self._end()
                    await trio.sleep(pause)
                    pause = min(pause * 2, LAST_PAUSE_SECONDS)
                    is_back = await self._try_start()
        finally:
            self._has_ended = True
            await self._end()
            for _, listener in self._listeners.values():
                listener.close()
            self._listeners.clear()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = trio.socket.from_stdlib_socket(ours)
        argv = python_argv("supervisor.network.relay")
        with theirs:
            self._process = await self._sandbox.spawn(argv, netns=self._netns, pass_fds={3: theirs.fileno()})
        async with self._asking:
            for mapping, (number, listener) in list(self._listeners.items()):
                await self._add(mapping, number, listener)

    async def _try_start(self) -> bool:
        """The container is not to end for want of a descriptor or a process, now that it runs. Raises: SandboxError."""
        try:
            await self._start()
        except (OSError, AttachmentError) as exc:
            log.warning("port_relay_not_started", error=str(exc))
            return False
        return True

    async def _end(self) -> None:
        with trio.CancelScope(shield=True):
            async with self._asking:  # whoever asks meanwhile has its answer, or finds nobody to ask
                control, self._control = self._control, None
                if control is not None:
                    control.close()
            process, self._process = self._process, None
            if process is not None:
                await process.kill_and_wait()

    async def _add(self, mapping: PortMapping, number: int, listener: socket.socket) -> None:
        address = self._address_for(mapping)
        stand_in = self._addresses[address] if self._is_named(address) else "-"
        text = f"add {number} {address} {mapping.container_port} {stand_in}"
        if (await self._ask(text, (listener.fileno(),))).startswith(b"full"):
            raise AttachmentError(
                f"publish host port {mapping.host_text()}: the port relay has no descriptor left for it",
                cure="end some of the connections, or raise the limit of open files and restart the container",
            )

    def _address_for(self, mapping: PortMapping) -> str:
        """The container's, of the same family if it has one."""
        same = (one for one in self._addresses if (":" in one) == mapping.is_ipv6)
        return next(same, None) or next(iter(self._addresses))

    def _is_named(self, address: str) -> bool:
        """Whether a call to that address of the container's can come from its caller's own."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return self._names_callers is not None and family in self._names_callers

    async def _ask(self, text: str, descriptors: tuple[int, ...] = ()) -> bytes:
        """Shielded: half a question would be answered to the next. A relay that is gone gets it when it is back."""
        answer = b""
        if self._control is None:
            return answer
        with trio.CancelScope(shield=True, deadline=trio.current_time() + ANSWER_SECONDS) as scope:
            try:
                await self._control.sendmsg([text.encode()], rights(descriptors))
                answer = await self._control.recv(512)
            except (BrokenPipeError, ConnectionResetError):
                pass
        if scope.cancelled_caught:
            raise AttachmentError(f"the port relay did not answer within {ANSWER_SECONDS} s")
        return answer


async def relay_tcp(
    others: Publisher, sandbox: Sandbox, netns: str, addresses: Mapping[str, str], teardown: Teardown,
    nursery: trio.Nursery,
) -> RelayedPorts:  # fmt: skip
    """A relay as a task of `nursery` that ends in its turn, and with it what `others` publishes too."""
    relay = PortRelay(sandbox, netns, addresses)
    await start_in_turn("end the port relay", relay.run, teardown, nursery)
    return RelayedPorts(relay, others)


class RelayedPorts:
    """A Publisher: TCP by the relay, and all else by another."""

    def __init__(self, relay: PortRelay, others: Publisher) -> None:
        self._relay, self._others = relay, others

    @property
    def published(self) -> tuple[PortMapping, ...]:
        return (*self._relay.published, *self._others.published)

    def keeps_source(self, mapping: PortMapping) -> bool | None:
        by_relay = mapping in self._relay.published
        return self._relay.keeps_source(mapping) if by_relay else self._others.keeps_source(mapping)

    async def publish_reserved(self, reservation: Reservation) -> tuple[PortMapping, ...]:
        """Raises: PortTaken, AttachmentError."""
        mappings = reservation.mappings
        with reservation.split("tcp") as relayed:
            new = [one for one in relayed.mappings if one not in self._relay.published]
            try:
                for mapping in new:
                    await self._relay.publish(mapping)
                await self._others.publish_reserved(reservation)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self.withdraw(new)
                raise
        return mappings

    async def withdraw(self, mappings: Sequence[PortMapping]) -> None:
        """Raises: AttachmentError, and nothing has changed; ExceptionGroup."""
        relayed = [one for one in mappings if one in self._relay.published]
        await self._others.withdraw([one for one in mappings if one not in relayed])
        for mapping in relayed:
            await self._relay.withdraw(mapping)


def _listen(mapping: PortMapping) -> socket.socket:
    """Beside a reservation of ours, which allows it."""
    listener = open_host_socket(mapping)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((mapping.host_ip, mapping.host_port))
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise PortTaken(mapping, str(exc.strerror).lower()) from None
    return listener
