"""Networks of one's own, which are files like everybody's.

`ctnr net create` writes NAME.conflist into the first directory of the search path. Whoever creates or removes one holds
a lock on that directory, so that two at once choose different subnets.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.networks import PODMAN_NAMES, PODMAN_VALUES, SLIRP, TAKEN_BY_NAME, Subnet, subnets_of
from netconf import (
    NetconfError,
    NetworkList,
    builtin_names,
    check_network_name,
    is_builtin,
    list_networks,
    load_network,
)
from supervisor.errors import NameInUse, NotFound, SupervisorError
from supervisor.network import pasta_conf, uplink
from supervisor.network.slirp_conf import SlirpOptions, decode_options

LOCK_SECONDS = 10
_BRIDGE_OPTIONS = (
    "bridge", "forceAddress", "hairpinMode", "ipMasq", "isDefaultGateway", "isGateway", "promiscMode", "vlan",
)  # fmt: skip


async def create_network(directories: Sequence[str], request: requests.NetCreate) -> NetworkList:
    """Write its file. Raises: NameInUse, SupervisorError, NetconfError, OSError."""
    check_network_name(request.name)
    if request.name in TAKEN_BY_NAME:
        raise SupervisorError(
            f"{request.name} means something else to --network", cure="choose another name"
        )
    directory = directories[0]
    os.makedirs(directory, exist_ok=True)
    async with _locked(directory):
        known, _ = list_networks(directories)
        path = os.path.join(directory, f"{request.name}.conflist")
        if (found := next((one for one in known if one.name == request.name), None)) is not None:
            removable = os.path.dirname(found.source) == directory
            raise NameInUse(
                f"there is a network {request.name} already: {found.source}",
                cure=f"choose another name{f', or: ctnr net rm {request.name}' if removable else ''}",
            )
        conf = build_conf(request, known, [*read_routes(), *read_ipv6_routes()])
        raw = msgspec.json.format(msgspec.json.encode(conf), indent=2) + b"\n"
        network = NetworkList.from_bytes(raw, path)
        _write_new(path, raw)
        return network


def build_conf(
    request: requests.NetCreate, known: Sequence[NetworkList], routes: Sequence[tuple[Subnet, bool]]
) -> dict[str, Any]:
    """The configuration of a new network. `routes` are the host's: (destination, on link)."""
    taken = [(subnet, f"network {one.name}") for one in known for subnet in subnets_of(one)]
    taken.append((SLIRP, "slirp4netns's own network"))
    taken.append((uplink.OPTIONS.network, "the way out of bridges"))
    if request.driver == "pasta":
        return _named(request, _pasta_plugin(request))
    subnet = _subnet(request, taken, routes)
    if request.driver == "slirp":
        plugin = _slirp_plugin(request, subnet)
    elif request.driver == "bridge":
        plugin = _bridge_plugin(request, subnet)
        if request.ipv6:
            used = [*(one for one, _ in taken), *(one for one, _ in routes)]
            _add_ipv6(
                plugin, next(one for one in _local_subnets() if not any(_overlap(one, o) for o in used))
            )
    else:
        raise SupervisorError(f"driver {request.driver} is not known", cure="bridge, slirp or pasta")
    return _named(request, plugin)


def _named(request: requests.NetCreate, plugin: dict[str, Any]) -> dict[str, Any]:
    head = {"cniVersion": "1.0.0", "name": request.name, "ctnr": {"created": int(time.time())}}
    return {**head, "plugins": [plugin]}


def _subnet(
    request: requests.NetCreate,
    taken: Sequence[tuple[Subnet, str]],
    routes: Sequence[tuple[Subnet, bool]],
) -> Subnet:
    if request.subnet is None:
        if request.gateway is not None:
            raise SupervisorError("a gateway needs its subnet", cure="add --subnet")
        used = [subnet for subnet, _ in taken] + [subnet for subnet, _ in routes]
        return next(one for one in _candidates() if not any(_overlap(one, other) for other in used))
    try:
        subnet = ipaddress.ip_network(request.subnet)
    except ValueError as exc:
        raise SupervisorError(
            f"subnet {request.subnet!r}: {exc}", cure="write it like 10.89.0.0/24"
        ) from None
    if subnet.version != 4 or not 8 <= subnet.prefixlen <= 29:
        raise SupervisorError(
            f"subnet {subnet}: an IPv4 network from /8 to /29 is expected", cure="write it like 10.89.0.0/24"
        )
    links = [(route, "an interface of this host") for route, on_link in routes if on_link]
    for other, whose in (*taken, *links):
        if _overlap(subnet, other):
            raise SupervisorError(
                f"subnet {subnet} overlaps {other} of {whose}",
                cure="leave out --subnet: a free one is found",
            )
    return subnet


