"""Answers leave by the network that they were asked on, in containers that are on several (ip-rule(8), source routing).

A container has one default route, its first network's. What comes in by another one, through a published port for
instance, would be answered on the wrong side. So each address of such a container gets a table of its own.
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

_FRA_SRC, _FRA_TABLE = 2, 15
_FR_ACT_TO_TBL, _RTN_UNICAST, _RTPROT_BOOT, _SCOPE_UNIVERSE, _SCOPE_LINK = 1, 1, 3, 0, 253


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
    # struct fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, action, flags
    rule = struct.pack("=8BI", family, 0, bits, 0, 0, 0, 0, _FR_ACT_TO_TBL, 0)
    create(sock, RTM_NEWRULE, rule, [(_FRA_SRC, interface.ip.packed), (_FRA_TABLE, number)])
