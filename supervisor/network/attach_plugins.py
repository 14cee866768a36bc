"""Attachments by CNI plugins: ADD, what goes with it on our side, and DEL with a look whether it is true."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio

from netconf import AttachmentArgs, NetworkList, Result
from supervisor.errors import AttachmentError
from supervisor.network.attachment import Attachment, NetworkRequest, Publisher
from supervisor.network.name_service import NameService
from supervisor.network.netlink import Link, Netlink, open_socket_in
from supervisor.network.plugins import PluginRunner, default_cni_path
from supervisor.network.port_relay import relay_tcp
from supervisor.network.portmap import PortMaps, port_mappings
from supervisor.network.ports import Reservation
from supervisor.network.records import AttachmentRecord, Key, Records
from supervisor.network.rtnetlink import add_network_broadcast, link_exists
from supervisor.network.stale import delete_attachment
from supervisor.network.turns import Turns
from supervisor.network.uplink import Uplink
from supervisor.network.wishes import behind_uplink, own_port_mapper, verify_wishes, with_capabilities
from supervisor.sandbox.process import Completed
from supervisor.sandbox.sandbox import Sandbox
from supervisor.teardown import Teardown

if TYPE_CHECKING:
    from supervisor.container import Container

log = structlog.get_logger()

ALONE_SECONDS = 1.0  # to wait for the plugins of others before a bridge is removed


class PluginNetworks:
    """Of one sandbox. `records` remembers what plugins have attached, for DEL and after a crash."""

    def __init__(
        self,
        sandbox: Sandbox,
        uplink: Uplink | None,
        names: NameService,
        records: Records,
        lease_dir: str,
        turns: Turns,
    ) -> None:
        self.sandbox = sandbox
        self.records = records
        self.lease_dir = lease_dir
        self._uplink = uplink
        self._names = names
        self._attached: dict[Key, str] = {}  # see `attached`
        environ = {"XTABLES_LOCKFILE": f"{sandbox.run_dir}/xtables.lock"}
        self.runner = PluginRunner(
            _NetworkDomain(sandbox, uplink), lease_dir=lease_dir, environ=environ, turns=turns
        )

    def attached(self) -> dict[Key, str]:
        """Names of networks by what is attached, from before its ADD to after its DEL."""
        return dict(self._attached)

    async def attach(
        self,
        container: Container,
        request: NetworkRequest,
        reservation: Reservation,
        teardown: Teardown,
        nursery: trio.Nursery,
    ) -> Attachment:
        assert container.netns is not None
        network = request.network
        own_mapper = own_port_mapper(network) is not None
        names = (container.name, *request.aliases, *container.spec.aliases)
        capability_args: dict[str, Any] = {"aliases": list(names), **request.capability_args}
        if own_mapper and reservation.mappings:
            capability_args["portMappings"] = port_mappings(reservation.mappings, self._uplink)
        if request.ip is not None:
            capability_args["ips"] = [request.ip]
        if request.mac is not None:
            capability_args["mac"] = request.mac
        wanted = {"ips": request.ip, "mac": request.mac}
        network = with_capabilities(network, [key for key, value in wanted.items() if value is not None])
        if self._uplink is not None:
            await self._uplink.open()
            network = behind_uplink(network, self._uplink.mtu, masquerades=self._uplink.masquerades)
        args = AttachmentArgs(
            container_id=container.id,
            ifname=request.ifname,
            netns=container.netns,
            cni_args=(("IgnoreUnknown", "1"), *request.cni_args),
            capability_args=capability_args,
            cni_path=request.cni_path or default_cni_path(os.environ),
        )
        record = AttachmentRecord(network=network, args=args, result=None)
        self._attached[record.key] = network.name
        teardown.push(f"detach {network.name}", partial(self.detach, record))
        self.records.save(record)
        result = await self.runner.add_network(network, args)
        record = msgspec.structs.replace(record, result=result)
        self.records.save(record)
        verify_wishes(request, result)
        if any(plugin.type == "bridge" for plugin in network.plugins):
            await self._add_network_broadcasts(container.netns, request.ifname, result)
        maps = PortMaps(self.runner, self.records, self._uplink, record)
        teardown.push("withdraw its ports", maps.close)
        publisher: Publisher = maps
        if own_mapper:
            await maps.hold_mapped(reservation)
        else:
            if self._uplink is not None:
                own = _own_addresses(result)
                publisher = await relay_tcp(maps, self.sandbox, container.netns, own, teardown, nursery)
            await publisher.publish_reserved(reservation)
        teardown.push("forget its names", partial(self._names.leave, network.name, container.id))
        served = await self._names.join(network, container.id, names, result)
        return Attachment(
            network=network,
            ifname=request.ifname,
            result=result,
            reaches_host=self._uplink is None,
            publisher=publisher,
            served=served,
            forwards_names=self._names.forwards(result),
            teardown=teardown,
        )

    async def check(self, container_id: str, attachment: Attachment) -> None:
        """CNI's CHECK. Raises: AttachmentError (PluginError) if something of the attachment is not as it was made."""
        record = self.records.load(container_id, attachment.ifname)
        if record is None or record.result is None:
            raise AttachmentError(f"network {attachment.network.name}: there is no record of the attachment")
        await self.runner.check_network(record.network, record.args, record.result)

    async def detach(self, record: AttachmentRecord) -> None:
        """DEL, and a look whether it is true. The record stays until it is.

        Raises: ExceptionGroup of PluginError, OSError, AttachmentError if a link of the attachment is still there.
        """
        record = self.records.load(*record.key) or record
        try:
            await delete_attachment(self, record)
            await self.verify_gone(record)
            self.records.remove(*record.key)
        finally:
            self._attached.pop(record.key, None)
            await self.remove_unused_bridge(record)

    async def remove_unused_bridge(self, record: AttachmentRecord) -> None:
        """On the host a bridge of ours goes with its last container; the uplink's go with the uplink.

        After an ADD that failed it goes in any case: plugin bridge (1.1.1) gives it its MAC address last; without one
        of its own it loses that with its last port, and then no ADD works on it any more.
        """
        if self._uplink is not None and (record.result is not None or self._uplink.slirp is None):
            return
        await self._remove_empty_bridges(record.network)

    async def verify_gone(self, record: AttachmentRecord) -> None:
        """Raises: AttachmentError if a link of the attachment is still there."""
        outside = [one.name for one in record.result.interfaces if not one.sandbox] if record.result else []
        own = [name for name in outside if name.startswith("veth")]  # a bridge stays: others are on it
        if not own:
            return
        netns = await self._uplink.open() if self._uplink is not None else None
        with await self.sandbox.open_socket(socket.AF_INET, socket.SOCK_DGRAM, netns=netns) as sock:
            left = [name for name in own if link_exists(sock, name)]
        if left:
            raise AttachmentError(
                f"network {record.network.name}: {', '.join(left)} is still there after DEL"
            )

    async def forget_network(self, network: NetworkList) -> None:
        """Remove what is left of a network that is no more: its empty bridge, and the book of its leases."""
        await self.sandbox.remove_tree(*_empty_lease_books(self.sandbox, self.lease_dir, network.name))
        if self._uplink is None or self._uplink.slirp is not None:
            await self._remove_empty_bridges(network)

    async def _remove_empty_bridges(self, network: NetworkList) -> None:
        """Plugins never remove a bridge. On the host one named ctnr-… is ours, and may go when nothing is on it.

        An ADD first sees to its bridge and then puts a link on it: so nobody's may be under way. Another supervisor
        that is never without one is not waited for; the bridge goes with the next container then.
        """
        bridges = [
            msgspec.json.decode(one.raw).get("bridge") for one in network.plugins if one.type == "bridge"
        ]
        ours = [name for name in bridges if isinstance(name, str)]
        if self._uplink is None:
            ours = [name for name in ours if name.startswith("ctnr-")]
        if not ours or network.name in self._attached.values():
            return
        netns = self._uplink.netns if self._uplink is not None else None
        with Netlink(await open_socket_in(self.sandbox, netns)) as netlink:
            if not await _empty_bridges(netlink, ours):  # most often: then nobody has to wait
                return
            with trio.move_on_after(ALONE_SECONDS) as scope:
                async with self.runner.turns.alone():
                    if network.name not in self._attached.values():
                        for bridge in await _empty_bridges(netlink, ours):
                            await netlink.delete(bridge)
            if scope.cancelled_caught:
                log.info("empty_bridge_kept", network=network.name)

    async def _add_network_broadcasts(self, netns: str, ifname: str, result: Result) -> None:
        """`ip -4 route get 10.2.0.0` tells the container's address at its sixth place, on every kernel."""
        addresses = [ip.address for ip in result.container_ips() if ":" not in ip.address]
        with await open_socket_in(self.sandbox, netns) as sock:
            for address in addresses:
                try:
                    add_network_broadcast(sock, ifname, address)
                except (OSError, ValueError) as exc:  # a nicety: no container fails for it
                    log.info("broadcast_route_refused", address=address, error=str(exc))


