"""Whether networks work, and what is left of those that did: `net check` and `net gc`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ctnr import networks, requests
from ctnr.engine import Engine, caller_environment
from ctnr.handlers.networks import attachments_of, config_directories
from netconf import ErrorCode, NetconfError, NetworkList, is_builtin, list_networks, load_network
from netconf.versions import supports
from supervisor.errors import PluginError, SupervisorError
from supervisor.groups import single_error
from supervisor.network import pasta_conf
from supervisor.network.plugins import default_cni_path, find_plugin
from supervisor.network.slirp_conf import check_ready, decode_options
from supervisor.service.server import Connection

_MEANING: dict[int, str] = {
    ErrorCode.UNAVAILABLE: "nothing more can be attached",
    ErrorCode.LIMITED_CONNECTIVITY: "nothing more can be attached, and what is may have lost its connection",
}


async def net_check(engine: Engine, request: requests.NetCheck, connection: Connection) -> Any:
    """Every file, the plugins of every network, whether they could attach, and CHECK of what is attached.

    Rows of {network, ok, detail, cure}.
    """
    directories = config_directories(request)
    known, errors = list_networks(directories)
    rows = []
    if not request.names:
        rows = [
            {
                "network": error.file or "",
                "ok": False,
                "detail": error.message.removeprefix(f"{error.file}: "),
                "cure": error.cure,
            }
            for error in errors
        ]
    missing = set(request.names) - {one.name for one in known}
    for name in sorted(missing):
        load_network(name, directories)  # tells what is wrong
    cni_path = default_cni_path(caller_environment(request.environ))
    overlaps = dict(_overlaps(known))
    for network in known:
        if not request.names or network.name in request.names:
            rows.append(await _check(engine, network, cni_path, overlaps.get(network.name)))
    return rows


async def _check(
    engine: Engine, network: NetworkList, cni_path: tuple[str, ...], overlap: str | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"network": network.name, "ok": True, "detail": "", "cure": None}
    try:
        _check_programs(network, cni_path)
    except (SupervisorError, NetconfError) as exc:
        # a built-in one that this machine can't have is a pity, not a fault
        return {**row, "ok": None if is_builtin(network) else False, "detail": exc.message, "cure": exc.cure}
    attached = attachments_of(engine, network.name)
    failed = await _status(engine, network, cni_path)
    for container, attachment in attached:
        try:
            await container.membership.check(attachment)
        except Exception as exc:
            failed.append(f"{container.name}: {single_error(exc)}")
    if overlap is not None:
        failed.append(overlap)
        row["cure"] = "give one of them another subnet; ctnr net create finds a free one"
    row["detail"] = f"{len(attached)} attached" if attached else "ready"
    return {**row, "ok": False, "detail": "; ".join(failed)} if failed else row


def _check_programs(network: NetworkList, cni_path: tuple[str, ...]) -> None:
    for plugin in network.plugins:
        if plugin.type == "slirp":
            decode_options(msgspec.json.decode(plugin.raw))
            check_ready()
            continue
        if plugin.type == "pasta":
            pasta_conf.decode_options(msgspec.json.decode(plugin.raw))
            pasta_conf.find_program()
            continue
        find_plugin(plugin.type, cni_path)
        if plugin.ipam_type:
            find_plugin(plugin.ipam_type, cni_path)


async def _status(engine: Engine, network: NetworkList, cni_path: Sequence[str]) -> list[str]:
    """What the plugins answer to STATUS, where the network's version of CNI knows it."""
    if not supports(network.cni_version, "STATUS") or network.plugins[0].type in ("slirp", "pasta"):
        return []
    realm = await engine.supervisor.realm()
    try:
        await realm.networks.plugins.runner.status_network(network, cni_path)
    except ExceptionGroup as group:
        return [_explain(error) for error in group.exceptions]
    return []


def _explain(error: Exception) -> str:
    if isinstance(error, PluginError) and (meaning := _MEANING.get(error.code)):
        return f"{meaning}: plugin {error.plugin}: {': '.join(filter(None, (error.msg, error.details)))}"
    return str(error)


def _overlaps(known: Sequence[NetworkList]) -> Iterator[tuple[str, str]]:
    """Networks of plugins whose addresses other networks give out as well: both are in one network namespace."""
    subnets = [
        (one.name, subnet)
        for one in known
        if one.plugins[0].type != "slirp"
        for subnet in networks.subnets_of(one)
    ]
    for name, subnet in subnets:
        for other, its in subnets:
            if other != name and subnet.version == its.version and subnet.overlaps(its):
                yield name, f"its subnet {subnet} overlaps {its} of network {other}"


async def net_gc(engine: Engine, request: requests.NetGc, connection: Connection) -> Any:
    """Release what attachments have left whose containers are gone; what it was, or why it could not be."""
    known, _ = list_networks(config_directories(request))
    cni_path = default_cni_path(caller_environment(request.environ))
    return msgspec.to_builtins(await engine.supervisor.collect_garbage(known, cni_path))


TABLE: dict[type[msgspec.Struct], Any] = {requests.NetCheck: net_check, requests.NetGc: net_gc}
