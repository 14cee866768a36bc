"""Published ports of one attachment that plugins have made: rules by CNI's portmap, and somebody at the host's port.

The rules of each publication are an attachment of their own to CNI: a network of portmap alone, with a record, a chain,
an ADD and a DEL. So ports come and go without a second ADD of the network, which CNI forbids, and no rule that shall
stay is ever missing: where some ports of a publication go, the others get new rules before the old ones are deleted.

The host's port is led in by the uplink (rootless). Where there is none, portmap binds nothing: we hold the port as
long as it is mapped, so that nobody else gets it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import trio

from netconf import AttachmentArgs
from supervisor.errors import AttachmentError
from supervisor.network.plugins import PluginRunner
from supervisor.network.ports import PortMapping, Reservation
from supervisor.network.records import AttachmentRecord, Records
from supervisor.network.uplink import Uplink
from supervisor.network.wishes import check_publishable, own_port_mapper, portmap_alone
from supervisor.teardown import Teardown


@dataclass(frozen=True, eq=False)
class _Rules:
    record: AttachmentRecord
    mappings: tuple[PortMapping, ...]


class PortMaps:
    """Of the attachment that `record` tells of; it has its result."""

    def __init__(
        self, runner: PluginRunner, records: Records, uplink: Uplink | None, record: AttachmentRecord
    ) -> None:
        self._runner = runner
        self._records = records
        self._uplink = uplink
        self._record = record
        self._rules: list[_Rules] = []
        self._number = 0
        self._held: dict[PortMapping, socket.socket | None] = {}  # None: led in by the uplink
        self._mapper = own_port_mapper(record.network)

    @property
    def published(self) -> tuple[PortMapping, ...]:
        return tuple(self._held)

    def keeps_source(self, mapping: PortMapping) -> bool | None:
        """portmap rewrites no other host's address, and neither does the uplink before it."""
        return True if self._mapper is None else None

    async def publish_reserved(self, reservation: Reservation) -> tuple[PortMapping, ...]:
        """Publish what `reservation` holds, all of it or nothing. Raises: AttachmentError."""
        undo, mappings = Teardown(), reservation.mappings
        self._check_changeable()
        self._check_families(mappings)
        try:
            if mappings:
                await self._add_rules(mappings, undo)
            await self._hold_all(reservation, undo)
        except BaseException:
            with trio.CancelScope(shield=True):
                await undo.run()
            raise
        return mappings

    async def hold_mapped(self, reservation: Reservation) -> None:
        """The host's side of ports that a plugin of the network's own has mapped. On failure `close` undoes it."""
        await self._hold_all(reservation, Teardown())

    async def withdraw(self, mappings: Sequence[PortMapping]) -> None:
        """Stop publishing these. Raises: AttachmentError (PluginError), and nothing has changed, or ExceptionGroup."""
        if not mappings:
            return
        self._check_changeable()
        undo, gone = Teardown(), set(mappings)
        touched = [rules for rules in self._rules if gone.intersection(rules.mappings)]
        try:
            for rules in touched:
                if rest := tuple(one for one in rules.mappings if one not in gone):
                    await self._add_rules(rest, undo)
        except BaseException:
            with trio.CancelScope(shield=True):
                await undo.run()
            raise
        await self._take_down(touched, mappings)

    async def close(self) -> None:
        """Withdraw all that is published, and rules that could not be deleted before."""
        await self._take_down(self._rules, self.published)

    def _check_changeable(self) -> None:
        if self._mapper is not None:
            raise AttachmentError(
                f"network {self._record.network.name}: its plugin {self._mapper} maps the ports, and can do so "
                "only at the start",
                cure="start the container anew with -p",
            )

    def _check_families(self, mappings: Sequence[PortMapping]) -> None:
        """portmap passes over what it can't do. Raises: AttachmentError."""
        network = self._record.network
        check_publishable(network, mappings, rootless=self._uplink is not None)
        ips = self._record.result.container_ips() if self._record.result is not None else ()
        for mapping in mappings:
            if not any((":" in ip.address) == mapping.is_ipv6 for ip in ips):
                family = "IPv6" if mapping.is_ipv6 else "IPv4"
                raise AttachmentError(
                    f"publish host port {mapping.host_text()}: network {network.name} gave no {family} address",
                    cure="publish on an address of the other family",
                )

    async def _take_down(self, rules: Sequence[_Rules], mappings: Sequence[PortMapping]) -> None:
        steps = Teardown()
        for one in rules:
            steps.push("delete the rules of its ports", partial(self._delete_rules, one))
        for mapping in mappings:
            steps.push(f"withdraw {mapping}", partial(self._let_go, mapping))
        with trio.CancelScope(shield=True):
            await steps.run()

    async def _hold_all(self, reservation: Reservation, undo: Teardown) -> None:
        with reservation:
            for mapping in reservation.mappings:
                undo.push(f"withdraw {mapping}", partial(self._let_go, mapping))
                if self._uplink is None:
                    self._held[mapping] = reservation.take(mapping)
                    continue
                reservation.make_way(mapping)
                await self._uplink.publish(mapping)
                self._held[mapping] = None

    async def _let_go(self, mapping: PortMapping) -> None:
        if (sock := self._held.get(mapping)) is not None:
            sock.close()
        elif self._uplink is not None:
            await self._uplink.withdraw(mapping)
        self._held.pop(mapping, None)

    async def _add_rules(self, mappings: tuple[PortMapping, ...], undo: Teardown) -> None:
        self._number += 1
        base = self._record
        part = f"ports{self._number}"
        args: AttachmentArgs = msgspec.structs.replace(
            base.args, capability_args={"portMappings": port_mappings(mappings, self._uplink)}
        )
        # portmap names its chain by network and container: so that of each part is another's
        network = portmap_alone(base.network, f"{base.network.name}.{base.args.ifname}.{part}")
        record = AttachmentRecord(network=network, args=args, part=part)
        rules = _Rules(record, mappings)
        self._rules.append(rules)
        undo.push("delete the rules of its ports", partial(self._delete_rules, rules))
        self._records.save(record)
        result = await self._runner.add_network(network, args, base.result)
        self._records.save(msgspec.structs.replace(record, result=result))

    async def _delete_rules(self, rules: _Rules) -> None:
        args, part = rules.record.args, rules.record.part
        record = self._records.load(args.container_id, args.ifname, part) or rules.record
        await self._runner.undo_add(record.network, record.args, record.result)
        self._records.remove(args.container_id, args.ifname, part)
        self._rules.remove(rules)


def port_mappings(mappings: Sequence[PortMapping], uplink: Uplink | None) -> list[dict[str, object]]:
    """The capability argument. Behind the uplink every port arrives at the uplink's own address."""
    inner = mappings if uplink is None else [msgspec.structs.replace(one, host_ip="") for one in mappings]
    return [one.to_cni() for one in inner]