def _candidates() -> Iterator[Subnet]:
    """Subnets of the private ranges (RFC 1918), those first that others seldom use."""
    for first in ("10.89.0.0/16", "10.90.0.0/15", "10.92.0.0/14", "172.16.0.0/12", "192.168.0.0/16"):
        yield from ipaddress.IPv4Network(first).subnets(new_prefix=24)
    raise SupervisorError(
        "no free subnet: every private one overlaps a network or a route of this host", cure="give --subnet"
    )


def _bridge_plugin(request: requests.NetCreate, subnet: Subnet) -> dict[str, Any]:
    ranges: dict[str, Any] = {"subnet": str(subnet)}
    if request.gateway is not None:
        ranges["gateway"] = str(_gateway(request.gateway, subnet))
    ipam: dict[str, Any] = {"type": "host-local", "ranges": [[ranges]]}
    plugin: dict[str, Any] = {"type": "bridge", "bridge": _bridge_name(request.name), "isGateway": True}
    if not request.internal:
        plugin["ipMasq"] = True
        ipam["routes"] = [{"dst": "0.0.0.0/0"}]
    if request.mtu is not None:
        if not 68 <= request.mtu <= 65535:
            raise SupervisorError(f"mtu {request.mtu}: not between 68 and 65535", cure="1500 is usual")
        plugin["mtu"] = request.mtu
    for key, text in _pairs(request.options).items():
        if key not in _BRIDGE_OPTIONS:
            raise SupervisorError(
                f"option {key}: not known to driver bridge", cure=f"one of {', '.join(_BRIDGE_OPTIONS)}"
            )
        plugin[key] = _value(text)
    if len(os.fsencode(str(plugin["bridge"]))) > 15:
        raise SupervisorError(f"bridge {plugin['bridge']}: too long a name", cure="15 bytes is the most")
    return {**plugin, "capabilities": {"ips": True, "mac": True}, "ipam": ipam}


def _add_ipv6(plugin: dict[str, Any], subnet: Subnet) -> None:
    ipam = plugin["ipam"]
    ipam["ranges"].append([{"subnet": str(subnet)}])
    if "routes" in ipam:
        ipam["routes"].append({"dst": "::/0"})


def _local_subnets() -> Iterator[Subnet]:
    """Unique local networks with a random global id (RFC 4193 section 3.2)."""
    while True:
        yield ipaddress.IPv6Network((b"\xfd" + secrets.token_bytes(5) + bytes(10), 64))


def _slirp_plugin(request: requests.NetCreate, subnet: Subnet) -> dict[str, Any]:
    if request.internal:
        raise SupervisorError("driver slirp is a way out: it can't be internal", cure="--driver bridge")
    if request.gateway is not None:
        raise SupervisorError(
            "the gateway of driver slirp is the second address of its subnet", cure="leave out --gateway"
        )
    # its network reaches the host only where that is asked for
    asked: dict[str, Any] = {"hostLoopback": False, "cidr": str(subnet)}
    if request.mtu is not None:
        asked["mtu"] = request.mtu
    if request.ipv6:
        asked["enableIPv6"] = True
    for key, text in _pairs(request.options).items():
        asked[PODMAN_NAMES.get(key, key)] = PODMAN_VALUES.get(text, text)
    options: SlirpOptions = decode_options(asked, lax=True)
    told = msgspec.to_builtins(options)
    return {"type": "slirp", **{key: told[key] for key in ("mtu", *asked)}}


def _pasta_plugin(request: requests.NetCreate) -> dict[str, Any]:
    for option, value in {
        "subnet": request.subnet,
        "gateway": request.gateway,
        "internal": request.internal,
    }.items():
        if value:
            raise SupervisorError(
                f"driver pasta takes its addresses over from the host: no --{option}",
                cure=f"leave out --{option}",
            )
    asked: dict[str, Any] = {"hostLoopback": False}
    if request.mtu is not None:
        asked["mtu"] = request.mtu
    if request.ipv6:
        asked["enableIPv6"] = True
    for key, text in _pairs(request.options).items():
        asked[PODMAN_NAMES.get(key, key)] = text
    told = msgspec.to_builtins(pasta_conf.decode_options(asked, lax=True))
    return {"type": "pasta", **{key: told[key] for key in asked}}


