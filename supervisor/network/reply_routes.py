"""Answers go back the way that the question came (ip-rule(8)), where the default route would lead them elsewhere.

A container has one default route, its first network's. What comes in by another one, through a published port for
instance, would be answered on the wrong side: each address of such a container gets a table of its own. And what the
port relay has let in comes from inside, with the address of a peer outside: such connections bear a mark, by which
their answers stay inside.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence

import structlog

from supervisor.network.attachment import Attachment
from supervisor.network.netlink import open_socket_in
from supervisor.network.rtnetlink import (
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_TABLE,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    create,
    link_index,
)
from supervisor.sandbox.sandbox import Sandbox

log = structlog.get_logger()

FIRST_TABLE = 100  # cni0's; the next ones are those of cni1, …
RELAYED_TABLE = FIRST_TABLE - 1
RELAYED_PRIORITY, REPLIES_PRIORITY = 100, 200  # told, as the kernel puts later rules first

_FRA_SRC, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE = 2, 6, 10, 15
_FR_ACT_TO_TBL, _RTN_UNICAST, _RTN_LOCAL, _RTPROT_BOOT = 1, 1, 2, 3
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254


async def route_replies(sandbox: Sandbox, netns: str, attachments: Sequence[Attachment]) -> None:
    """Rules and tables for all `attachments`; those that are there stay. A kernel without them is no error."""
    with await open_socket_in(sandbox, netns) as sock:
        for attachment in attachments:
            table = FIRST_TABLE + int(attachment.ifname.removeprefix("cni"))
            for ip in attachment.result.container_ips():
                if ip.gateway is None:
                    continue
                try:
                    _add(sock, attachment.ifname, ip.address, ip.gateway, table)
                except (OSError, ValueError) as exc:
                    log.info("reply_route_refused", address=ip.address, error=str(exc))


def _add(sock: socket.socket, ifname: str, address: str, gateway: str, table: int) -> None:
    interface, via = ipaddress.ip_interface(address), ipaddress.ip_address(gateway)
    family, bits = (socket.AF_INET6, 128) if interface.version == 6 else (socket.AF_INET, 32)
    oif = link_index(sock, ifname)
    number = struct.pack("=I", table)
    subnet = interface.network
    for destination, length, scope, attributes in (
        (subnet.network_address.packed, subnet.prefixlen, _SCOPE_LINK, []),
        (b"", 0, _SCOPE_UNIVERSE, [(RTA_GATEWAY, via.packed)]),
    ):
        # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
        route = struct.pack("=8BI", family, length, 0, 0, 0, _RTPROT_BOOT, scope, _RTN_UNICAST, 0)
        to = [(RTA_DST, destination)] if destination else []
        create(sock, RTM_NEWROUTE, route, [*to, *attributes, (RTA_OIF, oif), (RTA_TABLE, number)])
    _add_rule(sock, family, (_FRA_SRC, interface.ip.packed), table, REPLIES_PRIORITY, source_bits=bits)


async def route_relayed(sandbox: Sandbox, netns: str, mark: int) -> frozenset[int]:
    """Keep what bears `mark` inside, and let accepted connections bear that of their first packet (tcp_fwmark_accept).

    Returns the address families for which the kernel can: a machine may be without IPv6, or without its rules.
    """
    found: set[int] = set()
    try:
        await sandbox.call("sysctl", netns=netns, settings={"net/ipv4/tcp_fwmark_accept": "1"})
        with await open_socket_in(sandbox, netns) as sock:
            for family in (socket.AF_INET, socket.AF_INET6):
                _add_local(sock, family, mark)
                found.add(family)
    except OSError as exc:
        log.info("relayed_route_refused", able=sorted(found), error=str(exc))
    return frozenset(found)


def _add_local(sock: socket.socket, family: int, mark: int) -> None:
    table = (RTA_TABLE, struct.pack("=I", RELAYED_TABLE))
    route = struct.pack("=8BI", family, 0, 0, 0, 0, _RTPROT_BOOT, _SCOPE_HOST, _RTN_LOCAL, 0)
    create(sock, RTM_NEWROUTE, route, [(RTA_OIF, link_index(sock, "lo")), table])
    _add_rule(sock, family, (_FRA_FWMARK, struct.pack("=I", mark)), RELAYED_TABLE, RELAYED_PRIORITY)


def _add_rule(
    sock: socket.socket,
    family: int,
    what: tuple[int, bytes],
    table: int,
    priority: int,
    *,
    source_bits: int = 0,
) -> None:
    """`what` is to be looked up in `table`."""
    # struct fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, action, flags
    rule = struct.pack("=8BI", family, 0, source_bits, 0, 0, 0, 0, _FR_ACT_TO_TBL, 0)
    numbers = ((_FRA_PRIORITY, priority), (_FRA_TABLE, table))
    create(sock, RTM_NEWRULE, rule, [what, *((name, struct.pack("=I", value)) for name, value in numbers)])
