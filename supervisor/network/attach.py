"""Attachments of one container: cni0, cni1, … in order; undone backwards, and gone when that returns."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio

from netconf import AttachmentArgs, NetworkList, Result, parse_result
from supervisor.errors import AttachmentError, PluginError
from supervisor.network.name_service import NameService
from supervisor.network.netlink import Netlink, add_network_broadcast, link_exists, open_socket_in
from supervisor.network.netns import NetnsPool
from supervisor.network.plugins import PluginNotFound, PluginRunner, default_cni_path
from supervisor.network.ports import PortMapping, Reservation, reserve_ports
from supervisor.network.records import AttachmentRecord, Records
from supervisor.network.slirp import Slirp, SlirpEvent, run_slirp
from supervisor.network.slirp_conf import SlirpConfError, SlirpOptions, decode_options
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
    ip: str | None = None
    mac: str | None = None
    aliases: tuple[str, ...] = ()  # on this network only
    cni_path: tuple[str, ...] = ()  # where its plugins are; (): by our own environment


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A network that a container has: container × ifname, with the (last) plugin's result."""

    network: NetworkList
    ifname: str
    result: Result
    slirp: Slirp | None = field(default=None, compare=False)
    reaches_host: bool = True  # the gateway is an address of the host
    forwarded: tuple[PortMapping, ...] = ()  # by plugins
    served: tuple[str, ...] = ()  # addresses at which a name server of ours answers
    forwards_names: bool = False  # and for the rest of the world as well
    teardown: Teardown = field(default_factory=Teardown, compare=False, repr=False)

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
        """Those of its configuration; if it names none, the one that is served on it."""
        return tuple(self.result.dns.nameservers) or self.served

    @property
    def knows_names(self) -> bool:
        """Whether its name servers know the containers of its network."""
        return bool(set(self.served) & set(self.nameservers))


