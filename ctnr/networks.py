"""Networks as data: what a request names, and how they are told."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from ctnr import requests
from netconf import NetworkList, is_builtin, load_network, parse_cni_args
from netconf.decode import UNREADABLE
from supervisor.errors import SupervisorError
from supervisor.network import pasta_conf
from supervisor.network.attachment import NetworkRequest, number_interfaces
from supervisor.network.plugins import default_cni_path
from supervisor.network.slirp_conf import check_mac, decode_options
from supervisor.network.wishes import host_local_ranges, with_first_plugin

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

SLIRP = ipaddress.ip_network("10.0.2.0/24")  # slirp4netns's own
TAKEN_BY_NAME = ("none", "host", "container", "ns")
PODMAN_NAMES = {
    "enable_ipv6": "enableIPv6", "allow_host_loopback": "hostLoopback", "outbound_addr": "outboundAddr",
    "outbound_addr6": "outboundAddr6", "disable_dns": "disableDNS", "port_handler": "portHandler",
}  # fmt: skip
PODMAN_VALUES = {"rootlesskit": "relay"}
_DECODERS: dict[str, Callable[..., Any]] = {
    "slirp": decode_options,
    "pasta": pasta_conf.decode_options,
}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What `--network` comes to: networks, or the namespace of the host, of a container, or of a file."""

    requests: tuple[NetworkRequest, ...] = ()
    host: bool = False
    container: str | None = None
    path: str | None = None


def for_plugins(environ: Mapping[str, str], run: requests.Run | None = None) -> dict[str, Any]:
    """Fields of NetworkRequest for plugins: CNI_PATH and CNI_ARGS, and CAP_ARGS as the tools of CNI have it.

    Raises: NetconfError, SupervisorError.
    """
    text = environ.get("CAP_ARGS", "")
    try:
        given = msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except UNREADABLE as exc:
        raise SupervisorError(
            f"CAP_ARGS {text!r}: {exc}", cure='write it like {"bandwidth": {"ingressRate": 1000000}}'
        ) from None
    if run is not None and (run.dns or run.dns_search or run.dns_options) and "none" not in run.dns:
        given.setdefault("dns", {"servers": run.dns, "searches": run.dns_search, "options": run.dns_options})
    return {
        "cni_path": default_cni_path(environ),
        "cni_args": parse_cni_args(environ.get("CNI_ARGS", "")),
        "capability_args": given,
    }


def choose_networks(
    run: requests.Run, default: str, directories: Sequence[str], environ: Mapping[str, str]
) -> Chosen:
    """`environ` is the caller's. Raises: NetconfError, SupervisorError."""
    names = (default,) if run.networks is None else run.networks
    for name in names:
        kind, _, value = name.partition(":")
        if kind in TAKEN_BY_NAME and len(names) > 1:
            raise SupervisorError(f"network {name} can't be combined with others", cure="name it alone")
        if kind in ("container", "ns") and not value:
            raise SupervisorError(
                f"network {name}: of what?", cure="--network=container:NAME, or --network=ns:PATH"
            )
        if kind in TAKEN_BY_NAME:
            _refuse_wishes(run, name)
            return Chosen(
                host=kind == "host",
                container=value if kind == "container" else None,
                path=value if kind == "ns" else None,
            )
    if (run.ip is not None or run.mac is not None) and len(names) != 1:
        raise SupervisorError(
            "--ip and --mac-address are for one network", cure="write --network=NAME:ip=ADDRESS,mac=ADDRESS"
        )
    told = for_plugins(environ, run)
    loaded = [_load(name, directories) for name in names]
    numbered = number_interfaces([network for network, _ in loaded])
    common = {key: value for key, value in (("ip", run.ip), ("mac", run.mac)) if value is not None}
    return Chosen(
        requests=tuple(
            NetworkRequest(network=one.network, ifname=one.ifname, **{**told, **_wishes(common), **own})
            for one, (_, own) in zip(numbered, loaded, strict=True)
        )
    )


def load_wished(
    name: str, directories: Sequence[str], **wishes: str | None
) -> tuple[NetworkList, dict[str, Any]]:
    """A network `NAME[:OPTION=VALUE,…]` and the fields of NetworkRequest that its options come to."""
    given = {key: value for key, value in wishes.items() if value is not None}
    network, own = _load(name, directories)
    return network, {**_wishes(given), **own}


