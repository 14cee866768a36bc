"""What slirp4netns is told and what it gives: options, command line, CNI result, and its failures explained.

Shared by the supervised task (slirp.py) and the CNI plugin executable (slirp_plugin.py), hence without trio.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from supervisor.errors import SlirpError

MINIMUM_MTU, MAXIMUM_MTU = 68, 65521  # RFC 791; slirp4netns(1)
MINIMUM_MTU_IPV6 = 1280  # RFC 8200
IPV6_PREFIX = "fd00::/64"  # fixed in slirp4netns
STDERR_BYTES = 16384
PORT_HANDLERS = ("relay", "slirp4netns")

IPV6_SYSCTLS = {"net.ipv6.conf.default.accept_dad": "0", "net.ipv6.conf.all.accept_dad": "0"}
"""To be set in the netns before slirp starts with `enableIPv6`, or its address stays tentative for 1-2 s.

/proc/sys/net shows the netns of the process that opens it: `ipv6_sysctl_argv()` must run inside the netns.
"""

_INTERFACE = re.compile(r"[^\s/:]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
# Keys of a plugin's configuration that CNI defines (spec 1.1.0 section 1): not options of slirp.
CNI_KEYS = frozenset(
    {"cniVersion", "name", "type", "capabilities", "args", "runtimeConfig", "prevResult", "dns"}
)
_NOISE = (
    "WARNING: Support for",
    "sent tapfd",
    "received tapfd",
    "api_handler: got request",
    "child failed",
    "parent failed",
)


class SlirpConfError(SlirpError):
    """A wrong option of a slirp network. `option` is its name as it stands in the configuration."""

    def __init__(self, option: str, why: str) -> None:
        super().__init__(f"slirp option {option}: {why}" if option else f"slirp options: {why}")
        self.option = option


class SlirpOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a slirp network, named in JSON as in `{"type": "slirp", "mtu": 1500, "enableIPv6":
    true}`.

    `outbound_addr` and `outbound_addr6` are addresses of the host, or one of its interfaces, to send from.
    `port_handler` carries published TCP ports: a relay (port_relay.py) is quick, slirp4netns needs no other process.
    """

    mtu: Annotated[int, msgspec.Meta(ge=MINIMUM_MTU, le=MAXIMUM_MTU)] = 1500
    cidr: str = "10.0.2.0/24"
    enable_ipv6: bool = msgspec.field(default=False, name="enableIPv6")
    host_loopback: bool = msgspec.field(default=True, name="hostLoopback")
    outbound_addr: str | None = msgspec.field(default=None, name="outboundAddr")
    outbound_addr6: str | None = msgspec.field(default=None, name="outboundAddr6")
    disable_dns: bool = msgspec.field(default=False, name="disableDNS")
    port_handler: str = msgspec.field(default="relay", name="portHandler")

    def __post_init__(self) -> None:
        _check_cidr(self.cidr)
        _check_outbound("outboundAddr", self.outbound_addr, 4)
        _check_outbound("outboundAddr6", self.outbound_addr6, 6)
        if self.port_handler not in PORT_HANDLERS:
            raise SlirpConfError("portHandler", f"{' or '.join(PORT_HANDLERS)}, not {self.port_handler!r}")
        if self.enable_ipv6 and self.mtu < MINIMUM_MTU_IPV6:
            raise SlirpConfError("mtu", f"IPv6 needs at least {MINIMUM_MTU_IPV6}, not {self.mtu}")

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.cidr)

    @property
    def address(self) -> str:
        """The container's address: slirp4netns gives network + 100."""
        return str(self.network[100])

    @property
    def gateway(self) -> str:
        """The gateway, which is also the host's loopback where `host_loopback` is on: network + 2."""
        return str(self.network[2])

    @property
    def nameserver(self) -> str:
        return str(self.network[3])


def decode_options(conf: Mapping[str, Any], *, lax: bool = False) -> SlirpOptions:
    """The options in a plugin's configuration object. CNI's own keys are left aside, others must be known.

    `lax` also takes numbers and booleans as strings, as in `--network=slirp:mtu=65520`.
    Raises: SlirpConfError with the option and what was expected.
    """
    own = {
        key: value for key, value in conf.items() if key not in CNI_KEYS and not key.startswith("cni.dev/")
    }
    try:
        return msgspec.convert(own, SlirpOptions, strict=not lax)
    except SlirpConfError:
        raise
    except msgspec.ValidationError as exc:
        # __post_init__'s own error comes wrapped when it is a ValueError or TypeError; ours is neither.
        text, _, where = str(exc).partition(" - at `$.")
        raise SlirpConfError(where.rstrip("`"), text[:1].lower() + text[1:]) from None


def random_mac() -> str:
    """A locally administered unicast address: chosen by us, so that a restarted slirp4netns keeps it."""
    octets = bytearray(secrets.token_bytes(6))
    octets[0] = (octets[0] & 0xFC) | 0x02
    return octets.hex(":")


