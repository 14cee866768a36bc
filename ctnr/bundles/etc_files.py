"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container, as pure functions of what they are made from.

The results are bind-mounted over the image's. A bind mount pins the inode: to change one later, write into the same
file, never replace it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

import msgspec

from ctnr.bundles.errors import BundleError

RESOLV_CONF = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"  # the real servers behind the stub at 127.0.0.53
_READ_LIMIT = 1 << 20


class ResolvConf(msgspec.Struct, frozen=True, kw_only=True):
    """resolv.conf(5), the parts that matter."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def build_hostname(hostname: str) -> bytes:
    return f"{hostname}\n".encode()


def build_hosts(
    *,
    names: Sequence[str],
    address: str | None,
    entries: Sequence[str] = (),
    gateway: str | None = None,
    host_alias: str | None = None,
    base: bytes | None = None,
) -> bytes:
    """/etc/hosts.

    `names` (hostname, container name) get `address`, or loopback without one; `entries` are NAME:IP or NAME=IP,
    where IP may be `host-gateway`: the address `gateway` at which the container reaches its host. That address also
    gets the names host.containers.internal and host.docker.internal if `host_alias` (the same, or another) is
    given. `base` is a file that the lines are appended to (the host's own, with --network=host).

    Raises: BundleError for an entry that is none.
    """
    lines: list[str] = []
    given = [_parse_entry(entry, gateway) for entry in entries]
    taken = {name for name, _ in given}
    if base is None:
        lines.append("127.0.0.1\tlocalhost localhost.localdomain")
        lines.append("::1\tlocalhost localhost.localdomain ip6-localhost ip6-loopback")
    # Lookup takes the first line that fits, so what the user says comes before what we know.
    lines += [f"{ip}\t{name}" for name, ip in given]
    own = [name for name in dict.fromkeys(names) if name and name not in taken]
    if own:
        lines.append(f"{address or '127.0.1.1'}\t{' '.join(own)}")
    aliases = [name for name in ("host.containers.internal", "host.docker.internal") if name not in taken]
    if host_alias is not None and aliases:
        lines.append(f"{host_alias}\t{' '.join(aliases)}")
    head = b"" if base is None else base if base.endswith(b"\n") or not base else base + b"\n"
    return head + ("\n".join(lines) + "\n").encode()


def parse_resolv_conf(data: bytes) -> ResolvConf:
    """Read a resolv.conf as libc does: the last `search` or `domain` counts, unknown lines do not."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in data.decode("utf-8", "replace").splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and _address(words[1]) is not None:
            nameservers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options += words[1:]
    return ResolvConf(
        nameservers=tuple(dict.fromkeys(nameservers)), search=search, options=tuple(dict.fromkeys(options))
    )


def read_host_resolv_conf(read: Callable[[str], bytes] | None = None) -> ResolvConf:
    """The host's servers: systemd-resolved's real file where /etc/resolv.conf only names its stub. Empty if none."""
    read = read or _read
    found = parse_resolv_conf(_try_read(read, RESOLV_CONF))
    if found.nameservers and all(_is_loopback(server) for server in found.nameservers):
        real = parse_resolv_conf(_try_read(read, SYSTEMD_RESOLV_CONF))
        if real.nameservers:
            return msgspec.structs.replace(real, search=found.search or real.search, options=found.options)
    return found


def build_resolv_conf(
    host: ResolvConf,
    *,
    network_servers: Sequence[str] = (),
    network_search: Sequence[str] = (),
    network_options: Sequence[str] = (),
    private_netns: bool = True,
    dns: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
) -> bytes | None:
    """/etc/resolv.conf, or None for `--dns none`: the image's own is left alone.

    Servers: those of `dns`, else the networks' and after them the host's, without loopback and link-local ones where
    the netns is private (nobody listens there). No public server is ever put in. `--dns-search .` means none.

    Raises: BundleError for a server that is no address.
    """
    if "none" in dns:
        if len(dns) > 1:
            raise BundleError("--dns none excludes other servers", cure="leave out one of the two")
        return None
    for server in dns:
        if _address(server) is None:
            raise BundleError(
                f"dns server {server!r}: not an IP address", cure="give an IPv4 or IPv6 address, or none"
            )
    servers = list(dns) or [
        *network_servers,
        *(server for server in host.nameservers if not (private_netns and stays_outside(server))),
    ]
    domains = list(search) or [*network_search, *host.search]
    settings = list(options) or [*network_options, *host.options]
    lines = []
    if domains := [domain for domain in dict.fromkeys(domains) if domain != "."]:
        lines.append("search " + " ".join(domains))
    lines += [f"nameserver {server}" for server in dict.fromkeys(servers)]
    if settings:
        lines.append("options " + " ".join(dict.fromkeys(settings)))
    for line in lines:
        if any(ord(character) < 32 for character in line):
            raise BundleError(f"dns setting {line!r}: has a control character")
    return ("\n".join(lines) + "\n").encode() if lines else b"# no name server reaches this container\n"


def stays_outside(text: str) -> bool:
    """Whether a name server is out of reach of another network namespace.

    fe80::…%eth0 means an interface of the host's, as 127.0.0.53 means its loopback.
    """
    address = _address(text)
    return address is not None and (address.is_loopback or address.is_link_local or address.is_unspecified)


def _parse_entry(entry: str, gateway: str | None) -> tuple[str, str]:
    """NAME=IP, or NAME:IP where the IP may have colons and brackets."""
    equals, colon = entry.find("="), entry.find(":")
    at = equals if equals >= 0 and (colon < 0 or equals < colon) else colon
    name, ip = (entry[:at], entry[at + 1 :]) if at > 0 else ("", "")
    if not name or not ip or any(character.isspace() or character == "#" for character in name):
        raise BundleError(
            f"host entry {entry!r}: not NAME:IP", cure="give --add-host NAME:IP or --hosts-entry NAME=IP"
        )
    if ip == "host-gateway":
        if gateway is None:
            raise BundleError(
                f"host entry {entry!r}: this network has no way to the host",
                cure="give an address, or --network=slirp",
            )
        return name, gateway
    ip = ip.removeprefix("[").removesuffix("]") if ip.startswith("[") else ip
    if _address(ip) is None:
        raise BundleError(
            f"host entry {entry!r}: {ip!r} is not an IP address", cure="names are not looked up here"
        )
    return name, ip


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(text: str) -> bool:
    address = _address(text)
    return address is not None and address.is_loopback


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_READ_LIMIT)


def _try_read(read: Callable[[str], bytes], path: str) -> bytes:
    try:
        return read(path)
    except OSError:
        return b""
