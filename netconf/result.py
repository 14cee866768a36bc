"""What a plugin answers to ADD (CNI 1.1.0 section 5), in every version of the spec.

Three shapes exist: `ip4`/`ip6` (0.1.0, 0.2.0), `ips[]` with a `version` each (0.3.0 to 0.4.0), and `ips[]`
without (1.x). All are read into one `Result`; its `raw` is the plugin's own text, and conversion keeps the
keys that it does not know.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec

from netconf.conf import Dns
from netconf.decode import decode, decode_tolerant
from netconf.errors import NetconfError
from netconf.versions import OLDEST, RELEASED, normal_version, parse_version

_SOURCE = "plugin result"


class Interface(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """`sandbox` is the container's netns path, and empty for an interface of the host."""

    name: str = ""
    mac: str = ""
    mtu: int | None = None
    sandbox: str = ""
    socket_path: str = ""
    pci_id: str = msgspec.field(default="", name="pciID")


class IPConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`address` with prefix length; `interface` is an index into the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None

    @property
    def version(self) -> int:
        return 6 if ":" in self.address else 4


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`gw` empty: the gateway of the address, or the link itself."""

    dst: str
    gw: str = ""
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A result, whatever version it came in (`cni_version`)."""

    cni_version: str
    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()
    raw: msgspec.Raw = msgspec.Raw(b"{}")

    def container_ips(self) -> tuple[IPConfig, ...]:
        """The addresses inside the container: those of an interface with a sandbox, or of none named."""
        return tuple(ip for ip in self.ips if self._is_inside(ip.interface))

    def _is_inside(self, index: int | None) -> bool:
        if index is None or not 0 <= index < len(self.interfaces):
            return True
        return bool(self.interfaces[index].sandbox)


