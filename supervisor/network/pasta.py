"""pasta as a supervised task: the host's own addresses in one netns, and published ports at their start.

It runs in the sandbox's pid namespace, so it can't outlive it, and in the host's network. If it dies under a running
container it is started again in the same netns, with the same ports; connections end with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import structlog
import trio

from supervisor.errors import AttachmentError
from supervisor.network.dns import HostResolvers
from supervisor.network.netlink import Netlink, open_socket_in
from supervisor.network.pasta_conf import (
    PastaError,
    PastaOptions,
    build_argv,
    build_result,
    explain_death,
    find_program,
)
from supervisor.network.ports import PortMapping, Reservation
from supervisor.network.restarts import Deaths, Restarts
from supervisor.sandbox.capture import open_capture, read_capture
from supervisor.sandbox.process import Process
from supervisor.sandbox.sandbox import Sandbox

log = structlog.get_logger()

READY_SECONDS = 5.0
STDERR_BYTES = 16384


class Pasta:
    """One attachment's. `run` is its task."""

    def __init__(
        self,
        sandbox: Sandbox,
        options: PastaOptions,
        *,
        netns: str,
        ifname: str,
        mac: str | None,
        name: str,
        on_change: Callable[[str, int], object],
    ) -> None:
        """`name` makes the names of its files, in the sandbox's run directory.

        `on_change` gets pasta_died or pasta_restarted, with its process; it is called in the task.
        """
        self._on_change = on_change
        self.options = options
        self.published: tuple[PortMapping, ...] = ()
        self.asks: str | None = None
        """The host's name server that it asks, the one at its start; "" once that is not sure any more."""
        self._sandbox = sandbox
        self._netns, self._ifname, self._mac = netns, ifname, mac
        self._ready = f"{sandbox.run_dir}/{name}.ready"
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Its process, as the sandbox counts; 0 while none runs."""
        return self._process.pid if self._process is not None and self._process.status is None else 0

    # Publisher

    def keeps_source(self, mapping: PortMapping) -> bool:
        """A peer's own address arrives. Only that of the host itself reads as loopback's or the gateway's."""
        return True

    async def publish_reserved(self, reservation: Reservation) -> tuple[PortMapping, ...]:
        """Raises: AttachmentError, unless there is nothing to do."""
        if reservation.mappings:
            self._refuse()
        return ()

    async def withdraw(self, mappings: Sequence[PortMapping]) -> None:
        """Raises: AttachmentError, unless there is nothing to do."""
        if mappings:
            self._refuse()

    def _refuse(self) -> None:
        raise AttachmentError(
            "the ports of a pasta network can't be changed while it runs: pasta takes them at its start only",
            cure="start the container anew with -p, or use a slirp or bridge network",
        )

    # The task

    async def run(
        self, reservation: Reservation, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Until cancelled; `started` when the interface is up and the ports of `reservation` are open.

        Raises: PastaError, also if it can't be kept running.
        """
        deaths = Deaths(Restarts())
        try:
            with reservation:
                for mapping in reservation.mappings:
                    reservation.make_way(mapping)
                self.published = reservation.mappings
                await self._start()
            task_status.started()
            while True:
                assert self._process is not None
                status = await self._process.wait()
                pause = deaths.count()
                if pause is None:
                    raise PastaError(f"pasta ended {deaths}, the last time with status {status}")
                log.warning("pasta_ended", ifname=self._ifname, status=status, restart_seconds=pause)
                self._on_change("pasta_died", self._process.pid)
                await trio.sleep(pause)
                await self._start()
                self._on_change("pasta_restarted", self._process.pid)
        finally:
            self.published = ()
            if self._process is not None:
                await self._process.kill_and_wait()

    async def result(self) -> dict[str, object]:
        """The CNI result of this attachment. Raises: PastaError, NetlinkFailed, OSError."""
        with Netlink(await open_socket_in(self._sandbox, self._netns)) as netlink:
            link = await netlink.link(self._ifname)
            if link is None:
                raise PastaError(f"pasta runs, and there is no interface {self._ifname}")
            addresses, routes = await netlink.addresses(link), await netlink.routes()
            return build_result(self.options, self._netns, link, addresses, routes)

    async def _start(self) -> None:
        """One process, until it says that it is ready: it writes its pid into a FIFO then."""
        server = next((address for address, _ in HostResolvers()() if ":" not in address), "")
        self.asks = server if self.asks in (None, server) else ""
        argv = build_argv(
            find_program(), self.options, netns=self._netns, ifname=self._ifname, mac=self._mac, ready=self._ready,
            ports=self.published, drops_root=not self._sandbox.rootless and os.geteuid() == 0,
        )  # fmt: skip
        with ExitStack() as undo:
            fifo = self._sandbox.outer_path(self._ready)
            os.mkfifo(fifo, 0o600)
            undo.callback(os.unlink, fifo)
            ready = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, ready)
            stderr = open_capture(STDERR_BYTES)
            undo.callback(os.close, stderr)
            self._process = process = await self._sandbox.spawn(argv, stderr=stderr)
            with trio.move_on_after(READY_SECONDS):
                await _first(ready, process)
            with suppress(BlockingIOError):
                if process.status is None and os.read(ready, 1):
                    return
            await process.kill_and_wait()
            assert process.status is not None
            raise explain_death(read_capture(stderr).decode(errors="replace"), process.status)


async def _first(ready: int, process: Process) -> None:
    """Until there is something to read, or the process has ended."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await process.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await trio.lowlevel.wait_readable(ready)
        nursery.cancel_scope.cancel()