def check_mac(mac: str) -> str:
    """`mac` in lower case. Raises: SlirpConfError unless it is the unicast address of an interface."""
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or not mac.replace(":", "").strip("0"):
        raise SlirpConfError("mac", f"{mac!r} is not a unicast MAC address such as 02:42:0a:00:02:64")
    return mac.lower()


@dataclass(frozen=True)
class Program:
    """The slirp4netns that is installed: where, and which long options its --help names."""

    path: str
    flags: frozenset[str]


_programs: dict[tuple[str, int, int], Program] = {}


def find_program(path: str | None = None) -> Program:
    """Look up slirp4netns (in PATH, unless `path` is given) and what it can do; asked once per file (about 3
    ms).

    Raises: SlirpError with the cure if it is missing or does not run.
    """
    found = shutil.which(path or "slirp4netns")
    if found is None:
        raise SlirpError(
            f"{path or 'slirp4netns'} is not installed",
            cure="apt-get install slirp4netns (or your distribution's package of that name)",
        )
    status = os.stat(found)
    key = (found, status.st_mtime_ns, status.st_size)
    if key not in _programs:
        _programs[key] = Program(found, _ask_flags(found))
    return _programs[key]


def build_argv(
    program: Program,
    options: SlirpOptions,
    *,
    netns_path: str,
    userns_path: str | None,
    ifname: str,
    mac: str | None,
    ready_fd: int,
    exit_fd: int | None,
    api_socket: str | None,
    sandbox: bool,
    configure: bool = True,
) -> list[str]:
    """The command line; without `configure` the interface is there and has its addresses and routes.

    Raises: SlirpError if the installed version lacks what `options` ask for.
    """
    argv = [
        program.path,
        *(["--configure"] if configure else []),
        "--netns-type=path",
        f"--ready-fd={ready_fd}",
        f"--mtu={options.mtu}",
    ]
    wrapper: list[str] = []
    if sandbox and os.geteuid() == 0:
        # Its sandbox unmounts the old root after making only `/` private: on a host with shared mounts that
        # unmounts the host's own (netns files under /run/netns first). In a mount namespace of slaves it
        # can't.
        wrapper = ["unshare", "--mount", "--propagation=slave", "--"]
    elif sandbox and userns_path is not None:
        # --enable-sandbox fails with --userns-path and --netns-type=path (its issue 317, setegid): so it
        # starts inside.
        wrapper, userns_path = ["nsenter", f"--user={userns_path}", "--preserve-credentials", "--"], None
    wanted = {
        "--exit-fd": None if exit_fd is None else str(exit_fd),
        "--userns-path": userns_path,
        "--api-socket": api_socket,
        "--cidr": options.cidr if options.cidr != "10.0.2.0/24" else None,
        "--outbound-addr": options.outbound_addr,
        "--outbound-addr6": options.outbound_addr6,
        "--macaddress": mac if configure else None,  # a tap that stays keeps its own
    }
    argv += [f"{flag}={value}" for flag, value in wanted.items() if value is not None]
    switches = {
        "--enable-ipv6": options.enable_ipv6,
        "--disable-host-loopback": not options.host_loopback,
        "--disable-dns": options.disable_dns,
        "--enable-sandbox": sandbox,
        "--enable-seccomp": "--enable-seccomp" in program.flags,
    }
    argv += [flag for flag, on in switches.items() if on]
    for word in argv[1:]:
        flag = word.partition("=")[0]
        if flag not in program.flags:
            cure = "install slirp4netns 1.1.9 or newer"
            raise SlirpError(
                f"the slirp4netns installed here ({program.path}) is too old: it has no {flag}", cure=cure
            )
    return [*wrapper, *argv, netns_path, ifname]


def sandbox_may_work() -> bool:
    """False where slirp4netns's own sandbox would cut it off from what it needs.

    Its root keeps /etc and /run only: name service breaks if resolv.conf leads elsewhere (before 1.2.1). As
    root it needs unshare(1), see build_argv.
    """
    real = os.path.realpath("/etc/resolv.conf")
    return real.startswith(("/etc/", "/run/")) and (os.geteuid() != 0 or shutil.which("unshare") is not None)


def build_result(options: SlirpOptions, *, ifname: str, mac: str | None, netns_path: str) -> dict[str, Any]:
    """The CNI result (spec 1.1.0 section 5) of an interface that slirp4netns has set up."""
    interface: dict[str, Any] = {"name": ifname, "mtu": options.mtu, "sandbox": netns_path}
    if mac is not None:
        interface["mac"] = mac
    prefix = options.network.prefixlen
    ips = [{"address": f"{options.address}/{prefix}", "gateway": options.gateway, "interface": 0}]
    routes = [{"dst": "0.0.0.0/0", "gw": options.gateway}]
    nameservers = [] if options.disable_dns else [options.nameserver]
    if options.enable_ipv6 and mac is not None:
        ips.append({"address": f"{ipv6_address(mac)}/64", "gateway": "fd00::2", "interface": 0})
        routes.append({"dst": "::/0", "gw": "fd00::2"})
    dns = {"nameservers": nameservers} if nameservers else {}
    return {"cniVersion": "1.1.0", "interfaces": [interface], "ips": ips, "routes": routes, "dns": dns}


