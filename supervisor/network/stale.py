"""DEL where the interface is gone, or may be: after a crash, and after a DEL that failed half-way.

bridge and ptp (1.1.1) look up the addresses, whose iptables rules they remove, on the interface in the netns, and
without one they find nothing to do. So what is owed is deleted in a netns made for it, with such an interface.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from supervisor.network.records import AttachmentRecord, Key
from supervisor.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    from supervisor.network.attach_plugins import PluginNetworks

_BY_ADDRESS = ("bridge", "ptp")
_NO_RULE = ("does not exist", "No chain/target/match by that name")  # iptables' words, nft's and legacy's


async def delete_attachment(networks: PluginNetworks, record: AttachmentRecord) -> None:
    """DEL in the container's netns. One that fails, or is killed, may take the interface and leave the rules.

    After an ADD that was killed, bridge misses rules that were not made yet, and says so when all else is undone. In
    both cases the second DEL finds nothing to do; what is left then is deleted as of a stale one.
    Raises: ExceptionGroup, SandboxError, OSError.
    """
    addresses = _addresses(networks, record)  # before the DEL gives back the lease
    repeated = await networks.runner.undo_add(record.network, record.args, record.result)
    if repeated and any(plugin.type in _BY_ADDRESS for plugin in record.network.plugins):
        await _delete(networks, record, addresses)


async def delete_stale(networks: PluginNetworks, record: AttachmentRecord) -> None:
    """DEL for an attachment whose container and netns are gone. Raises: ExceptionGroup, AttachmentError, OSError."""
    await _delete(networks, record, _addresses(networks, record))
    await networks.verify_gone(record)
    await networks.remove_unused_bridge(record)


def leases(sandbox: Sandbox, lease_dir: str) -> Iterator[tuple[str, str, Key, str]]:
    """host-local's books: network, address, holder, path in the sandbox. A lease is a file named by its address."""
    outside = sandbox.outer_path(lease_dir)
    for network in _entries(outside):
        for name in _entries(f"{outside}/{network}"):
            with suppress(ValueError, FileNotFoundError):
                ipaddress.ip_address(name)
                with open(f"{outside}/{network}/{name}", encoding="ascii", errors="replace") as file:
                    container_id, _, ifname = file.read(1024).partition("\n")
                yield network, name, (container_id.strip(), ifname.strip()), f"{lease_dir}/{network}/{name}"


def _addresses(networks: PluginNetworks, record: AttachmentRecord) -> list[str]:
    """Those of its result; after an ADD that did not end, the lease tells."""
    if record.result is not None:
        return [ip.address for ip in record.result.container_ips()]
    books = leases(networks.sandbox, networks.lease_dir)
    return [address for _, address, key, _ in books if key == record.key]


async def _delete(networks: PluginNetworks, record: AttachmentRecord, addresses: Sequence[str]) -> None:
    """In a netns made for it. If an earlier DEL has removed the rules, it fails for want of them; then without."""
    try:
        await _delete_with(networks, record, addresses)
    except ExceptionGroup as group:
        if not addresses or not any(text in str(error) for text in _NO_RULE for error in group.exceptions):
            raise
        await _delete_with(networks, record, [])


async def _delete_with(networks: PluginNetworks, record: AttachmentRecord, addresses: Sequence[str]) -> None:
    sandbox = networks.sandbox
    netns = f"{sandbox.run_dir}/netns/stale-{record.args.container_id[:12]}-{record.args.ifname}"
    args = msgspec.structs.replace(record.args, netns=netns)
    try:
        await sandbox.new_netns(netns, tap=args.ifname)
        for address in addresses:
            await sandbox.run(["ip", "address", "add", address, "dev", args.ifname], netns=netns)
        await networks.runner.del_network(record.network, args, record.result)
    finally:
        await sandbox.delete_netns(netns)


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
