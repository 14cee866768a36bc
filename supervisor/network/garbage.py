"""Garbage collection of networks: what attachments have left whose containers are gone.

That is so after a DEL that failed, and on the host after a crash. No reference plugin does anything at GC, and what a
plugin answers proves no work: so each stale attachment gets its DEL, then plugins that know GC are asked, and last
the leases are taken back that no attachment has (host-local leaves an empty one if it is killed while it writes).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog

from netconf import NetworkList
from supervisor.network.records import AttachmentRecord, Key, Records
from supervisor.network.stale import delete_stale, leases

if TYPE_CHECKING:
    from supervisor.network.attach_plugins import PluginNetworks
    from supervisor.network.journal import Journal

log = structlog.get_logger()


class Collected(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was released, or (`error`) could not be.

    An attachment has a container and an interface, a lease an address; what plugins failed with at GC has neither.
    """

    network: str
    container_id: str = ""
    ifname: str = ""
    address: str = ""
    error: str = ""


async def collect_garbage(
    networks: PluginNetworks,
    journal: Journal | None,
    known: Iterable[NetworkList],
    cni_path: Sequence[str],
) -> list[Collected]:
    """Release what is stale, with no ADD or DEL beside it. `known` are the networks whose plugins are asked for GC.

    `journal` is None where no other supervisor shares our networks. Errors are collected, not raised.
    """
    found: list[Collected] = []
    async with networks.runner.turns.alone():
        live = networks.attached()
        if journal is not None:
            found += await journal.sweep(networks)
            live |= {record.key: record.network.name for record in journal.of_others()}
        stale = [record for record in networks.records.list() if record.key not in live]
        found += [await release(networks, networks.records, record) for record in stale]
        by_name = {record.network.name: record.network for record in stale if not record.part}
        by_name |= {network.name: network for network in known}
        for network in by_name.values():
            valid = [key for key, name in live.items() if name == network.name]
            found += await _ask_plugins(networks, network, valid, cni_path)
        kept = {*live, *(record.key for record in networks.records.list())}
        found += [one async for one in _release_leases(networks, kept)]
    return found


async def release(networks: PluginNetworks, records: Records, record: AttachmentRecord) -> Collected:
    """The record's DEL as `delete_stale` does it; it is kept in `records` if that fails. Raises: OSError."""
    container_id, ifname = record.key
    told = Collected(network=record.network.name, container_id=container_id, ifname=ifname)
    try:
        await delete_stale(networks, record)
    except Exception as exc:
        failures = exc.exceptions if isinstance(exc, ExceptionGroup) else (exc,)
        error = "; ".join(map(str, failures))
        log.warning("stale_attachment_kept", network=told.network, container=container_id, error=error)
        return msgspec.structs.replace(told, error=error)
    records.remove(*record.key, record.part)
    log.info("stale_attachment_deleted", network=told.network, container=container_id)
    return told


async def _ask_plugins(
    networks: PluginNetworks, network: NetworkList, valid: list[Key], cni_path: Sequence[str]
) -> list[Collected]:
    try:
        await networks.runner.gc_network(network, valid, cni_path)
    except ExceptionGroup as group:
        return [Collected(network=network.name, error=str(error)) for error in group.exceptions]
    return []


async def _release_leases(networks: PluginNetworks, kept: set[Key]) -> AsyncIterator[Collected]:
    for network, address, key, path in list(leases(networks.sandbox, networks.lease_dir)):
        if key not in kept:
            told = Collected(network=network, address=address)
            try:
                await networks.sandbox.remove_tree(path)
            except Exception as exc:
                told = msgspec.structs.replace(told, error=str(exc))
            yield told