def ipv6_address(mac: str) -> str:
    """The address that the kernel forms in slirp's prefix (RFC 4291 appendix A: EUI-64 from the MAC)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    host = bytes([octets[0] ^ 0x02]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Network(IPV6_PREFIX)[int.from_bytes(host, "big")])


def ipv6_sysctl_argv() -> list[str]:
    """A program for the inside of the netns that writes IPV6_SYSCTLS; a kernel without IPv6 is no error."""
    writes = [f"echo {value} >/proc/sys/{name.replace('.', '/')}" for name, value in IPV6_SYSCTLS.items()]
    return ["/bin/sh", "-c", f"if [ -d /proc/sys/net/ipv6 ]; then {' && '.join(writes)}; fi"]


def explain_death(stderr: str, status: int, *, ifname: str, netns_path: str) -> SlirpError:
    """Why slirp4netns ended before it was ready, with the cure. `status` as Popen gives it (negative: a
    signal).
    """
    text = tidy(stderr)
    what = f"slirp4netns died before it was ready ({describe_status(status)})"
    if '"/dev/net/tun"' in text:
        return _explain_tun(text)
    cure = None
    if "TUNSETIFF" in text and "busy" in text:
        cure = f"an interface {ifname} exists in {netns_path} already: detach it first"
    elif "setns(CLONE_NEWNET)" in text and "permitted" in text:
        cure = "give the user namespace that owns the network namespace (--userns-path), or run as its owner"
    elif "No such file" in text and (netns_path in text or "existing path expected" in text):
        cure = f"the network namespace {netns_path} does not exist (any more)"
    elif "api_bindlisten" in text:
        cure = "check that the directory of the API socket exists and is writable"
    return SlirpError(f"{what}: {text}" if text else what, cure=cure)


def bounded_memfd() -> int:
    """For its stderr: STDERR_BYTES that can't grow. More is lost, and neither blocks it nor fills memory."""
    fd = os.memfd_create("slirp4netns-stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, STDERR_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def read_memfd(fd: int) -> str:
    return os.pread(fd, STDERR_BYTES, 0).rstrip(b"\0").decode(errors="replace")


def describe_status(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def tidy(stderr: str) -> str:
    """Its stderr without the lines that it always prints, on one line, at most the last 500 characters."""
    lines = (line.strip() for line in stderr.splitlines())
    return "; ".join(line for line in lines if line and not line.startswith(_NOISE))[-500:]


def _explain_tun(text: str) -> SlirpError:
    if "No such file" in text:
        cure = "as root: modprobe tun; inside a container: start that one with --device /dev/net/tun"
        return SlirpError("open /dev/net/tun: it does not exist", cure=cure)
    if "denied" in text:
        return SlirpError("open /dev/net/tun: permission denied", cure="as root: chmod 0666 /dev/net/tun")
    if "permitted" in text:
        cure = "the device cgroup forbids it: start the outer container with --device /dev/net/tun"
        return SlirpError("open /dev/net/tun: operation not permitted", cure=cure)
    if "No such device" in text:
        return SlirpError("open /dev/net/tun: the kernel has no tun driver", cure="as root: modprobe tun")
    return SlirpError(f"open /dev/net/tun: {text}")


def _check_cidr(cidr: str) -> None:
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError as exc:
        raise SlirpConfError(
            "cidr", f"expected an IPv4 network such as 10.0.2.0/24, got {cidr!r} ({exc})"
        ) from None
    if "/" not in cidr or not 1 <= network.prefixlen <= 25:
        raise SlirpConfError("cidr", f"{cidr}: slirp4netns needs a prefix between /1 and /25")


def _check_outbound(option: str, value: str | None, version: int) -> None:
    if value is None:
        return
    try:
        found = ipaddress.ip_address(value).version
    except ValueError:
        if _INTERFACE.fullmatch(value):
            return
        raise SlirpConfError(
            option, f"{value!r} is neither an IPv{version} address nor an interface"
        ) from None
    if found != version:
        raise SlirpConfError(option, f"{value} is not an IPv{version} address")


def check_ready() -> None:
    """Could slirp4netns be started now? Raises: SlirpError with the cure."""
    find_program()
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        raise _explain_tun(f'open("/dev/net/tun"): {exc.strerror}') from exc


def _ask_flags(path: str) -> frozenset[str]:
    command: Sequence[str] = [path, "--help"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SlirpError(f"{path} does not run: {exc}", cure="install slirp4netns again") from exc
    flags = frozenset(re.findall(r"--[a-z0-9-]+", done.stdout + done.stderr))
    if "--ready-fd" not in flags or "--netns-type" not in flags:
        raise SlirpError(
            f"{path} is no slirp4netns of version 0.4.0 or newer", cure="install slirp4netns 1.1.9 or newer"
        )
    return flags
