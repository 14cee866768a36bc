"""Attachments of one container: cni0, cni1, … in order; undone backwards, and gone when that returns."""

from __future__ import annotations

import itertools
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

from netconf import AttachmentArgs, NetworkList, Result, parse_result
from supervisor.errors import AttachmentError
from supervisor.network.netlink import Netlink, link_exists, open_socket
from supervisor.network.netns import NetnsPool
from supervisor.network.plugins import PluginRunner, default_cni_path
from supervisor.network.ports import PortMapping, Reservation, reserve_ports
from supervisor.network.records import AttachmentRecord, Records
from supervisor.network.slirp import Slirp, SlirpEvent, run_slirp
from supervisor.network.slirp_conf import decode_options
from supervisor.network.uplink import Uplink
from supervisor.sandbox.process import Completed
from supervisor.sandbox.sandbox import Sandbox
from supervisor.teardown import Teardown

if TYPE_CHECKING:
    from supervisor.container import Container

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class NetworkRequest:
    """A network that a container shall have."""

    network: NetworkList
    ifname: str


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A network that a container has: container × ifname, with the (last) plugin's result."""

    network: NetworkList
    ifname: str
    result: Result
    slirp: Slirp | None = field(default=None, compare=False)
    reaches_host: bool = True  # the gateway is an address of the host
    forwarded: tuple[PortMapping, ...] = ()  # by plugins

    @property
    def ports(self) -> tuple[PortMapping, ...]:
        """The host ports that lead into the container by this attachment."""
        return self.slirp.published if self.slirp is not None else self.forwarded

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses in the container without their prefix lengths."""
        return tuple(ip.address.partition("/")[0] for ip in self.result.container_ips())

    @property
    def host_address(self) -> str | None:
        """Where the container finds the host; None if it can't."""
        if self.slirp is not None:
            return self.slirp.options.gateway if self.slirp.options.host_loopback else None
        return (
            next((ip.gateway for ip in self.result.container_ips() if ip.gateway), None)
            if self.reaches_host
            else None
        )

    @property
    def nameservers(self) -> tuple[str, ...]:
        return tuple(self.result.dns.nameservers)


