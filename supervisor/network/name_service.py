"""Name servers of the bridge networks: each is there from its network's first container to its last.

A network is served where its gateway is an address of ours, on the bridge beside the uplink (rootless) or in the
current network namespace. Where its port 53 is somebody else's, nothing is served, and that is no error.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from netconf import NetworkList, Result
from supervisor.errors import AttachmentError
from supervisor.network.dns import Forwarder, HostResolvers, run_name_server
from supervisor.network.dns_names import Names, encode_name
from supervisor.network.uplink import Uplink
from supervisor.sandbox.sandbox import Sandbox

log = structlog.get_logger()

PORT = 53
UNSERVED = (
    errno.EADDRNOTAVAIL,
    errno.EADDRINUSE,
    errno.EACCES,
    errno.EPERM,
)  # the address or the port is not ours
DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")


@dataclass(eq=False)
class _Served:
    """A network's server with the containers that count on it; `addresses` is empty where none could be opened."""

    addresses: tuple[str, ...] = ()
    netns: int = 0  # which of the uplink's namespaces, should it have had to start anew
    members: set[str] = field(default_factory=set)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class NameService:
    """The name servers of one sandbox."""

    def __init__(self, sandbox: Sandbox, uplink: Uplink | None, nursery: trio.Nursery) -> None:
        self.names = Names()
        self._sandbox = sandbox
        self._uplink = uplink
        self._nursery = nursery
        self._forwarder = Forwarder(HostResolvers())
        self._nowhere = Forwarder(lambda: ())  # of networks without a way out
        self._served: dict[str, _Served] = {}
        self._changing = trio.Lock()

    async def join(
        self, network: NetworkList, container_id: str, names: Sequence[str], result: Result
    ) -> tuple[str, ...]:
        """Make a container's names known on a network. Returns where its name server listens: nowhere, perhaps.

        The first name is told for the addresses (PTR). The caller owes a `leave`, from before the call on.
        Raises: AttachmentError if its sockets can't be had.
        """
        if network.plugins[0].type != "bridge":
            return ()
        ips = result.container_ips()
        async with self._changing:
            served = self._served.get(network.name)
            generation = self._uplink.generation if self._uplink is not None else 0
            if served is not None and served.netns != generation:
                await self._close(network.name)
                served = None
            if served is None:
                served = self._served[network.name] = _Served(netns=generation)
                await self._open(network.name, served, result)
            served.members.add(container_id)
        self.names.add_network(network.name, [str(ipaddress.ip_interface(ip.address).network) for ip in ips])
        self.names.add(
            network.name, container_id, names=_usable(names),
            addresses=[ip.address.partition("/")[0] for ip in ips],
        )  # fmt: skip
        return served.addresses

    async def leave(self, network: str, container_id: str) -> None:
        """Forget the container's names; the last one closes the server. Idempotent."""
        self.names.remove(network, container_id)
        async with self._changing:
            served = self._served.get(network)
            if served is None:
                return
            served.members.discard(container_id)
            if not served.members:
                await self._close(network)
                self.names.remove_network(network)

    def forwards(self, result: Result) -> bool:
        """Whether the server of such an attachment's network answers for the rest of the world, too."""
        return any(route.dst in DEFAULT_ROUTES for route in result.routes)

    async def _open(self, network: str, served: _Served, result: Result) -> None:
        gateways = dict.fromkeys(ip.gateway for ip in result.container_ips() if ip.gateway)
        opened: list[tuple[str, socket.socket, socket.socket]] = []
        try:
            for gateway in gateways:
                pair = await self._listen(gateway)
                opened += [(gateway, *pair)] if pair is not None else []
            if not opened:
                return
            forwarder = self._forwarder if self.forwards(result) else self._nowhere
            await self._nursery.start(
                partial(
                    self._run, served, network, [udp for _, udp, _ in opened], [tcp for *_, tcp in opened]
                ),
                forwarder,
            )
            served.addresses = tuple(gateway for gateway, *_ in opened)
        except BaseException:
            for _, *sockets in opened:
                for sock in sockets:
                    sock.close()
            self._served.pop(network, None)
            raise

    async def _listen(self, address: str) -> tuple[socket.socket, socket.socket] | None:
        """A UDP and a TCP socket at `address`, or None if it is not ours or somebody else serves there."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        netns = await self._uplink.open() if self._uplink is not None else None
        opened: list[socket.socket] = []
        try:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                # of the connections that an earlier server had closed, some may wait still
                options = [(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)] if kind == socket.SOCK_STREAM else []
                opened.append(
                    await self._sandbox.open_socket(
                        family, kind, netns=netns, bind=(address, PORT), options=options
                    )
                )
        except BaseException as exc:
            for sock in opened:
                sock.close()
            if not isinstance(exc, OSError):
                raise
            if exc.errno not in UNSERVED:
                raise AttachmentError(f"open the name server at {address}: {exc.strerror}") from exc
            if exc.errno != errno.EADDRNOTAVAIL:
                log.warning("names_not_served", address=address, error=exc.strerror)
            return None
        return opened[0], opened[1]

    async def _run(
        self,
        served: _Served,
        network: str,
        udp: Sequence[socket.socket],
        tcp: Sequence[socket.socket],
        forwarder: Forwarder,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        try:
            with served.scope:
                await run_name_server(
                    self.names, network, udp=udp, tcp=tcp, forwarder=forwarder, task_status=task_status
                )
        except Exception as exc:
            log.error("name_server_failed", network=network, error=str(exc))
        finally:
            served.ended.set()

    async def _close(self, network: str) -> None:
        served = self._served.pop(network)
        if served.addresses:
            served.scope.cancel()
            await served.ended.wait()


def _usable(names: Iterable[str]) -> list[str]:
    """Those that DNS can carry."""
    found = []
    for name in names:
        with suppress(ValueError):
            encode_name(name)
            found.append(name)
    return found