class VersionReply(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a plugin answers to VERSION."""

    cni_version: str = ""
    supported_versions: tuple[str, ...]


def parse_result(raw: bytes | msgspec.Raw, *, version: str | None = None, source: str = _SOURCE) -> Result:
    """Read a result of any version.

    `version` is that of the request: a result that tells none is taken for one of that version (0.1.0 if
    None), and gets it written into its `raw`, as libcni does.
    Raises: NetconfError.
    """
    fields = decode(raw, dict[str, msgspec.Raw], file=source)
    told = _told_version(fields, source)
    found = normal_version(told or version or OLDEST, file=source)
    if found not in RELEASED:
        raise NetconfError(
            f"CNI {found} is not known",
            file=source,
            field="cniVersion",
            expected=f"one of {', '.join(RELEASED)}",
        )
    text = msgspec.Raw(bytes(raw).strip())
    if not told and version:
        text = msgspec.Raw(msgspec.json.encode({**fields, "cniVersion": version}))
    parts = _read_old(raw, source) if _shape(found) == 0 else decode_tolerant(raw, _Fields, file=source)
    _check(parts, source)
    return Result(
        cni_version=found,
        interfaces=parts.interfaces,
        ips=parts.ips,
        routes=parts.routes,
        dns=parts.dns,
        raw=text,
    )


def encode_result(result: Result, version: str) -> bytes:
    """The typed view as JSON of that version; `raw` plays no part.

    Raises: NetconfError for 0.1.0 and 0.2.0 if there is no address at all, which they can't say.
    """
    told: dict[str, Any] = {"cniVersion": version}
    if _shape(version) == 0:
        told |= _families(result)
    else:
        if result.interfaces:
            told["interfaces"] = [msgspec.to_builtins(interface) for interface in result.interfaces]
        with_version = _shape(version) == 1
        told["ips"] = [_ip_fields(ip, with_version=with_version) for ip in result.ips]
        if result.routes:
            told["routes"] = [msgspec.to_builtins(route) for route in result.routes]
    told["dns"] = msgspec.to_builtins(result.dns)
    return msgspec.json.encode(told)


def convert_result(raw: bytes | msgspec.Raw, version: str) -> bytes:
    """The result in another version, with the keys that nobody here knows left in it.

    A result that is of that version already comes back byte for byte.
    Raises: NetconfError.
    """
    fields = decode(raw, dict[str, msgspec.Raw], file=_SOURCE)
    found = normal_version(_told_version(fields, _SOURCE), file=_SOURCE)
    if found == version:
        return bytes(raw).strip()
    told: dict[str, Any] = {**fields, "cniVersion": version}
    old, new = _shape(found), _shape(version)
    if new == 0 and old > 0:
        for key in ("interfaces", "ips", "routes"):
            told.pop(key, None)
        told |= _families(parse_result(raw))
    elif old == 0 and new > 0:
        result = parse_result(raw)
        told.pop("ip4", None)
        told.pop("ip6", None)
        told["ips"] = [_ip_fields(ip, with_version=new == 1) for ip in result.ips]
        told["routes"] = [msgspec.to_builtins(route) for route in result.routes]
    elif old != new and "ips" in fields:
        told["ips"] = [_reshape_ip(ip, with_version=new == 1) for ip in _raw_ips(fields["ips"])]
    return msgspec.json.encode(told)


def parse_versions(raw: bytes, *, source: str = "plugin's VERSION reply") -> tuple[str, ...]:
    """The versions that a plugin supports, those that we speak too. Raises: NetconfError."""
    reply = decode_tolerant(raw, VersionReply, file=source)
    return tuple(version for version in RELEASED if version in reply.supported_versions)


class _Fields(msgspec.Struct):
    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


class _Family(msgspec.Struct):
    ip: str
    gateway: str = ""
    routes: tuple[Route, ...] = ()


class _OldFields(msgspec.Struct):
    ip4: _Family | None = None
    ip6: _Family | None = None
    dns: Dns = Dns()


def _read_old(raw: bytes | msgspec.Raw, source: str) -> _Fields:
    old = decode_tolerant(raw, _OldFields, file=source)
    families = [family for family in (old.ip4, old.ip6) if family is not None]
    return _Fields(
        ips=tuple(IPConfig(address=family.ip, gateway=family.gateway) for family in families),
        routes=tuple(route for family in families for route in family.routes),
        dns=old.dns,
    )


def _told_version(fields: dict[str, msgspec.Raw], source: str) -> str:
    raw = fields.get("cniVersion")
    if raw is None or bytes(raw) == b"null":
        return ""
    return decode(raw, str, file=source, field="cniVersion")


def _shape(version: str) -> int:
    parsed = parse_version(version)
    return 0 if parsed < (0, 3, 0) else 1 if parsed < (1, 0, 0) else 2


def _check(parts: _Fields, source: str) -> None:
    for i, ip in enumerate(parts.ips):
        _check_network(ip.address, source, f"ips[{i}].address")
        _check_address(ip.gateway, source, f"ips[{i}].gateway")
        if ip.interface is not None and ip.interface < 0:
            raise NetconfError(
                f"is {ip.interface}", file=source, field=f"ips[{i}].interface", expected="an index from 0 up"
            )
    for i, route in enumerate(parts.routes):
        _check_network(route.dst, source, f"routes[{i}].dst")
        _check_address(route.gw, source, f"routes[{i}].gw")


def _check_network(text: str, source: str, field: str) -> None:
    address, slash, prefix = text.partition("/")
    try:
        # "10.0.0.1/255.255.255.0" is fine for ipaddress, not for CNI.
        if not slash or not (prefix.isascii() and prefix.isdigit()) or "%" in address:
            raise ValueError
        ipaddress.ip_interface(text)
    except ValueError:
        raise NetconfError(
            f"is {text!r}", file=source, field=field, expected="an address such as 10.0.0.2/24"
        ) from None


def _check_address(text: str, source: str, field: str) -> None:
    try:
        if text:
            ipaddress.ip_address(text)
    except ValueError:
        raise NetconfError(
            f"is {text!r}", file=source, field=field, expected="an address such as 10.0.0.1"
        ) from None


def _ip_fields(ip: IPConfig, *, with_version: bool) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(ip)
    return {"version": str(ip.version)} | fields if with_version else fields


def _raw_ips(raw: msgspec.Raw) -> list[dict[str, msgspec.Raw]]:
    if bytes(raw) == b"null":
        return []
    return decode(raw, list[dict[str, msgspec.Raw]], file=_SOURCE, field="ips")


def _reshape_ip(fields: dict[str, msgspec.Raw], *, with_version: bool) -> dict[str, Any]:
    rest: dict[str, Any] = {key: value for key, value in fields.items() if key != "version"}
    if not with_version:
        return rest
    address = decode(fields.get("address", msgspec.Raw(b'""')), str, file=_SOURCE, field="ips[].address")
    return {"version": "6" if ":" in address else "4"} | rest


def _families(result: Result) -> dict[str, Any]:
    """0.2.0 holds one address of each family, with the routes of that family."""
    told: dict[str, Any] = {}
    for number, key in ((4, "ip4"), (6, "ip6")):
        first = next((ip for ip in result.ips if ip.version == number), None)
        if first is None:
            continue
        family: dict[str, Any] = {"ip": first.address}
        if first.gateway:
            family["gateway"] = first.gateway
        if routes := [route for route in result.routes if (":" in route.dst) == (number == 6)]:
            family["routes"] = [msgspec.to_builtins(route) for route in routes]
        told[key] = family
    if not told:
        raise NetconfError("has no address, which CNI 0.2.0 can't say", file=_SOURCE, field="ips")
    return told