class _NetworkDomain:
    """Where plugins run: rootless beside the uplink, privileged in the current network namespace."""

    def __init__(self, sandbox: Sandbox, uplink: Uplink | None) -> None:
        self._sandbox = sandbox
        self._uplink = uplink

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: int | bytes | None = None
    ) -> Completed:
        netns = await self._uplink.open() if self._uplink is not None else None
        return await self._sandbox.run(argv, env=env, stdin=stdin, netns=netns)


def _own_addresses(result: Result) -> dict[str, str]:
    """The container's, and with each where its way out begins; itself if it has none."""
    pairs = ((ip.address.partition("/")[0], ip.gateway) for ip in result.container_ips())
    return {address: gateway or address for address, gateway in pairs}


async def _empty_bridges(netlink: Netlink, names: Sequence[str]) -> list[Link]:
    links = await netlink.links()
    bridges = [link for link in links if link.name in names and link.kind == "bridge"]
    return [bridge for bridge in bridges if not any(link.master == bridge.index for link in links)]


def _empty_lease_books(sandbox: Sandbox, lease_dir: str, network: str) -> list[str]:
    """host-local's directory of a network, unless an address is given out; no others may be removed."""
    directory = f"{lease_dir}/{network}"
    try:
        found = os.listdir(sandbox.outer_path(directory))
    except FileNotFoundError:
        return []
    leases = [name for name in found if name != "lock" and not name.startswith("last_reserved_ip.")]
    return [] if leases else [directory]
