"""What a netns is asked on the way of every container: rtnetlink(7) by hand, with the standard library only.

Each costs some microseconds and does not block, as the kernel answers at once; `netlink.Netlink` does all else.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable

RTM_NEWROUTE, RTM_NEWRULE = 24, 32
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 7, 15

_SIOCGIFINDEX = 0x8933
_REQUEST_ACK_CREATE_EXCL = 0x1 | 0x4 | 0x400 | 0x200
_RT_TABLE_LOCAL, _RTPROT_KERNEL, _SCOPE_LINK, _RTN_BROADCAST = 255, 2, 253, 3


def link_exists(sock: socket.socket, ifname: str) -> bool:
    """Is there an interface of that name in the netns of `sock`? Any kind of socket.

    Raises: OSError if the kernel can't tell.
    """
    try:
        link_index(sock, ifname)
    except OSError as exc:
        if exc.errno == errno.ENODEV:
            return False
        raise
    return True


def link_index(sock: socket.socket, ifname: str) -> bytes:
    """Its number, as attributes of messages have it. Raises: OSError (ENODEV)."""
    return fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("16s24x", os.fsencode(ifname)[:15]))[16:20]


def create(sock: socket.socket, kind: int, header: bytes, attributes: Iterable[tuple[int, bytes]]) -> None:
    """One message to make something by, on a NETLINK_ROUTE socket. What is there already stays, and is no error.

    Raises: OSError if the kernel refuses.
    """
    body = header
    for name, value in attributes:
        body += struct.pack("=HH", 4 + len(value), name) + value + b"\0" * (-len(value) % 4)
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK_CREATE_EXCL, 1, 0) + body)
    number = -int.from_bytes(sock.recv(1 << 16)[16:20], sys.byteorder, signed=True)
    if number not in (0, errno.EEXIST):
        raise OSError(number, os.strerror(number))


def add_network_broadcast(sock: socket.socket, ifname: str, address: str) -> None:
    """Make the network address of `address` (with prefix length) a broadcast one, as it was before Linux 5.14.

    Raises: OSError, ValueError for what is no IPv4 address.
    """
    interface = ipaddress.IPv4Interface(address)
    # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
    route = struct.pack(
        "=8BI", socket.AF_INET, 32, 0, 0, _RT_TABLE_LOCAL, _RTPROT_KERNEL, _SCOPE_LINK, _RTN_BROADCAST, 0
    )
    attributes = (
        (RTA_DST, interface.network.network_address.packed),
        (RTA_PREFSRC, interface.ip.packed),
        (RTA_OIF, link_index(sock, ifname)),
    )
    create(sock, RTM_NEWROUTE, route, attributes)
