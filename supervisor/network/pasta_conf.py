"""pasta's options, program and command line; what it set up, as a CNI result. No processes are kept here."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from supervisor.errors import AttachmentError
from supervisor.network.netlink import Address, Link, Route
from supervisor.network.ports import PortMapping
from supervisor.network.slirp_conf import CNI_KEYS
from supervisor.sandbox.sandbox import DEFAULT_PATH

NAMESERVER = "169.254.1.1"  # pasta hands what comes there to the host's name server
_NOISE = ("Failed to send", "Don't run as root")


class PastaError(AttachmentError):
    """pasta did not start, or can't be kept running."""


class PastaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """As in `{"type": "pasta", "mtu": 65520, "hostLoopback": true}`.

    With `host_loopback` the gateway's address is the host itself. `mtu` None is pasta's own choice.
    """

    mtu: Annotated[int, msgspec.Meta(ge=68, le=65520)] | None = None
    host_loopback: bool = False
    enable_ipv6: bool = msgspec.field(default=True, name="enableIPv6")
    disable_dns: bool = msgspec.field(default=False, name="disableDNS")


def decode_options(conf: Mapping[str, Any], *, lax: bool = False) -> PastaOptions:
    """The options in a plugin's configuration object; `lax` takes strings for numbers and booleans.

    Raises: PastaError with the option and what was expected.
    """
    own = {
        key: value for key, value in conf.items() if key not in CNI_KEYS and not key.startswith("cni.dev/")
    }
    try:
        return msgspec.convert(own, PastaOptions, strict=not lax)
    except msgspec.ValidationError as exc:
        text, _, where = str(exc).partition(" - at `$.")
        option = f"option {where.rstrip('`')}" if where else "options"
        raise PastaError(f"pasta {option}: {text[:1].lower() + text[1:]}") from None


def find_program() -> str:
    """Raises: PastaError with the cure if it is missing."""
    found = shutil.which("pasta", path=DEFAULT_PATH)
    if found is None:
        raise PastaError(
            "pasta is not installed",
            cure="apt-get install passt (or your distribution's package of that name)",
        )
    return found


def build_argv(
    program: str,
    options: PastaOptions,
    *,
    netns: str,
    ifname: str,
    mac: str | None,
    ready: str,
    ports: Sequence[PortMapping],
    drops_root: bool,
) -> list[str]:
    """The command line; `netns` and `ready` (pasta writes its pid there when all is up) as pasta sees them.

    `drops_root`: started by the host's root it would become nobody, who can't enter the namespace.
    """
    argv = [program, "--foreground", "--config-net", "--netns-only", "--netns", netns, "--ns-ifname", ifname]
    argv += ["--pid", ready, "--tcp-ns", "none", "--udp-ns", "none"]
    argv += [] if options.host_loopback else ["--no-map-gw"]
    argv += [] if options.enable_ipv6 else ["--ipv4-only"]
    argv += [] if options.disable_dns else ["--dns-forward", NAMESERVER]
    argv += [] if options.mtu is None else ["--mtu", str(options.mtu)]
    argv += [] if mac is None else ["--ns-mac-addr", mac]
    argv += ["--runas", "0:0"] if drops_root else []
    for flag, protocol in (("--tcp-ports", "tcp"), ("--udp-ports", "udp")):
        specs = [_spec(one) for one in ports if one.protocol == protocol]
        argv += [word for spec in specs or ["none"] for word in (flag, spec)]
    return argv


def _spec(mapping: PortMapping) -> str:
    return f"{mapping.host_ip or '0.0.0.0'}/{mapping.host_port}:{mapping.container_port}"


def build_result(
    options: PastaOptions, netns: str, link: Link, addresses: Sequence[Address], routes: Sequence[Route]
) -> dict[str, Any]:
    """The CNI result (spec 1.1.0 section 5) of what pasta has taken over from the host."""
    gateways = {":" in one.dst: one.gateway for one in routes if one.gateway and one.link == link.index}
    ips: list[dict[str, Any]] = []
    for address in (one.address for one in addresses if not one.address.startswith("fe80:")):
        gateway = gateways.get(":" in address)
        ips.append({"address": address, "interface": 0} | ({"gateway": gateway} if gateway else {}))
    defaults = [{"dst": "::/0" if six else "0.0.0.0/0", "gw": gateway} for six, gateway in gateways.items()]
    interface = {"name": link.name, "mac": link.mac, "mtu": link.mtu, "sandbox": netns}
    dns = {} if options.disable_dns else {"nameservers": [NAMESERVER]}
    return {"cniVersion": "1.1.0", "interfaces": [interface], "ips": ips, "routes": defaults, "dns": dns}


def explain_death(stderr: str, status: int) -> PastaError:
    """Why it ended before it was ready."""
    lines = [line.strip() for line in stderr.splitlines()]
    text = "; ".join([line for line in lines if line and not line.startswith(_NOISE)][-3:])[-500:]
    cure = None
    if "routable interface" in text or "interface not usable" in text:
        cure = "pasta takes its addresses from the host's interface with a default route: give it one, or use slirp"
    elif "/dev/net/tun" in text or "TUNSETIFF" in text:
        cure = "as root: chmod 0666 /dev/net/tun"
    return PastaError(f"pasta ended before it was ready (status {status}): {text or 'no word'}", cure=cure)
