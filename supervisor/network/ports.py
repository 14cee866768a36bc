"""Published ports: what `-p` means, and whether the host's port is free.

Pure parsing (`parse_ports`), a probe that holds the host ports while a container starts (`reserve_ports`),
and the CNI form of a mapping (`PortMapping.to_cni`, the `portMappings` capability of CNI's CONVENTIONS.md).
Publishing itself is `Slirp.publish`; this module does no waiting and needs no event loop.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal

import msgspec

from supervisor.errors import AttachmentError, SupervisorError

Protocol = Literal["tcp", "udp"]

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_UNPRIVILEGED_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


class PortSpecError(SupervisorError):
    """A `-p` argument that can't be understood; `spec` is the argument."""

    def __init__(self, spec: str, why: str) -> None:
        super().__init__(
            f"port {spec!r}: {why}",
            cure="write [[IP:]HOST:]CONTAINER[/tcp|/udp]; ranges as 8000-8003:80-83; IPv6 in brackets",
        )
        self.spec = spec


class PortTaken(AttachmentError):
    """A host port can't be had: something else listens there, or it is not ours to use."""

    def __init__(self, mapping: PortMapping, why: str, *, cure: str | None = None) -> None:
        super().__init__(f"publish host port {mapping.host_text()}: {why}", cure=cure)
        self.mapping = mapping


class PortMapping(msgspec.Struct, frozen=True, kw_only=True):
    """One port of the container, published on one port of the host.

    `host_port` 0 stands for "any free one" until `reserve_ports` has chosen it.
    `host_ip` is an address in its normal form without brackets; empty means every IPv4 address of the host.
    """

    container_port: int
    host_port: int = 0
    protocol: Protocol = "tcp"
    host_ip: str = ""

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host_ip

    def host_text(self) -> str:
        """`127.0.0.1:8080/tcp`, as it is shown to people."""
        ip = f"[{self.host_ip}]" if self.is_ipv6 else self.host_ip or "0.0.0.0"
        return f"{ip}:{self.host_port or 'any'}/{self.protocol}"

    def __str__(self) -> str:
        return f"{self.host_text()} -> {self.container_port}"

    def fits(self, wanted: PortMapping) -> bool:
        """Whether `wanted` means this one: host port and address may be left out there."""
        return (
            (self.container_port, self.protocol) == (wanted.container_port, wanted.protocol)
            and wanted.host_port in (0, self.host_port)
            and wanted.host_ip in ("", self.host_ip)
        )

    def to_cni(self) -> dict[str, Any]:
        """An element of `runtimeConfig.portMappings`."""
        cni: dict[str, Any] = {
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": self.protocol,
        }
        if self.host_ip:
            cni["hostIP"] = self.host_ip
        return cni


def from_cni(entry: object) -> PortMapping:
    """A mapping from an element of `runtimeConfig.portMappings`. Raises: ValueError."""
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r} is not an object")
    host, container = entry.get("hostPort"), entry.get("containerPort")
    protocol = str(entry.get("protocol") or "tcp").lower()
    for port in (host, container):
        if not isinstance(port, int) or not 1 <= port <= 65535:
            raise ValueError(f"{port!r} is not a port")
    if protocol not in ("tcp", "udp"):
        raise ValueError(f"protocol {protocol!r} can't be published")
    host_ip = str(ipaddress.ip_address(entry["hostIP"])) if entry.get("hostIP") else ""
    fields = {"container_port": container, "host_port": host, "protocol": protocol, "host_ip": host_ip}
    return msgspec.convert(fields, PortMapping)


def parse_ports(spec: str) -> tuple[PortMapping, ...]:
    """The mappings of one `-p` argument: `[[IP:]HOST:]CONTAINER[/proto]`, where HOST and CONTAINER may be
    ranges.

    Raises: PortSpecError.
    """
    text, slash, protocol = spec.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in ("tcp", "udp"):
        raise PortSpecError(spec, f"protocol {protocol!r} can't be published, only tcp and udp can")
    host_ip, host, container = _split(spec, text)
    container_ports = _range(spec, "container port", container)
    if not host:
        host_ports: Sequence[int] = [0] * len(container_ports)
    else:
        host_ports = _range(spec, "host port", host)
    if len(host_ports) != len(container_ports):
        why = f"{len(host_ports)} host ports for {len(container_ports)} container ports"
        raise PortSpecError(spec, f"{why}, both ranges must be of one length")
    return tuple(
        PortMapping(
            container_port=inner,
            host_port=outer,
            protocol="tcp" if protocol == "tcp" else "udp",
            host_ip=host_ip,
        )
        for outer, inner in zip(host_ports, container_ports, strict=True)
    )


