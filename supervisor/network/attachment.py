"""What a container wants of a network (`NetworkRequest`), and what it has there (`Attachment`). Data only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from netconf import NetworkList, Result
from supervisor.network.ports import PortMapping, Reservation
from supervisor.network.slirp import Slirp
from supervisor.teardown import Teardown


@dataclass(frozen=True, kw_only=True)
class NetworkRequest:
    """A network that a container shall have."""

    network: NetworkList
    ifname: str
    ip: str | None = None
    mac: str | None = None
    aliases: tuple[str, ...] = ()  # on this network only
    cni_path: tuple[str, ...] = ()  # where its plugins are; (): by our own environment
    cni_args: tuple[tuple[str, str], ...] = ()  # CNI_ARGS
    capability_args: Mapping[str, Any] = field(
        default_factory=dict
    )  # for those plugins that have the capability


class Publisher(Protocol):
    """Opens ports of the host into one attachment, while the container runs as well."""

    @property
    def published(self) -> tuple[PortMapping, ...]: ...

    def keeps_source(self, mapping: PortMapping) -> bool | None:
        """Whether the container sees a peer's own address, if the peer is another host; None: not known."""

    async def publish_reserved(self, reservation: Reservation) -> tuple[PortMapping, ...]:
        """Publish what `reservation` holds and close it; all of it, or nothing. Raises: AttachmentError."""

    async def withdraw(self, mappings: Sequence[PortMapping]) -> None:
        """Stop publishing these; the host's ports are free then. Raises: AttachmentError, ExceptionGroup."""


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A network that a container has: container × ifname, with the (last) plugin's result."""

    network: NetworkList
    ifname: str
    result: Result
    publisher: Publisher = field(compare=False, repr=False)
    slirp: Slirp | None = field(default=None, compare=False)
    reaches_host: bool = True  # the gateway is an address of the host
    served: tuple[str, ...] = ()  # addresses at which a name server of ours answers
    forwards_names: bool = False  # and for the rest of the world as well
    # the one server of the host that its name server asks, whatever the host's become; None: it follows the host
    asks: Callable[[], str | None] = field(default=lambda: None, compare=False, repr=False)
    teardown: Teardown = field(default_factory=Teardown, compare=False, repr=False)

    @property
    def ports(self) -> tuple[PortMapping, ...]:
        """The host ports that lead into the container by this attachment."""
        return self.publisher.published

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


def number_interfaces(networks: Sequence[NetworkList]) -> tuple[NetworkRequest, ...]:
    """Requests for `networks` as cni0, cni1, …."""
    return tuple(
        NetworkRequest(network=network, ifname=f"cni{number}")
        for number, network in zip(itertools.count(), networks, strict=False)
    )


def uses_slirp_first(requests: Sequence[NetworkRequest]) -> bool:
    """Whether the container's netns should come with a tap named cni0."""
    return bool(requests) and requests[0].ifname == "cni0" and requests[0].network.plugins[0].type == "slirp"
