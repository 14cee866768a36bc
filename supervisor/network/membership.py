"""A container's part in networks: its network namespace and what is attached to it, at the start and while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from netconf import NetworkList
from supervisor.errors import AttachmentError, NotFound, WrongState
from supervisor.network.attachment import Attachment, NetworkRequest, uses_slirp_first
from supervisor.network.netlink import Netlink, open_socket_in
from supervisor.network.netns import open_netns
from supervisor.network.ports import PortMapping, reserve_ports
from supervisor.network.reply_routes import route_replies
from supervisor.teardown import Teardown

if TYPE_CHECKING:
    from supervisor.container import Container
    from supervisor.realm import Realm


class Membership:
    """Of one container. `netns` is a path in the sandbox, None with the host's network."""

    def __init__(self, container: Container, realm: Realm, is_running: Callable[[], bool]) -> None:
        self.attachments: tuple[Attachment, ...] = ()
        self.netns: str | None = None
        self._container = container
        self._realm = realm
        self._is_running = is_running
        self._nursery: trio.Nursery | None = None
        self._changing = trio.Lock()
        self._no_more_changes = False
        self._connected: list[Teardown] = []  # what came while it ran

    async def set_up(self, teardown: Teardown, nursery: trio.Nursery) -> None:
        """As the container's spec says; each undo is pushed before its step.

        Raises: AttachmentError (PortTaken, PluginError, SlirpError), NetconfError, SandboxError, OSError.
        """
        self._nursery = nursery
        spec, realm, sandbox = self._container.spec, self._realm, self._realm.sandbox
        if spec.host_network:
            return
        if spec.shares is not None:
            self.netns = spec.shares.membership.netns_for(realm)
            return
        if spec.netns_path is not None:
            self.netns = f"{sandbox.run_dir}/netns/of-{self._container.id[:12]}"
            with open_netns(spec.netns_path) as descriptor:
                teardown.push("let go of the network namespace", partial(sandbox.delete_netns, self.netns))
                await sandbox.pin_netns(descriptor, self.netns)
            return
        wanted, ports = self._container.networks, self._container.ports_wanted
        self.netns = await realm.netns_pool.take(tap=uses_slirp_first(wanted))
        teardown.push("remove the network namespace", partial(sandbox.delete_netns, self.netns))
        self.attachments = await realm.networks.attach(self._container, wanted, ports, teardown, nursery)
        teardown.push("end its changes of networks", self._end_changes)
        if len(self.attachments) > 1:
            await route_replies(sandbox, self.netns, self.attachments)

    def netns_for(self, realm: Realm) -> str:
        """The network namespace for another container. Raises: WrongState, AttachmentError."""
        name = self._container.name
        if not self._is_running():
            raise WrongState(f"container {name} is not running", cure=f"ctnr start {name}")
        if self.netns is None or realm is not self._realm:
            raise AttachmentError(
                f"the network namespace of container {name} belongs to another user namespace",
                cure="run both with --rootless, or both without",
            )
        return self.netns

    async def connect(self, network: NetworkList, **wishes: Any) -> Attachment:
        """Attach one more network, as the next cniN, also in the rounds to come; `wishes` are fields of NetworkRequest.

        Raises: WrongState, AttachmentError, NetconfError; nothing has changed then.
        """
        async with self._changing:
            self._check_changeable()
            if any(one.network.name == network.name for one in self.attachments):
                raise AttachmentError(
                    f"container {self._container.name} is on network {network.name} already"
                )
            taken = [int(one.ifname.removeprefix("cni")) for one in self.attachments]
            request = NetworkRequest(network=network, ifname=f"cni{max(taken, default=-1) + 1}", **wishes)
            added = Teardown()
            self._connected.append(added)
            assert self._nursery is not None
            assert self.netns is not None
            try:
                if uses_slirp_first((request,)):  # that of the netns went with what was cni0 before
                    await self._realm.sandbox.new_tap(self.netns, request.ifname)
                attached = await self._realm.networks.attach(
                    self._container, (request,), (), added, self._nursery
                )
                if self.attachments:
                    await route_replies(self._realm.sandbox, self.netns, (*self.attachments, *attached))
            except BaseException:
                with trio.CancelScope(shield=True):
                    await added.run()
                raise
            self.attachments += attached
            self._container.networks += (request,)
            self._tell("connect", attached[0])
            return attached[0]

    async def disconnect(self, network: str) -> None:
        """Take one of the networks away, with the ports that it publishes, also in the rounds to come.

        Raises: WrongState, AttachmentError.
        """
        async with self._changing:
            self._check_changeable()
            found = next((one for one in self.attachments if one.network.name == network), None)
            if found is None:
                raise AttachmentError(
                    f"container {self._container.name} is not on network {network}",
                    cure=f"it is on: {', '.join(one.network.name for one in self.attachments) or 'none'}",
                )
            with trio.CancelScope(shield=True):
                if found is self.attachments[0]:
                    self._container.ports_wanted = ()
                self.attachments = tuple(one for one in self.attachments if one is not found)
                self._container.networks = tuple(
                    one for one in self._container.networks if one.ifname != found.ifname
                )
                await found.teardown.run()
                if found.slirp is not None:
                    await self._realm.networks.remove_tap(self.netns, found.ifname)
            self._tell("disconnect", found)

    async def publish(self, mappings: Sequence[PortMapping]) -> tuple[tuple[Attachment, PortMapping], ...]:
        """Open more ports of the host, all or none, by the first network, as at the start; also in the rounds to come.

        Raises: WrongState, AttachmentError (PortTaken, PluginError, SlirpError).
        """
        async with self._changing:
            self._check_changeable()
            if not self.attachments:
                raise AttachmentError(
                    f"container {self._container.name} has no network to publish ports from",
                    cure=f"ctnr net connect slirp {self._container.name}",
                )
            first = self.attachments[0]
            with reserve_ports(mappings) as reservation:
                published = await first.publisher.publish_reserved(reservation)
            self._container.ports_wanted += tuple(published)
            return tuple((first, mapping) for mapping in published)

    async def withdraw(self, wanted: Sequence[PortMapping]) -> tuple[tuple[Attachment, PortMapping], ...]:
        """Stop publishing ports, also in the rounds to come. One without a host port stands for all to the container's.

        Raises: WrongState, NotFound, and nothing has changed; AttachmentError, ExceptionGroup.
        """
        async with self._changing:
            self._check_changeable()
            found: dict[PortMapping, Attachment] = {}
            for one in wanted:
                fitting = {
                    mapping: attachment
                    for attachment in self.attachments
                    for mapping in attachment.ports
                    if mapping.fits(one)
                }
                if not fitting:
                    name = self._container.name
                    what = one if one.host_port else f"{one.container_port}/{one.protocol}"
                    raise NotFound(f"container {name} does not publish {what}", cure=f"ctnr port {name}")
                found |= fitting
            self._container.ports_wanted = _without(self._container.ports_wanted, found)
            for attachment in self.attachments:
                await attachment.publisher.withdraw(
                    [mapping for mapping, whose in found.items() if whose is attachment]
                )
            return tuple((attachment, mapping) for mapping, attachment in found.items())

    async def check(self, attachment: Attachment) -> None:
        """CNI's CHECK, or whether slirp4netns runs. Raises: AttachmentError (PluginError)."""
        await self._realm.networks.check(self._container.id, attachment)

    async def count_bytes(self) -> dict[str, tuple[int, int]]:
        """Received and sent, by interface of the network namespace. Raises: NetlinkFailed, OSError."""
        with Netlink(await open_socket_in(self._realm.sandbox, self.netns)) as netlink:
            return {link.name: (link.received_bytes, link.sent_bytes) for link in await netlink.links()}

    def tell_all(self, action: str) -> None:
        """An event for each of its networks."""
        for one in self.attachments:
            self._tell(action, one)

    def forget_all(self) -> None:
        """It is on none of them any more."""
        self.tell_all("disconnect")
        self.attachments, self.netns = (), None

    def _tell(self, action: str, one: Attachment) -> None:
        self._container.tell(action, type="network", network=one.network.name, ifname=one.ifname)

    def _check_changeable(self) -> None:
        name, spec = self._container.name, self._container.spec
        if not self._is_running() or self._no_more_changes:
            raise WrongState(f"container {name} is not running", cure=f"ctnr start {name}")
        if self.netns is None or spec.shares is not None or spec.netns_path is not None:
            raise AttachmentError(
                f"container {name} has no network namespace of its own",
                cure="choose its networks when it is started",
            )

    async def _end_changes(self) -> None:
        """Wait for a change under way, allow none after it, and undo those that were made."""
        self._no_more_changes = True
        async with self._changing:
            while self._connected:
                await self._connected.pop().run()


def _without(wanted: Sequence[PortMapping], withdrawn: Iterable[PortMapping]) -> tuple[PortMapping, ...]:
    """A wish without a host port goes with the first that it has become."""
    left = list(wanted)
    for mapping in withdrawn:
        exact = [one for one in left if one == mapping]
        for one in (exact or [one for one in left if mapping.fits(one)])[:1]:
            left.remove(one)
    return tuple(left)
