"""Attachments of one container: cni0, cni1, … in order; undone backwards, and gone when that returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
import trio

from netconf import NetworkList
from supervisor.errors import AttachmentError
from supervisor.network.attach_pasta import PastaNetworks
from supervisor.network.attach_plugins import PluginNetworks
from supervisor.network.attach_slirp import SlirpNetworks
from supervisor.network.attachment import Attachment, NetworkRequest
from supervisor.network.garbage import Collected, collect_garbage
from supervisor.network.journal import Journal
from supervisor.network.name_service import NameService
from supervisor.network.netlink import Netlink, open_socket_in
from supervisor.network.netns import NetnsPool
from supervisor.network.ports import PortMapping, Reservation, reserve_ports
from supervisor.network.records import Records
from supervisor.network.turns import Turns
from supervisor.network.uplink import Uplink
from supervisor.sandbox.sandbox import Sandbox
from supervisor.teardown import Teardown

if TYPE_CHECKING:
    from supervisor.container import Container

LATER_PRIORITY = 100  # of routes; the lower, the better, and 0 what is not told


class Networks:
    """The networks of one sandbox, by kind: `slirp` and `pasta` are tasks of ours, `plugins` make all others."""

    def __init__(
        self,
        sandbox: Sandbox,
        nursery: trio.Nursery,
        records: Records,
        lease_dir: str,
        journal: Journal | None = None,
    ) -> None:
        """`journal` is where plugins work in a network namespace that outlives the sandbox."""
        self._sandbox = sandbox
        self._journal = journal
        self.uplink = Uplink(sandbox, nursery) if sandbox.rootless else None
        self.name_service = NameService(sandbox, self.uplink, nursery)
        self.slirp = SlirpNetworks(sandbox)
        self.pasta = PastaNetworks(sandbox)
        turns = Turns(None if journal is None else journal.lock)
        self.plugins = PluginNetworks(sandbox, self.uplink, self.name_service, records, lease_dir, turns)

    def _kind(self, network: NetworkList) -> SlirpNetworks | PastaNetworks | PluginNetworks:
        match network.plugins[0].type:
            case "slirp":
                return self.slirp
            case "pasta":
                return self.pasta
            case _:
                return self.plugins

    async def attach(
        self,
        container: Container,
        requests: Sequence[NetworkRequest],
        ports: Sequence[PortMapping],
        teardown: Teardown,
        nursery: trio.Nursery,
    ) -> tuple[Attachment, ...]:
        """Attach in order; each undo is pushed before its step. `nursery` runs what the attachments need.

        Every attachment has a teardown of its own, a step of the whole: undone alone, it has nothing to do later.

        Ports are held from the start, and published by the first network.
        Raises: AttachmentError (PortTaken, PluginError, SlirpError), NetconfError.
        """
        if ports and not requests:
            raise AttachmentError(
                "no network to publish ports from", cure="leave out -p, or give --network=slirp"
            )
        attached: list[Attachment] = []
        with reserve_ports(ports) as reservation:
            for request in requests:
                attach = self._kind(request.network).attach
                own = Teardown()
                teardown.push(f"detach {request.network.name}", own.run)
                attached.append(await attach(container, request, reservation, own, nursery))
                if request.ifname != NetnsPool.TAP:
                    await self._yield_default_route(container.netns, request.ifname)
                reservation = Reservation()
        return tuple(attached)

    async def _yield_default_route(self, netns: str | None, ifname: str) -> None:
        """The way out is that of the first network, as the calls that its published ports let in are answered there.

        slirp4netns and plugins put theirs before those that there are. Raises: NetlinkFailed, OSError.
        """
        with Netlink(await open_socket_in(self._sandbox, netns)) as netlink:
            link = await netlink.link(ifname)
            default = [route for route in await netlink.routes() if route.dst == "0.0.0.0/0"]
            own = [route for route in default if link is not None and route.link == link.index]
            if len(own) < len(default):
                for route in own:
                    later = msgspec.structs.replace(route, priority=LATER_PRIORITY + route.link)
                    await netlink.del_route(route)
                    await netlink.add_route(later)

    async def check(self, container_id: str, attachment: Attachment) -> None:
        """Raises: AttachmentError (PluginError) if something of the attachment is not as it was made."""
        await self._kind(attachment.network).check(container_id, attachment)

    async def collect_garbage(
        self, known: Iterable[NetworkList], cni_path: Sequence[str]
    ) -> list[Collected]:
        """As `garbage.collect_garbage`. What is built in is a task, and leaves nothing to be collected."""
        by_plugins = [network for network in known if self._kind(network) is self.plugins]
        return await collect_garbage(self.plugins, self._journal, by_plugins, cni_path)

    async def remove_tap(self, netns: str | None, ifname: str) -> None:
        """slirp4netns leaves the interface that it was given to whoever made it."""
        with Netlink(await open_socket_in(self._sandbox, netns)) as netlink:
            if (link := await netlink.link(ifname)) is not None:
                await netlink.delete(link)