def parse_all_ports(specs: Iterable[str]) -> tuple[PortMapping, ...]:
    """The mappings of all `-p` arguments of one container, in order, each once.

    Raises: PortSpecError, also if two of them want the same host port.
    """
    chosen: dict[PortMapping, str] = {}
    by_port: dict[tuple[str, int], list[PortMapping]] = {}
    for spec in specs:
        for mapping in parse_ports(spec):
            if mapping in chosen and mapping.host_port:
                continue
            for other in by_port.get((mapping.protocol, mapping.host_port), ()):
                if mapping.host_port and _overlap(mapping.host_ip, other.host_ip):
                    raise PortSpecError(
                        spec,
                        f"host port {mapping.host_text()} is asked for twice, also by {chosen[other]!r}",
                    )
            chosen[mapping] = spec
            by_port.setdefault((mapping.protocol, mapping.host_port), []).append(mapping)
    return tuple(chosen)


class Reservation:
    """Host ports bound by us, so that nobody else takes them before the container is up.

    The TCP sockets are bound, never listening, and allow re-use of the address: slirp4netns binds and
    listens beside them (it sets SO_REUSEADDR), another program that does not, or a second reservation, gets
    EADDRINUSE.
    """

    def __init__(self) -> None:
        self.mappings: tuple[PortMapping, ...] = ()
        self._sockets: dict[PortMapping, socket.socket] = {}

    def close(self) -> None:
        while self._sockets:
            self._sockets.popitem()[1].close()

    def take(self, mapping: PortMapping) -> socket.socket:
        """The socket that holds a port, for who holds it longer and lets nobody in beside it."""
        sock = self._sockets.pop(mapping)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        return sock

    def split(self, protocol: Protocol) -> Reservation:
        """Hand the ports of one protocol over to a reservation of their own."""
        part = Reservation()
        part.mappings = tuple(one for one in self.mappings if one.protocol == protocol)
        part._sockets = {one: self._sockets.pop(one) for one in part.mappings if one in self._sockets}
        self.mappings = tuple(one for one in self.mappings if one.protocol != protocol)
        return part

    def make_way(self, mapping: PortMapping) -> None:
        """Call it right before `mapping` is published: slirp4netns can't bind a UDP port beside us."""
        if mapping.protocol == "udp" and (sock := self._sockets.pop(mapping, None)):
            sock.close()

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, mapping: PortMapping) -> PortMapping:
        sock = open_host_socket(mapping)
        try:
            if mapping.protocol == "tcp":
                _refuse_reserved(sock, mapping)
            sock.bind((mapping.host_ip, mapping.host_port))
            chosen = msgspec.structs.replace(mapping, host_port=sock.getsockname()[1])
        except OSError:
            sock.close()
            raise
        self._sockets[chosen] = sock
        # After bind: for the kernel's conflict check that is the value which counts for those who come
        # later.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return chosen


def reserve_ports(mappings: Iterable[PortMapping]) -> Reservation:
    """Bind the host's side of each mapping, choose the random ones; `.mappings` has every host port filled
    in.

    Close the reservation as soon as the ports are published (or when that has failed).
    Raises: PortTaken, and nothing stays bound then.
    """
    reservation = Reservation()
    done: list[PortMapping] = []
    try:
        # Fixed ports first: a random choice must not take one of them.
        todo = sorted(enumerate(mappings), key=lambda item: item[1].host_port == 0)
        bound = [(index, _bind(reservation, mapping)) for index, mapping in todo]
        done = [mapping for _, mapping in sorted(bound, key=lambda item: item[0])]
    except BaseException:
        reservation.close()
        raise
    reservation.mappings = tuple(done)
    return reservation


