"""Networks. What is data about them stands in `ctnr.networks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ctnr import networks, requests
from ctnr.engine import Engine, caller_environment
from netconf import NetconfError, NetworkList, is_builtin, list_networks, load_network, search_path
from supervisor.container import Container
from supervisor.errors import SupervisorError
from supervisor.groups import single_error
from supervisor.network.attachment import Attachment
from supervisor.network.plugins import default_cni_path, find_plugin
from supervisor.network.slirp_conf import decode_options, find_program
from supervisor.service.server import Connection
from supervisor.spec import State

# Networks as data


async def net_list(engine: Engine, request: requests.NetList, connection: Connection) -> Any:
    known, _ = list_networks(_directories(engine, request))
    return [networks.describe_network(one, _users(engine, one.name)) for one in known]


async def net_inspect(engine: Engine, request: requests.NetInspect, connection: Connection) -> Any:
    found = [load_network(name, _directories(engine, request)) for name in request.names]
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
                    "ports": [msgspec.to_builtins(port) for port in attachment.ports],
                }
                for container, attachment in _attachments(engine, one.name)
            ],
        }
        for one in found
    ]


async def net_create(engine: Engine, request: requests.NetCreate, connection: Connection) -> Any:
    network = await networks.create_network(_directories(engine, request), request)
    return networks.describe_network(network, ())


async def net_remove(engine: Engine, request: requests.NetRemove, connection: Connection) -> Any:
    for name in request.names:
        await _remove(engine, name, _directories(engine, request))
    return list(request.names)


async def net_prune(engine: Engine, request: requests.NetPrune, connection: Connection) -> Any:
    """Remove what `net create` has made and no container, running or not, names."""
    directories = _directories(engine, request)
    asked = {
        name.partition(":")[0] for record in engine.records.all() for name in record.request.networks or ()
    }
    unused = [
        one.name
        for one in networks.own_networks(directories)
        if one.name not in asked and not _users(engine, one.name)
    ]
    for name in unused:
        await _remove(engine, name, directories)
    return unused


async def _remove(engine: Engine, name: str, directories: Sequence[str]) -> None:
    network = await networks.remove_network(directories, name, _users(engine, name))
    await engine.supervisor.forget_network(network)


# Networks as they are


async def net_check(engine: Engine, request: requests.NetCheck, connection: Connection) -> Any:
    """Every file, the plugins of every network, and CHECK of what is attached: rows of {network, ok, detail, cure}."""
    known, errors = list_networks(_directories(engine, request))
    rows = []
    if not request.names:
        rows = [
            {"network": error.file or "", "ok": False, "detail": error.message, "cure": error.cure}
            for error in errors
        ]
    missing = set(request.names) - {one.name for one in known}
    for name in sorted(missing):
        load_network(name, _directories(engine, request))  # tells what is wrong
    for network in known:
        if not request.names or network.name in request.names:
            rows.append(await _check(engine, network, default_cni_path(caller_environment(request.environ))))
    return rows


async def _check(engine: Engine, network: NetworkList, cni_path: tuple[str, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {"network": network.name, "ok": True, "detail": "", "cure": None}
    try:
        _check_programs(network, cni_path)
    except (SupervisorError, NetconfError) as exc:
        # a built-in one that this machine can't have is a pity, not a fault
        return {**row, "ok": None if is_builtin(network) else False, "detail": exc.message, "cure": exc.cure}
    attached = _attachments(engine, network.name)
    failed = []
    for container, attachment in attached:
        try:
            await container.membership.check(attachment)
        except Exception as exc:
            failed.append(f"{container.name}: {single_error(exc)}")
    row["detail"] = f"{len(attached)} attached" if attached else "ready"
    return {**row, "ok": False, "detail": "; ".join(failed)} if failed else row


def _check_programs(network: NetworkList, cni_path: tuple[str, ...]) -> None:
    for plugin in network.plugins:
        if plugin.type == "slirp":
            find_program()
            decode_options(msgspec.json.decode(plugin.raw))
            continue
        find_plugin(plugin.type, cni_path)
        if plugin.ipam_type:
            find_plugin(plugin.ipam_type, cni_path)


async def net_show(engine: Engine, request: requests.NetShow, connection: Connection) -> Any:
    """Networks that are in use (or all) with what is on them, and how many bytes went which way."""
    known, _ = list_networks(_directories(engine, request))
    by_name = {one.name: one for one in known}
    for container in engine.supervisor.containers.values():
        by_name |= {one.network.name: one.network for one in container.attachments}
    counters: dict[str, dict[str, tuple[int, int]]] = {}
    for container in list(engine.supervisor.containers.values()):
        if container.attachments:
            counters[container.id] = await container.membership.count_bytes()
    shown = []
    for name in sorted(by_name):
        attached = _attachments(engine, name)
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
        "ports": [msgspec.to_builtins(port) for port in attachment.ports],
        "nameservers": attachment.nameservers,
        "received": received,
        "sent": sent,
    }


# Changing what runs


async def net_connect(engine: Engine, request: requests.NetConnect, connection: Connection) -> Any:
    record = engine.records.get(request.container)
    container = engine.running(record)
    network, wishes = networks.load_wished(
        request.network, _directories(engine, request), ip=request.ip, mac=request.mac
    )
    aliases = (*wishes.pop("aliases", ()), *request.aliases)
    cni_path = default_cni_path(caller_environment(request.environ))
    attachment = await container.membership.connect(network, aliases=aliases, cni_path=cni_path, **wishes)
    await engine.rewrite_name_servers(record, container)
    return {"ifname": attachment.ifname, "addresses": attachment.addresses}


async def net_disconnect(engine: Engine, request: requests.NetDisconnect, connection: Connection) -> Any:
    record = engine.records.get(request.container)
    container = engine.running(record)
    await container.membership.disconnect(request.network)
    await engine.rewrite_name_servers(record, container)
    return None


def _directories(engine: Engine, request: Any) -> tuple[str, ...]:
    environ = caller_environment(request.environ)
    return search_path(environ, environ.get("HOME"))


def _attachments(engine: Engine, network: str) -> list[tuple[Container, Attachment]]:
    return [
        (container, attachment)
        for container in engine.supervisor.containers.values()
        for attachment in container.attachments
        if attachment.network.name == network
    ]


def _users(engine: Engine, network: str) -> list[str]:
    """Names of the containers on a network, those included that are about to be."""
    users = {container.name for container, _ in _attachments(engine, network)}
    for container in engine.supervisor.containers.values():
        if container.state is State.CREATED and any(
            one.network.name == network for one in container.spec.networks
        ):
            users.add(container.name)
    return sorted(users)


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.NetList: net_list,
    requests.NetInspect: net_inspect,
    requests.NetCreate: net_create,
    requests.NetRemove: net_remove,
    requests.NetPrune: net_prune,
    requests.NetCheck: net_check,
    requests.NetShow: net_show,
    requests.NetConnect: net_connect,
    requests.NetDisconnect: net_disconnect,
}