def _gateway(text: str, subnet: Subnet) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        gateway = ipaddress.ip_address(text)
    except ValueError:
        raise SupervisorError(f"gateway {text!r} is not an IP address") from None
    if gateway not in subnet or gateway in (subnet.network_address, subnet.broadcast_address):
        raise SupervisorError(
            f"gateway {gateway} is not an address of {subnet}", cure=f"such as {subnet[1]}"
        )
    return gateway


def _bridge_name(network: str) -> str:
    """The kernel allows 15 bytes; `ctnr-` marks it as ours to remove."""
    if len(network) <= 10:
        return f"ctnr-{network}"
    return f"ctnr-{hashlib.sha256(network.encode()).hexdigest()[:10]}"


def _pairs(options: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise SupervisorError(f"option {text!r}: no value", cure="--opt KEY=VALUE")
        found[key] = value
    return found


def _value(text: str) -> bool | int | str:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isascii() and text.isdigit() else text


async def remove_network(directories: Sequence[str], name: str, users: Sequence[str]) -> NetworkList:
    """Remove its file. Raises: NotFound, SupervisorError if it is built in, or in use by `users`; OSError."""
    check_network_name(name)
    if name in TAKEN_BY_NAME or (name in builtin_names() and is_builtin(load_network(name, directories))):
        raise SupervisorError(f"network {name} comes with ctnr and can't be removed")
    if users:
        raise SupervisorError(
            f"network {name} is in use by {', '.join(users)}",
            cure=f"ctnr stop {' '.join(users)}, or: ctnr net disconnect {name} CONTAINER",
        )
    try:
        network = load_network(name, directories)
    except NetconfError as exc:
        if exc.file is None:
            raise NotFound(f"there is no network {name}", cure="ctnr net ls lists them") from None
        raise
    async with _locked(os.path.dirname(network.source)):
        os.unlink(network.source)
    return network


def list_own_networks(directories: Sequence[str]) -> list[NetworkList]:
    """Those that `ctnr net create` has made, which their files tell."""
    known, _ = list_networks(directories)
    return [one for one in known if not is_builtin(one) and "ctnr" in msgspec.json.decode(one.raw)]


def read_routes(path: str = "/proc/self/net/route") -> Iterator[tuple[Subnet, bool]]:
    """The host's IPv4 routes but the default one, and whether each is on link."""
    try:
        with open(path, encoding="ascii") as file:
            lines = file.read().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        destination, gateway, mask = (int(fields[at], 16).to_bytes(4, "little") for at in (1, 2, 7))
        if any(mask):
            prefix = bin(int.from_bytes(mask, "big")).count("1")
            yield ipaddress.IPv4Network((destination, prefix), strict=False), not any(gateway)


def read_ipv6_routes(path: str = "/proc/self/net/ipv6_route") -> Iterator[tuple[Subnet, bool]]:
    """The host's IPv6 routes but default ones, and whether each is on link."""
    try:
        with open(path, encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        destination, prefix, _, _, gateway, *_ = line.split()
        if int(prefix, 16):
            network = ipaddress.IPv6Network((bytes.fromhex(destination), int(prefix, 16)), strict=False)
            yield network, not int(gateway, 16)


def _overlap(one: Subnet, other: Subnet) -> bool:
    return one.version == other.version and one.overlaps(other)


@asynccontextmanager
async def _locked(directory: str) -> AsyncIterator[None]:
    """Alone among those who change networks there. Raises: SupervisorError after LOCK_SECONDS, OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = trio.current_time() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if trio.current_time() > end:
                    raise SupervisorError(f"{directory}: somebody else holds its lock") from None
                await trio.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _write_new(path: str, content: bytes) -> None:
    """The whole file or none, and nobody else's replaced. Raises: OSError (FileExistsError)."""
    descriptor, unfinished = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(unfinished, 0o644)
        os.link(unfinished, path)
    finally:
        os.unlink(unfinished)
