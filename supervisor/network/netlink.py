"""Links, addresses and routes of one netns, asked over a netlink socket that somebody else opened there.

The only file that imports pyroute2, and only when the first real question is asked: the import takes 75-150
ms. pyroute2 is the codec alone (house trap 11: its own sockets bring an event loop); the socket is trio's,
so every question can be cancelled.

The import can be had out of the first question's way: `await preload()`. For what every container needs there is
`rtnetlink`, which does without.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from supervisor.errors import SupervisorError

if TYPE_CHECKING:
    from supervisor.sandbox.sandbox import Sandbox

NETLINK_GET_STRICT_CHK = 12
_RECEIVE_BYTES = 1 << 16
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_EXCL, _NLM_F_CREATE = 0x01, 0x04, 0x300, 0x200, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_IFF_UP = 1
_RT_TABLE_MAIN, _RTPROT_UNSPEC, _RTPROT_STATIC = 254, 0, 4
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RTN_UNICAST = 0, 253, 1
_IFA_F_NODAD = 0x02


class NetlinkFailed(SupervisorError):
    """The kernel refused what was asked. `errno` is its number."""

    def __init__(self, what: str, number: int, text: str | None = None) -> None:
        super().__init__(f"{what}: {text or os.strerror(number).lower()}")
        self.errno = number


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One interface. `kind` is the driver's (veth, bridge, tun; empty for lo), `master` the index of its
    bridge.
    """

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    kind: str = ""
    master: int = 0
    peer: int = 0  # the other end's index; of a veth it may lie in another netns
    received_bytes: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    sent_packets: int = 0


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """`address` with prefix length. `tentative`: duplicate detection of IPv6 still runs."""

    link: int
    address: str
    tentative: bool = False


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the main table. `dst` is a network, 0.0.0.0/0 or ::/0 for the default; `gateway` empty: on
    link.
    """

    dst: str
    gateway: str = ""
    link: int = 0
    priority: int = 0


async def preload() -> None:
    """Import pyroute2 in a worker thread. Call it when the service has nothing else to do."""
    await trio.to_thread.run_sync(_codec, abandon_on_cancel=True)


def open_socket() -> socket.socket:
    """A netlink socket of the netns that we are in; init opens those of other netns in the same way."""
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    return socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)


async def open_socket_in(sandbox: Sandbox, netns: str | None) -> socket.socket:
    """A netlink socket of `netns` (a path in the sandbox; None: where its init is). Raises: OSError."""
    kind = socket.SOCK_DGRAM
    return await sandbox.open_socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE, netns=netns)


class Netlink:
    """Questions to and changes of one netns. One at a time; tasks queue up.

    Owns the socket from then on: use it in `with`, or `close()` it. Every method is a checkpoint and raises
    NetlinkFailed; a cancelled question leaves nothing behind, a cancelled change may or may not have
    happened.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(sock)
        # Dumps then honour the filter in the request (Linux 4.20), and say so when they can't.
        with suppress(OSError):
            self._socket.setsockopt(270, NETLINK_GET_STRICT_CHK, 1)  # SOL_NETLINK
        self._lock = trio.Lock()
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def links(self) -> list[Link]:
        """All interfaces with their byte counters."""
        message = _message("ifinfmsg", family=0)
        return [_link(answer) for answer in await self._ask("list links", message, _RTM_GETLINK, dump=True)]

    async def link(self, name: str) -> Link | None:
        """The interface of that name, or None."""
        message = _message("ifinfmsg", family=0, attrs=[("IFLA_IFNAME", name)])
        try:
            answers = await self._ask(f"look up link {name}", message, _RTM_GETLINK)
        except NetlinkFailed as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise
        return _link(answers[0])

    async def set_up(self, link: Link) -> None:
        message = _message("ifinfmsg", index=link.index, flags=_IFF_UP, change=_IFF_UP)
        await self._ask(f"set link {link.name} up", message, _RTM_NEWLINK)

    async def set_down(self, link: Link) -> None:
        message = _message("ifinfmsg", index=link.index, flags=0, change=_IFF_UP)
        await self._ask(f"set link {link.name} down", message, _RTM_NEWLINK)

    async def rename(self, link: Link, name: str) -> None:
        """The link must be down for this, unless the kernel is 6.2 or newer."""
        message = _message("ifinfmsg", index=link.index, attrs=[("IFLA_IFNAME", name)])
        await self._ask(f"rename link {link.name} to {name}", message, _RTM_NEWLINK)

    async def set_mtu(self, link: Link, mtu: int) -> None:
        message = _message("ifinfmsg", index=link.index, attrs=[("IFLA_MTU", mtu)])
        await self._ask(f"set mtu {mtu} of link {link.name}", message, _RTM_NEWLINK)

    async def delete(self, link: Link) -> None:
        """Deleting one end of a veth deletes the other."""
        message = _message("ifinfmsg", index=link.index)
        await self._ask(f"delete link {link.name}", message, _RTM_DELLINK)

    async def addresses(self, link: Link | None = None) -> list[Address]:
        """The addresses of one link, or of all."""
        message = _message("ifaddrmsg", index=link.index if link else 0)
        found = [
            _address(answer)
            for answer in await self._ask("list addresses", message, _RTM_GETADDR, dump=True)
        ]
        return [address for address in found if link is None or address.link == link.index]

    async def add_address(self, link: Link, address: str) -> None:
        """`address` with prefix length. IPv6 is usable at once: no duplicate address detection."""
        message = _address_message(link, address)
        await self._ask(f"add address {address} to {link.name}", message, _RTM_NEWADDR, create=True)

    async def del_address(self, link: Link, address: str) -> None:
        await self._ask(
            f"delete address {address} of {link.name}", _address_message(link, address), _RTM_DELADDR
        )

    async def routes(self) -> list[Route]:
        """The unicast routes of the main table, both families."""
        message = _message("rtmsg", family=0, table=0)
        answers = await self._ask("list routes", message, _RTM_GETROUTE, dump=True)
        main = (msg for msg in answers if msg["type"] == _RTN_UNICAST and _table(msg) == _RT_TABLE_MAIN)
        return [_route(answer) for answer in main]

    async def add_route(self, route: Route) -> None:
        await self._ask(f"add route {route.dst}", _route_message(route), _RTM_NEWROUTE, create=True)

    async def del_route(self, route: Route) -> None:
        """Whoever made it."""
        message = _route_message(route)
        message["proto"] = _RTPROT_UNSPEC
        await self._ask(f"delete route {route.dst}", message, _RTM_DELROUTE)

    async def _ask(
        self, what: str, message: Any, kind: int, *, dump: bool = False, create: bool = False
    ) -> list[Any]:
        """Send one message; its answers until DONE, ACK or error. Answers to an earlier, cancelled one are
        skipped.
        """
        async with self._lock:
            self._sequence = sequence = self._sequence % 0x7FFFFFFF + 1
            flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else _NLM_F_ACK)
            flags |= _NLM_F_CREATE | _NLM_F_EXCL if create else 0
            header = message["header"]
            header["type"], header["flags"], header["sequence_number"], header["pid"] = (
                kind,
                flags,
                sequence,
                0,
            )
            message.encode()
            await self._socket.sendto(bytes(message.data), (0, 0))
            answers: list[Any] = []
            while True:
                data, _ = await self._socket.recvfrom(_RECEIVE_BYTES)
                for answer in _codec().marshal.parse(data):
                    head = answer["header"]
                    if head["sequence_number"] != sequence:
                        continue
                    if (failure := head["error"]) is not None:
                        raise NetlinkFailed(
                            what, getattr(failure, "code", None) or errno.EIO, _text(failure)
                        )
                    if head["type"] in (_NLMSG_ERROR, _NLMSG_DONE):
                        return answers
                    answers.append(answer)