class Networks:
    """The networks of one sandbox. `records` remembers what plugins have attached, for DEL and after a crash."""

    def __init__(self, sandbox: Sandbox, nursery: trio.Nursery, records: Records, lease_dir: str) -> None:
        self._sandbox = sandbox
        self._records = records
        self._lease_dir = lease_dir
        self.uplink = Uplink(sandbox, nursery) if sandbox.rootless else None
        environ = {"XTABLES_LOCKFILE": f"{sandbox.run_dir}/xtables.lock"}
        self.name_service = NameService(sandbox, self.uplink, nursery)
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
                is_slirp = request.network.plugins[0].type == "slirp"
                attach = self._attach_slirp if is_slirp else self._attach_plugins
                own = Teardown()
                teardown.push(f"detach {request.network.name}", own.run)
                attached.append(await attach(container, request, reservation, own, nursery))
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
        if request.ip is not None:
            options = with_address(options, request.ip)

        def tell(event: SlirpEvent) -> None:
            log.warning("slirp_changed", container=container.name, **msgspec.structs.asdict(event))

        if request.ifname != NetnsPool.TAP:
            await self._sandbox.new_tap(container.netns, request.ifname)
        if options.enable_ipv6:  # an address that is not tentative for a second or two
            settings = {f"net/ipv6/conf/{one}/accept_dad": "0" for one in ("all", request.ifname)}
            await self._sandbox.call("sysctl", netns=container.netns, settings=settings)
        gone, scope = trio.Event(), trio.CancelScope()
        slirp: Slirp = await nursery.start(
            _run_in, scope, gone,
            partial(
                run_slirp, options, netns_path=self._sandbox.outer_path(container.netns),
                userns_path=self._sandbox.userns_path, ifname=request.ifname, on_event=tell, persistent_tap=True,
                mac=request.mac, api_socket=f"{self._sandbox.run_dir}/{container.id[:12]}-{request.ifname}.sock",
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
            network=request.network,
            ifname=request.ifname,
            result=parse_result(raw),
            slirp=slirp,
            teardown=teardown,
        )

    async def check(self, container_id: str, attachment: Attachment) -> None:
        """Raises: AttachmentError (PluginError) if something of the attachment is not as it was made."""
        if attachment.slirp is not None:
            if not attachment.slirp.pid:
                raise AttachmentError(f"network {attachment.network.name}: slirp4netns does not run")
            return
        record = self._records.load(container_id, attachment.ifname)
        if record is None or record.result is None:
            raise AttachmentError(f"network {attachment.network.name}: there is no record of the attachment")
        try:
            await self.plugins.check_network(record.network, record.args, record.result)
        except PluginError as exc:
            if exc.plugin != "portmap":  # up to 1.1.1 it fails always (its issue 819)
                raise

    async def forget_network(self, network: NetworkList) -> None:
        """Remove what is left of a network that is no more: its empty bridge, and the book of its leases."""
        await self._sandbox.remove_tree(*_empty_lease_books(self._sandbox, self._lease_dir, network.name))
        if self.uplink is None or self.uplink.slirp is not None:
            await self._remove_empty_bridges(network)

    async def _remove_empty_bridges(self, network: NetworkList) -> None:
        """Plugins never remove a bridge. One named ctnr-… is ours, and may go when nothing is on it."""
        bridges = [
            msgspec.json.decode(one.raw).get("bridge") for one in network.plugins if one.type == "bridge"
        ]
        ours = [name for name in bridges if isinstance(name, str) and name.startswith("ctnr-")]
        if not ours:
            return
        netns = self.uplink.netns if self.uplink is not None else None
        with Netlink(await open_socket_in(self._sandbox, netns)) as netlink:
            links = await netlink.links()
            for bridge in [link for link in links if link.name in ours and link.kind == "bridge"]:
                if not any(link.master == bridge.index for link in links):
                    await netlink.delete(bridge)

    async def remove_tap(self, netns: str | None, ifname: str) -> None:
        """slirp4netns leaves the interface that it was given to whoever made it."""
        with Netlink(await open_socket_in(self._sandbox, netns)) as netlink:
            if (link := await netlink.link(ifname)) is not None:
                await netlink.delete(link)

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
        capability_args: dict[str, Any] = {}
        if ports:
            capability_args["portMappings"] = [self._inner(one).to_cni() for one in ports]
        if request.ip is not None:
            capability_args["ips"] = [request.ip]
        if request.mac is not None:
            capability_args["mac"] = request.mac
        network = with_capabilities(network, [key for key in ("ips", "mac") if key in capability_args])
        args = AttachmentArgs(
            container_id=container.id,
            ifname=request.ifname,
            netns=container.netns,
            cni_args=(("IgnoreUnknown", "1"),),
            capability_args=capability_args,
            cni_path=request.cni_path or default_cni_path(os.environ),
        )
        record = AttachmentRecord(network=network, args=args, result=None)
        self._records.save(record)
        self._bridge_users[network.name] += 1
        teardown.push(f"detach {network.name}", partial(self.detach, record))
        result = await self.plugins.add_network(network, args)
        record = msgspec.structs.replace(record, result=result)
        self._records.save(record)
        _verify_wishes(request, result)
        if any(plugin.type == "bridge" for plugin in network.plugins):
            await self._add_network_broadcasts(container.netns, request.ifname, result)
        if self.uplink is not None:
            for mapping in ports:
                reservation.make_way(mapping)
                teardown.push(f"withdraw {mapping}", partial(self.uplink.withdraw, mapping))
                await self.uplink.publish(mapping)
        elif ports:
            # portmap binds nothing: so that nobody else does, the ports stay ours as long as they are mapped
            kept = reservation.pop_all()
            teardown.push("free the host's ports", partial(_close, kept))
        reservation.close()
        teardown.push("forget its names", partial(self.name_service.leave, network.name, container.id))
        names = (container.name, *request.aliases, *container.spec.aliases)
        served = await self.name_service.join(network, container.id, names, result)
        return Attachment(
            network=network,
            ifname=request.ifname,
            result=result,
            reaches_host=self.uplink is None,
            forwarded=ports,
            served=served,
            forwards_names=self.name_service.forwards(result),
            teardown=teardown,
        )

    async def _add_network_broadcasts(self, netns: str, ifname: str, result: Result) -> None:
        """`ip -4 route get 10.2.0.0` tells the container's address at its sixth place, on every kernel."""
        addresses = [ip.address for ip in result.container_ips() if ":" not in ip.address]
        with await open_socket_in(self._sandbox, netns) as sock:
            for address in addresses:
                try:
                    add_network_broadcast(sock, ifname, address)
                except (OSError, ValueError) as exc:  # a nicety: no container fails for it
                    log.info("broadcast_route_refused", address=address, error=str(exc))

    def _inner(self, mapping: PortMapping) -> PortMapping:
        """The mapping as portmap has to make it: behind the uplink every port arrives at the uplink's own address."""
        return mapping if self.uplink is None else msgspec.structs.replace(mapping, host_ip="")

    async def detach(self, record: AttachmentRecord) -> None:
        """DEL, and a look whether it is true. The record stays until it is.

        Raises: ExceptionGroup of PluginError, AttachmentError if a link of the attachment is still there.
        """
        record = self._records.load(record.args.container_id, record.args.ifname) or record
        try:
            await self._delete(record)
            await self._verify_gone(record)
            self._records.remove(record.args.container_id, record.args.ifname)
        finally:
            self._bridge_users[record.network.name] -= 1
        await self.remove_unused_bridge(record)

    async def _delete(self, record: AttachmentRecord) -> None:
        try:
            await self.plugins.del_network(record.network, record.args, record.result)
        except ExceptionGroup as group:
            # ADD looks for all plugins before it runs the first: with one missing, nothing was made
            never_added = record.result is None and group.split(PluginNotFound)[1] is None
            if not never_added:
                raise

    async def remove_unused_bridge(self, record: AttachmentRecord) -> None:
        """On the host a bridge of ours goes with its last container; the uplink's go with the uplink."""
        if self.uplink is None and not self._bridge_users[record.network.name]:
            await self._remove_empty_bridges(record.network)

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
    conf = msgspec.json.decode(network.raw)  # a list, always: NetworkList.raw
    conf["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}})
    return NetworkList.from_bytes(msgspec.json.encode(conf), network.source)


def with_capabilities(network: NetworkList, wanted: Sequence[str]) -> NetworkList:
    """The network with these capabilities switched on in its first plugin, for those that have the code for it."""
    missing = [key for key in wanted if key not in network.plugins[0].capabilities]
    if not missing:
        return network
    return with_first_plugin(network, {"capabilities": dict.fromkeys(missing, True)})


def with_first_plugin(network: NetworkList, more: Mapping[str, Any]) -> NetworkList:
    """The network with `more` in its first plugin's configuration; objects are joined."""
    conf = msgspec.json.decode(network.raw)
    first = conf["plugins"][0]
    for key, value in more.items():
        first[key] = {**first.get(key, {}), **value} if isinstance(value, dict) else value
    return NetworkList.from_bytes(msgspec.json.encode(conf), network.source)


def with_address(options: SlirpOptions, ip: str) -> SlirpOptions:
    """Options by which slirp4netns gives out `ip`. Raises: SlirpConfError."""
    if options.address == ip:
        return options
    try:
        network = ipaddress.IPv4Interface(f"{ip}/{options.network.prefixlen}").network
        found = msgspec.structs.replace(options, cidr=str(network))
    except ValueError:
        raise SlirpConfError("ip", f"{ip!r} is not an IPv4 address") from None
    if found.address != ip:
        raise SlirpConfError(
            "ip", f"slirp4netns always gives the 100th address of its network: {found.address}, not {ip}"
        )
    return found


def _verify_wishes(request: NetworkRequest, result: Result) -> None:
    """Plugins pass over what they do not know. Raises: AttachmentError."""
    given = [ip.address.partition("/")[0] for ip in result.container_ips()]
    if request.ip is not None and request.ip not in given:
        raise AttachmentError(
            f"network {request.network.name}: gave {', '.join(given) or 'no address'}, not {request.ip}",
            cure="leave out --ip, or use a network whose addresses come from host-local",
        )
    macs = [one.mac.lower() for one in result.interfaces if one.sandbox]
    if request.mac is not None and request.mac.lower() not in macs:
        raise AttachmentError(
            f"network {request.network.name}: its plugins can't set a MAC address",
            cure="leave out --mac-address, or use a bridge or slirp network",
        )


def _empty_lease_books(sandbox: Sandbox, lease_dir: str, network: str) -> list[str]:
    """host-local's directory of a network, unless an address is given out; no others may be removed."""
    directory = f"{lease_dir}/{network}"
    try:
        found = os.listdir(sandbox.outer_path(directory))
    except FileNotFoundError:
        return []
    leases = [name for name in found if name != "lock" and not name.startswith("last_reserved_ip.")]
    return [] if leases else [directory]


async def _close(reservation: Reservation) -> None:
    reservation.close()


def number_interfaces(networks: Sequence[NetworkList]) -> tuple[NetworkRequest, ...]:
    """Requests for `networks` as cni0, cni1, …."""
    return tuple(
        NetworkRequest(network=network, ifname=f"cni{number}")
        for number, network in zip(itertools.count(), networks, strict=False)
    )


def uses_slirp_first(requests: Sequence[NetworkRequest]) -> bool:
    """Whether the container's netns should come with a tap named cni0."""
    return bool(requests) and requests[0].network.plugins[0].type == "slirp"
