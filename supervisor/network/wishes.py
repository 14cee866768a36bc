"""How wishes go into a network's configuration (ports, address, MAC), and whether they came true."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from netconf import NetworkList, Result
from supervisor.errors import AttachmentError
from supervisor.network.attachment import NetworkRequest
from supervisor.network.slirp_conf import SlirpConfError, SlirpOptions


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