class _Codec:
    """pyroute2's message classes, imported at first use."""

    def __init__(self) -> None:
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

        self.classes = {"ifinfmsg": ifinfmsg, "ifaddrmsg": ifaddrmsg, "rtmsg": rtmsg}
        self.marshal = MarshalRtnl()


_loaded: _Codec | None = None


def _codec() -> _Codec:
    global _loaded
    if _loaded is None:
        _loaded = _Codec()
    return _loaded


def _message(kind: str, *, attrs: list[tuple[str, Any]] | None = None, **fields: int) -> Any:
    message = _codec().classes[kind]()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs or []
    return message


def _address_message(link: Link, address: str) -> Any:
    interface = ipaddress.ip_interface(address)
    attrs: list[tuple[str, Any]] = [("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip))]
    family, flags = socket.AF_INET, 0
    if interface.version == 6:
        family, flags, attrs = socket.AF_INET6, _IFA_F_NODAD, attrs[1:]
    elif interface.network.prefixlen < 31:
        attrs.append(("IFA_BROADCAST", str(interface.network.broadcast_address)))
    prefix = interface.network.prefixlen
    return _message("ifaddrmsg", attrs=attrs, family=family, prefixlen=prefix, flags=flags, index=link.index)


def _route_message(route: Route) -> Any:
    network = ipaddress.ip_network(route.dst)
    attrs: list[tuple[str, Any]] = []
    if network.prefixlen:
        attrs.append(("RTA_DST", str(network.network_address)))
    if route.gateway:
        attrs.append(("RTA_GATEWAY", route.gateway))
    if route.link:
        attrs.append(("RTA_OIF", route.link))
    if route.priority:
        attrs.append(("RTA_PRIORITY", route.priority))
    return _message(
        "rtmsg",
        attrs=attrs,
        family=socket.AF_INET6 if network.version == 6 else socket.AF_INET,
        dst_len=network.prefixlen,
        table=_RT_TABLE_MAIN,
        proto=_RTPROT_STATIC,
        scope=_RT_SCOPE_UNIVERSE if route.gateway or network.version == 6 else _RT_SCOPE_LINK,
        type=_RTN_UNICAST,
    )


def _link(answer: Any) -> Link:
    get = answer.get_attr
    info, stats = get("IFLA_LINKINFO"), get("IFLA_STATS64") or {}
    return Link(
        index=answer["index"],
        name=get("IFLA_IFNAME"),
        mac=get("IFLA_ADDRESS") or "",
        mtu=get("IFLA_MTU") or 0,
        up=bool(answer["flags"] & _IFF_UP),
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else "",
        master=get("IFLA_MASTER") or 0,
        peer=get("IFLA_LINK") or 0,
        received_bytes=stats["rx_bytes"] if stats else 0,
        sent_bytes=stats["tx_bytes"] if stats else 0,
        received_packets=stats["rx_packets"] if stats else 0,
        sent_packets=stats["tx_packets"] if stats else 0,
    )


def _address(answer: Any) -> Address:
    # On point-to-point links IFA_ADDRESS is the peer; the local one is IFA_LOCAL then (IPv6 gives only
    # IFA_ADDRESS).
    text = answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS")
    flags = answer.get_attr("IFA_FLAGS") or answer["flags"]
    return Address(
        link=answer["index"], address=f"{text}/{answer['prefixlen']}", tentative=bool(flags & 0x40)
    )


def _route(answer: Any) -> Route:
    get = answer.get_attr
    any_address = "::" if answer["family"] == socket.AF_INET6 else "0.0.0.0"
    return Route(
        dst=f"{get('RTA_DST') or any_address}/{answer['dst_len']}",
        gateway=get("RTA_GATEWAY") or "",
        link=get("RTA_OIF") or 0,
        priority=get("RTA_PRIORITY") or 0,
    )


def _table(answer: Any) -> int:
    return int(answer.get_attr("RTA_TABLE") or answer["table"])


def _text(failure: Any) -> str | None:
    """The kernel's extended acknowledgement, where it gave one."""
    extra = failure.args[1] if len(failure.args) > 1 else None
    return str(extra).lower() if extra else None
