"""Networks. What is data about them stands in `ctnr.networks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ctnr import networks, own_networks, requests
from ctnr.describe import describe_port
from ctnr.engine import Engine, caller_environment
from netconf import list_networks, load_network, search_path
from supervisor.container import Container
from supervisor.network.attachment import Attachment
from supervisor.service.server import Connection
from supervisor.spec import State

# Networks as data


async def net_list(engine: Engine, request: requests.NetList, connection: Connection) -> Any:
    known, broken = list_networks(config_directories(request))
    for error in broken:
        await connection.send("warning", text=error.message)
    return [networks.describe_network(one, _users(engine, one.name)) for one in known]


async def net_inspect(engine: Engine, request: requests.NetInspect, connection: Connection) -> Any:
    found = [load_network(name, config_directories(request)) for name in request.names]
    return [
        {
            **networks.describe_network(one, _users(engine, one.name)),
            "config": msgspec.Raw(bytes(one.raw)),
            "attachments": [
                {
                    "container": container.name,
                    "ifname": attachment.ifname,
                    "result": msgspec.Raw(bytes(attachment.result.raw)),
                    "nameservers": attachment.nameservers,
                    "ports": [describe_port(attachment, port) for port in attachment.ports],
                }
                for container, attachment in attachments_of(engine, one.name)
            ],
        }
        for one in found
    ]


async def net_create(engine: Engine, request: requests.NetCreate, connection: Connection) -> Any:
    network = await own_networks.create_network(config_directories(request), request)
    return networks.describe_network(network, ())


async def net_remove(engine: Engine, request: requests.NetRemove, connection: Connection) -> Any:
    for name in request.names:
        await _remove(engine, name, config_directories(request))
    return list(request.names)


async def net_prune(engine: Engine, request: requests.NetPrune, connection: Connection) -> Any:
    """Remove what `net create` has made and no container, running or not, names."""
    directories = config_directories(request)
    asked = {
        name.partition(":")[0] for record in engine.records.all() for name in record.request.networks or ()
    }
    unused = [
        one.name
        for one in own_networks.list_own_networks(directories)
        if one.name not in asked and not _users(engine, one.name)
    ]
    for name in unused:
        await _remove(engine, name, directories)
    return unused


async def _remove(engine: Engine, name: str, directories: Sequence[str]) -> None:
    network = await own_networks.remove_network(directories, name, _users(engine, name))
    await engine.supervisor.forget_network(network)


# Networks as they are


async def net_show(engine: Engine, request: requests.NetShow, connection: Connection) -> Any:
    """Networks that are in use (or all) with what is on them, and how many bytes went which way."""
    known, _ = list_networks(config_directories(request))
    by_name = {one.name: one for one in known}
    for container in engine.supervisor.containers.values():
        by_name |= {one.network.name: one.network for one in container.attachments}
    counters: dict[str, dict[str, tuple[int, int]]] = {}
    for container in list(engine.supervisor.containers.values()):
        if container.attachments:
            counters[container.id] = await container.membership.count_bytes()
    shown = []
    for name in sorted(by_name):
        attached = attachments_of(engine, name)
        if attached or request.all:
            row = networks.describe_network(by_name[name], _users(engine, name))
            members = [_member(one, at, counters.get(one.id, {})) for one, at in attached]
            bridge = msgspec.json.decode(by_name[name].plugins[0].raw).get("bridge")
            shown.append({**row, "bridge": bridge, "members": members})
    return shown


def _member(
    container: Container, attachment: Attachment, counters: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    received, sent = counters.get(attachment.ifname, (None, None))
    return {
        "container": container.name,
        "ifname": attachment.ifname,
        "addresses": attachment.addresses,
        "ports": [describe_port(attachment, port) for port in attachment.ports],
        "nameservers": attachment.nameservers,
        "received": received,
        "sent": sent,
    }


# Changing what runs


async def net_connect(engine: Engine, request: requests.NetConnect, connection: Connection) -> Any:
    container = engine.running(engine.records.get(request.container))
    attachment = await engine.connect(
        container, request.network, ip=request.ip, mac=request.mac, aliases=request.aliases,
        environ=request.environ,
    )  # fmt: skip
    return {"ifname": attachment.ifname, "addresses": attachment.addresses}


async def net_disconnect(engine: Engine, request: requests.NetDisconnect, connection: Connection) -> Any:
    await engine.disconnect(engine.running(engine.records.get(request.container)), request.network)
    return None


def config_directories(request: Any) -> tuple[str, ...]:
    """Where the caller has its configurations."""
    environ = caller_environment(request.environ)
    return search_path(environ, environ.get("HOME"))


def attachments_of(engine: Engine, network: str) -> list[tuple[Container, Attachment]]:
    """Who is on a network."""
    return [
        (container, attachment)
        for container in engine.supervisor.containers.values()
        for attachment in container.attachments
        if attachment.network.name == network
    ]


def _users(engine: Engine, network: str) -> list[str]:
    """Names of the containers on a network, those included that are about to be, at first or again."""
    users = {container.name for container, _ in attachments_of(engine, network)}
    for container in engine.supervisor.containers.values():
        if container.state in (State.CREATED, State.RESTARTING) and any(
            one.network.name == network for one in container.networks
        ):
            users.add(container.name)
    return sorted(users)


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.NetList: net_list,
    requests.NetInspect: net_inspect,
    requests.NetCreate: net_create,
    requests.NetRemove: net_remove,
    requests.NetPrune: net_prune,
    requests.NetShow: net_show,
    requests.NetConnect: net_connect,
    requests.NetDisconnect: net_disconnect,
}