def _bind(reservation: Reservation, mapping: PortMapping) -> PortMapping:
    try:
        return reservation._add(mapping)
    except OSError as exc:
        why, cure = _explain(exc, mapping)
        raise PortTaken(mapping, why, cure=cure) from exc


def open_host_socket(mapping: PortMapping) -> socket.socket:
    """A socket for the host's side of a mapping, not bound yet; the caller closes it. Raises: OSError."""
    family = socket.AF_INET6 if mapping.is_ipv6 else socket.AF_INET
    kind = socket.SOCK_STREAM if mapping.protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    if mapping.is_ipv6:
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        except OSError:
            sock.close()
            raise
    return sock


def _refuse_reserved(sock: socket.socket, mapping: PortMapping) -> None:
    """Ended connections (TIME_WAIT, FIN_WAIT) do not make a port taken; another container's reservation
    does.

    Binding with SO_REUSEADDR passes both, without it neither: so the strict bind is tried first, and where
    that fails the lenient one is tried only if the port shows connections and no listener.
    """
    if mapping.host_port == 0:
        return
    with open_host_socket(mapping) as strict:
        try:
            strict.bind((mapping.host_ip, mapping.host_port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not _only_connections(mapping.host_port):
                raise
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _only_connections(port: int) -> bool:
    """Has local TCP `port` connections and no listener? A bound, not listening socket is in no table: then
    no.
    """
    suffix, states = f":{port:04X}", set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        try:
            with open(table, encoding="ascii") as lines:
                next(lines, None)
                for line in lines:
                    fields = line.split()
                    if fields[1].endswith(suffix):
                        states.add(fields[3])
        except OSError:
            continue
    return bool(states) and "0A" not in states


def _explain(exc: OSError, mapping: PortMapping) -> tuple[str, str | None]:
    if exc.errno == errno.EADDRINUSE:
        kind = "-t" if mapping.protocol == "tcp" else "-u"
        cure = f"choose another host port, or see who has it: ss -lnp {kind} 'sport = :{mapping.host_port}'"
        return "it is in use on this host", cure
    if exc.errno in (errno.EACCES, errno.EPERM):
        first = _unprivileged_start()
        sysctl = f"sysctl net.ipv4.ip_unprivileged_port_start={mapping.host_port}"
        cure = f"use a host port from {first} up, or as root: {sysctl}"
        return f"ports below {first} are reserved for root", cure
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"{mapping.host_ip} is not an address of this host", "choose one that `ip address` shows"
    return str(exc.strerror or exc).lower(), None


def _unprivileged_start() -> int:
    try:
        with open(_UNPRIVILEGED_START, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def _split(spec: str, text: str) -> tuple[str, str, str]:
    """`IP`, `HOST` and `CONTAINER` of a spec; the first two may be empty."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise PortSpecError(spec, "an IPv6 address is written [ADDRESS]:HOST:CONTAINER")
        parts = rest[1:].split(":")
        if len(parts) != 2:
            raise PortSpecError(
                spec, "an address needs both ports after it, IP:HOST:CONTAINER (HOST may be empty)"
            )
        return _address(spec, address, 6), parts[0], parts[1]
    parts = text.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    if len(parts) == 3:
        return _address(spec, parts[0], 4) if parts[0] else "", parts[1], parts[2]
    raise PortSpecError(spec, "too many colons")


def _address(spec: str, text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise PortSpecError(spec, f"{text!r} is not an IP address") from None
    if address.version != version or (isinstance(address, ipaddress.IPv6Address) and address.scope_id):
        raise PortSpecError(spec, f"{text!r} is not an IPv{version} address")
    return str(address)


def _range(spec: str, what: str, text: str) -> range:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise PortSpecError(
            spec, f"{what} {text!r} is not a number or a range" if text else f"the {what} is missing"
        )
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if not (1 <= first <= 65535 and 1 <= last <= 65535):
        raise PortSpecError(spec, f"{what} {text} is not between 1 and 65535")
    if last < first:
        raise PortSpecError(spec, f"{what} range {text} runs backwards")
    return range(first, last + 1)


def _overlap(one: str, other: str) -> bool:
    """Would the same port on both addresses collide? The unspecified address covers its whole family."""
    if (":" in one) != (":" in other):
        return False
    return one == other or {one, other} & {"", "0.0.0.0", "::"} != set()
