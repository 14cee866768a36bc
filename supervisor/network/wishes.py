"""How wishes go into a network's configuration (ports, address, MAC), and whether they came true."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from netconf import NetworkList, Result
from supervisor.errors import AttachmentError
from supervisor.network.attachment import NetworkRequest
from supervisor.network.ports import PortMapping
from supervisor.network.slirp_conf import SlirpConfError, SlirpOptions


def own_port_mapper(network: NetworkList) -> str | None:
    """The type of a plugin in the network that maps ports, other than CNI's own portmap; None if there is none."""
    mappers = (one.type for one in network.plugins if "portMappings" in one.capabilities)
    return next((kind for kind in mappers if kind != "portmap"), None)


def portmap_alone(network: NetworkList, name: str) -> NetworkList:
    """A network `name` of portmap only, set as in `network` if that has one."""
    conf = msgspec.json.decode(network.raw)  # a list, always: NetworkList.raw
    found: dict[str, Any] = next(
        (one for one in conf["plugins"] if one.get("type") == "portmap"), {"type": "portmap"}
    )
    capabilities = {**(found.get("capabilities") or {}), "portMappings": True}
    plugin = {**found, "capabilities": capabilities}
    return NetworkList.from_bytes(
        msgspec.json.encode({**conf, "name": name, "plugins": [plugin]}), network.source
    )


def check_publishable(network: NetworkList, mappings: Sequence[PortMapping], *, rootless: bool) -> None:
    """Tell before anything starts what is sure to fail. Raises: AttachmentError."""
    kind = network.plugins[0].type
    conf = msgspec.json.decode(network.plugins[0].raw)
    behind_slirp = kind == "slirp" or (rootless and kind != "pasta")
    relayed = behind_slirp and own_port_mapper(network) is None and conf.get("portHandler") != "slirp4netns"
    mapping = next(
        (one for one in mappings if one.is_ipv6 and not (relayed and one.protocol == "tcp")), None
    )
    if mapping is None:
        return
    what = f"publish host port {mapping.host_text()}: network {network.name}"
    if behind_slirp:
        raise AttachmentError(
            f"{what} can't: slirp4netns forwards IPv4 only",
            cure="publish on an IPv4 address, or use pasta",
        )
    if kind in ("bridge", "ptp") and not _gives_ipv6(conf):
        raise AttachmentError(
            f"{what} gives its containers no IPv6 address",
            cure="publish on an IPv4 address, or use a network made with: ctnr net create --ipv6",
        )


def _gives_ipv6(conf: Mapping[str, Any]) -> bool:
    """Whether a plugin's configuration has IPv6 subnets; taken to be so where host-local is not asked."""
    ipam = conf.get("ipam")
    return (
        not isinstance(ipam, dict)
        or ipam.get("type") != "host-local"
        or any(":" in str(one.get("subnet")) for one in host_local_ranges(ipam))
    )


def host_local_ranges(ipam: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What host-local gives addresses from: objects with `subnet`."""
    if ipam.get("subnet"):
        yield ipam
    for group in ipam.get("ranges") or ():
        yield from (one for one in group if isinstance(one, dict))


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


def behind_uplink(network: NetworkList, mtu: int, *, masquerades: bool) -> NetworkList:
    """A network of veths as it shall be in a sandbox: packets of that size, unless its configuration says otherwise.

    No wire is there to limit them, and slirp4netns pays by the packet. An uplink that `masquerades` spares the plugin
    its dozen runs of iptables for each container.
    """
    first = network.plugins[0]
    if first.type not in ("bridge", "ptp"):
        return network
    conf = msgspec.json.decode(first.raw)
    more: dict[str, Any] = {} if conf.get("mtu") else {"mtu": mtu}
    if masquerades and conf.get("ipMasq"):
        more["ipMasq"] = False
    return with_first_plugin(network, more) if more else network


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


def verify_wishes(request: NetworkRequest, result: Result) -> None:
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