class Networks:
    """The networks of one sandbox. `records` remembers what plugins have attached, for DEL and after a crash."""

    def __init__(self, sandbox: Sandbox, nursery: trio.Nursery, records: Records, lease_dir: str) -> None:
        self._sandbox = sandbox
        self._records = records
        self.uplink = Uplink(sandbox, nursery) if sandbox.rootless else None
        environ = {"XTABLES_LOCKFILE": f"{sandbox.run_dir}/xtables.lock"}
        self._bridge_users: Counter[str] = Counter()  # attachments by network, from before ADD to after DEL
        self.plugins = PluginRunner(
            _NetworkDomain(sandbox, self.uplink), lease_dir=lease_dir, environ=environ
        )

    async def attach(
        self,
        container: Container,
        requests: Sequence[NetworkRequest],
        ports: Sequence[PortMapping],
        teardown: Teardown,
        nursery: trio.Nursery,
    ) -> tuple[Attachment, ...]:
        """Attach in order; each undo is pushed before its step. `nursery` runs what the attachments need.

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
                is_slirp = request.network.plugins[0].type == "slirp"
                attach = self._attach_slirp if is_slirp else self._attach_plugins
                attached.append(await attach(container, request, reservation, teardown, nursery))
                reservation = Reservation()
        return tuple(attached)

    async def _attach_slirp(
        self,
        container: Container,
        request: NetworkRequest,
        reservation: Reservation,
        teardown: Teardown,
        nursery: trio.Nursery,
    ) -> Attachment:
        assert container.netns is not None
        options = decode_options(msgspec.json.decode(request.network.plugins[0].raw))

        def tell(event: SlirpEvent) -> None:
            log.warning("slirp_changed", container=container.name, **msgspec.structs.asdict(event))

        if request.ifname != NetnsPool.TAP:
            await self._sandbox.new_tap(container.netns, request.ifname)
        gone, scope = trio.Event(), trio.CancelScope()
        slirp: Slirp = await nursery.start(
            _run_in, scope, gone,
            partial(
                run_slirp, options, netns_path=self._sandbox.outer_path(container.netns),
                userns_path=self._sandbox.userns_path, ifname=request.ifname, on_event=tell, persistent_tap=True,
                api_socket=f"{self._sandbox.run_dir}/{container.id[:12]}-{request.ifname}.sock",
            ),
        )  # fmt: skip

        scope.shield = True

        async def detach() -> None:
            slirp.end()
            await gone.wait()

        teardown.push(f"detach {request.network.name}", detach)
        await slirp.publish_reserved(reservation)
        raw = msgspec.json.encode(slirp.result(container.netns))
        return Attachment(
            network=request.network, ifname=request.ifname, result=parse_result(raw), slirp=slirp
        )

    async def _attach_plugins(
        self,
        container: Container,
        request: NetworkRequest,
        reservation: Reservation,
        teardown: Teardown,
        nursery: trio.Nursery,
    ) -> Attachment:
        assert container.netns is not None
        ports = reservation.mappings
        network = with_portmap(request.network) if ports else request.network
        args = AttachmentArgs(
            container_id=container.id,
            ifname=request.ifname,
            netns=container.netns,
            cni_args=(("IgnoreUnknown", "1"),),
            capability_args={"portMappings": [self._inner(one).to_cni() for one in ports]} if ports else {},
            cni_path=default_cni_path(os.environ),
        )
        record = AttachmentRecord(network=network, args=args, result=None)
        self._records.save(record)
        self._bridge_users[network.name] += 1
        teardown.push(f"detach {network.name}", partial(self.detach, record))
        result = await self.plugins.add_network(network, args)
        record = msgspec.structs.replace(record, result=result)
        self._records.save(record)
        if self.uplink is not None:
            for mapping in ports:
                reservation.make_way(mapping)
                teardown.push(f"withdraw {mapping}", partial(self.uplink.withdraw, mapping))
                await self.uplink.publish(mapping)
        reservation.close()
        return Attachment(
            network=network,
            ifname=request.ifname,
            result=result,
            reaches_host=self.uplink is None,
            forwarded=ports,
        )

    def _inner(self, mapping: PortMapping) -> PortMapping:
        """The mapping as portmap has to make it: behind the uplink every port arrives at the uplink's own address."""
        return mapping if self.uplink is None else msgspec.structs.replace(mapping, host_ip="")

    async def detach(self, record: AttachmentRecord) -> None:
        """DEL, and a look whether it is true. The record stays until it is.

        Raises: ExceptionGroup of PluginError, AttachmentError if a link of the attachment is still there.
        """
        record = self._records.load(record.args.container_id, record.args.ifname) or record
        try:
            await self.plugins.del_network(record.network, record.args, record.result)
            await self._verify_gone(record)
            self._records.remove(record.args.container_id, record.args.ifname)
        finally:
            self._bridge_users[record.network.name] -= 1
        await self.remove_unused_bridge(record)

    async def remove_unused_bridge(self, record: AttachmentRecord) -> None:
        """Plugins never remove a bridge. One named ctnr-… is ours, and goes with its last container."""
        if record.result is None or self.uplink is not None or self._bridge_users[record.network.name]:
            return
        ours = [
            one.name for one in record.result.interfaces if not one.sandbox and one.name.startswith("ctnr-")
        ]
        if not ours:
            return
        with Netlink(open_socket()) as netlink:
            links = await netlink.links()
            for bridge in [link for link in links if link.name in ours and link.kind == "bridge"]:
                if not any(link.master == bridge.index for link in links):
                    await netlink.delete(bridge)

    async def _verify_gone(self, record: AttachmentRecord) -> None:
        outside = [one.name for one in record.result.interfaces if not one.sandbox] if record.result else []
        own = [name for name in outside if name.startswith("veth")]  # a bridge stays: others are on it
        if not own:
            return
        netns = await self.uplink.open() if self.uplink is not None else None
        with await self._sandbox.open_socket(socket.AF_INET, socket.SOCK_DGRAM, netns=netns) as sock:
            left = [name for name in own if link_exists(sock, name)]
        if left:
            raise AttachmentError(
                f"network {record.network.name}: {', '.join(left)} is still there after DEL"
            )


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


async def _run_in(
    scope: trio.CancelScope,
    gone: trio.Event,
    run: Callable[..., Awaitable[None]],
    *,
    task_status: trio.TaskStatus[Slirp],
) -> None:
    """`scope` is shielded once `run` has started: it ends in its turn of the teardown, not when all is cancelled."""
    try:
        with scope:
            await run(task_status=task_status)
    finally:
        gone.set()


def with_portmap(network: NetworkList) -> NetworkList:
    """The network with CNI's portmap at its end, unless it has something that maps ports."""
    if any("portMappings" in plugin.capabilities for plugin in network.plugins):
        return network
    conf = msgspec.json.decode(network.raw)
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    if "plugins" not in conf:
        conf = {"cniVersion": conf.get("cniVersion", "0.4.0"), "name": network.name, "plugins": [conf]}
    return NetworkList.from_bytes(
        msgspec.json.encode({**conf, "plugins": [*conf["plugins"], portmap]}), network.source
    )


def number_interfaces(networks: Sequence[NetworkList]) -> tuple[NetworkRequest, ...]:
    """Requests for `networks` as cni0, cni1, …."""
    return tuple(
        NetworkRequest(network=network, ifname=f"cni{number}")
        for number, network in zip(itertools.count(), networks, strict=False)
    )


def uses_slirp_first(requests: Sequence[NetworkRequest]) -> bool:
    """Whether the container's netns should come with a tap named cni0."""
    return bool(requests) and requests[0].network.plugins[0].type == "slirp"