def _refuse_wishes(run: requests.Run, network: str) -> None:
    given = {
        "-p": run.publish,
        "-P": run.publish_all,
        "--ip": run.ip,
        "--mac-address": run.mac,
        "--network-alias": run.aliases,
    }
    for option, value in given.items():
        if value and not (option in ("-p", "-P") and network == "host"):  # there every port is open
            raise SupervisorError(
                f"{option} can't be had with --network={network}", cure=f"leave out {option}"
            )


def _load(name: str, directories: Sequence[str]) -> tuple[NetworkList, dict[str, Any]]:
    """The network of `NAME[:OPTION=VALUE,…]`: options of slirp, and ip, mac and alias of any."""
    name, colon, text = name.partition(":")
    network = load_network(name, directories)
    wishes: dict[str, str] = {}
    options: dict[str, str] = {}
    aliases: list[str] = []
    for part in text.split(",") if colon else ():
        key, equals, value = part.partition("=")
        key = PODMAN_NAMES.get(key, key)
        if not equals or not key:
            raise SupervisorError(
                f"network {name}: option {part!r}", cure=f"write --network={name}:OPTION=VALUE,…"
            )
        if key == "alias":
            aliases.append(value)
        elif key in ("ip", "mac"):
            wishes[key] = value
        else:
            options[key] = PODMAN_VALUES.get(value, value)
    if options:
        decode = _DECODERS.get(network.plugins[0].type)
        if decode is None:
            raise SupervisorError(
                f"network {name}: {', '.join(options)}: only slirp and pasta networks take options here",
                cure="ip, mac and alias are for all; for others: ctnr net create --opt",
            )
        conf = msgspec.json.decode(network.plugins[0].raw)
        checked = msgspec.to_builtins(decode({**conf, **options}, lax=True))
        network = with_first_plugin(network, {key: checked[key] for key in options})
    own: dict[str, Any] = _wishes(wishes)
    return network, {**own, "aliases": tuple(aliases)} if aliases else own


def _wishes(given: Mapping[str, str]) -> dict[str, Any]:
    """Checked and in their normal form. Raises: SupervisorError."""
    found: dict[str, Any] = {}
    if "ip" in given:
        try:
            found["ip"] = str(ipaddress.ip_address(given["ip"]))
        except ValueError:
            raise SupervisorError(
                f"{given['ip']!r} is not an IP address", cure="give one without a prefix length"
            ) from None
    if "mac" in given:
        found["mac"] = check_mac(given["mac"])
    return found


def describe_network(network: NetworkList, users: Sequence[str]) -> dict[str, Any]:
    """A row of `net ls`."""
    conf = msgspec.json.decode(network.plugins[0].raw)
    return {
        "name": network.name,
        "driver": network.plugins[0].type,
        "plugins": [plugin.type for plugin in network.plugins],
        "subnets": [str(subnet) for subnet in subnets_of(network)],
        "gateway": _told_gateway(network, conf),
        "mtu": conf.get("mtu"),
        "internal": network.plugins[0].type == "bridge" and not (conf.get("ipam") or {}).get("routes"),
        "cni_version": network.cni_version,
        "builtin": is_builtin(network),
        "source": network.source,
        "containers": list(users),
    }


def _told_gateway(network: NetworkList, conf: Mapping[str, Any]) -> str | None:
    if network.plugins[0].type == "slirp":
        with suppress(SupervisorError):
            return decode_options(conf).gateway
        return None
    for one in _ranges(conf):
        if one.get("gateway"):
            return str(one["gateway"])
    subnets = subnets_of(network)
    return str(subnets[0][1]) if subnets and conf.get("isGateway") else None


def subnets_of(network: NetworkList) -> tuple[Subnet, ...]:
    """The subnets that a configuration names, as far as its plugins are known."""
    found: list[Subnet] = []
    for plugin in network.plugins:
        conf = msgspec.json.decode(plugin.raw)
        texts = [one.get("subnet") for one in _ranges(conf)]
        if plugin.type == "slirp":
            texts.append(conf.get("cidr", str(SLIRP)))
        for text in texts:
            with suppress(ValueError):
                found.append(ipaddress.ip_network(str(text), strict=False))
    return tuple(dict.fromkeys(found))


def _ranges(conf: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    ipam = conf.get("ipam")
    return host_local_ranges(ipam) if isinstance(ipam, dict) else iter(())
