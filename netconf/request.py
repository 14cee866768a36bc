"""What a plugin is given: environment and standard input of each command (CNI 1.1.0 sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from netconf.conf import NetworkList, PluginConf
from netconf.decode import decode
from netconf.errors import NetconfError
from netconf.names import check_container_id, check_ifname
from netconf.result import convert_result
from netconf.versions import passes_result_to_del, supports

COMMANDS = ("ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION")
_ATTACHMENT_COMMANDS = ("ADD", "CHECK", "DEL")


class AttachmentArgs(msgspec.Struct, frozen=True, kw_only=True):
    """One attachment: a container, the interface it gets, and what its plugins are told besides the config.

    `netns` may be empty for a DEL only. `capability_args` are values by capability name (`portMappings`,
    `ips`, `mac`, …); a plugin gets those that its config enables. CHECK and DEL need the same ones again.
    """

    container_id: str
    ifname: str
    netns: str = ""
    cni_args: tuple[tuple[str, str], ...] = ()
    capability_args: dict[str, Any] = {}
    cni_path: tuple[str, ...] = ()


def build_request(
    network: NetworkList,
    index: int,
    args: AttachmentArgs | None,
    prev: bytes | msgspec.Raw | None,
    command: str,
    *,
    version: str | None = None,
    lease_dir: str | None = None,
    valid_attachments: Iterable[tuple[str, str]] = (),
) -> bytes:
    """The standard input of plugin number `index` (CNI 1.1.0 section 3, "Deriving request configuration").

    `prev` is the result before it as it came, byte for byte: vendors' own fields must survive. That is the
    previous plugin's for ADD and the whole ADD's for CHECK and DEL; one of another version is converted.
    `version` is the one agreed with the plugins, the network's by default. `lease_dir` is where host-local
    keeps its leases, and tuning what it has changed, if the config does not say. `valid_attachments` are
    GC's (container id, ifname).
    Raises: NetconfError if the version does not know the command, or CHECK has no result to check.
    """
    version = version or network.cni_version
    if not supports(version, command):
        raise NetconfError(f"CNI {version} does not know {command}", file=network.source, field="cniVersion")
    plugin = network.plugins[index]
    fields = decode(plugin.raw, dict[str, msgspec.Raw], file=plugin.source, field=plugin.field)
    asked: dict[str, Any] = {"cniVersion": version, "name": network.name}
    asked |= {key: value for key, value in fields.items() if not _is_reserved(key)}
    if lease_dir is not None and plugin.ipam_type == "host-local":
        asked["ipam"] = _with_lease_dir(plugin, asked["ipam"], lease_dir)
    if lease_dir is not None and plugin.type == "tuning":
        asked.setdefault("dataDir", f"{lease_dir}/.tuning")  # no network has such a name
    if command in _ATTACHMENT_COMMANDS:
        if args is None:
            raise ValueError(f"{command} needs the arguments of an attachment")
        if enabled := {
            key: value for key, value in args.capability_args.items() if key in plugin.capabilities
        }:
            asked["runtimeConfig"] = enabled
        if prev is not None and (command != "DEL" or passes_result_to_del(version)):
            asked["prevResult"] = msgspec.Raw(convert_result(prev, version))
        elif command == "CHECK":
            raise NetconfError("CHECK needs the result of the ADD, and there is none", file=network.source)
    if command == "GC":
        valid = [{"containerID": container, "ifname": ifname} for container, ifname in valid_attachments]
        asked["cni.dev/valid-attachments"] = valid
        asked["cni.dev/attachments"] = valid  # the name it had in libcni 1.2.0
    return msgspec.json.encode(asked)


def build_version_request(version: str) -> bytes:
    """The standard input of VERSION, which needs no network."""
    return msgspec.json.encode({"cniVersion": version})


def build_env(
    command: str, args: AttachmentArgs | None = None, *, cni_path: Sequence[str] = ()
) -> dict[str, str]:
    """The CNI_* variables of a command: exactly those that it takes.

    GC and STATUS take the search path only (from `cni_path`), VERSION nothing.
    Raises: NetconfError if a value is missing or not allowed.
    """
    env = {"CNI_COMMAND": command}
    if command == "VERSION":
        return env
    if command not in _ATTACHMENT_COMMANDS:
        return env | {"CNI_PATH": _join_path(cni_path)}
    if args is None:
        raise ValueError(f"{command} needs the arguments of an attachment")
    if not args.netns and command != "DEL":
        raise NetconfError(
            f"{command} needs the path of a network namespace", expected="a path such as /proc/PID/ns/net"
        )
    if args.netns and (not args.netns.startswith("/") or "\0" in args.netns):
        raise NetconfError(f"network namespace {args.netns!r} is not a path", expected="an absolute path")
    return env | {
        "CNI_CONTAINERID": check_container_id(args.container_id),
        "CNI_NETNS": args.netns,
        "CNI_IFNAME": check_ifname(args.ifname),
        "CNI_ARGS": format_cni_args(args.cni_args),
        "CNI_PATH": _join_path(args.cni_path),
    }


def parse_cni_args(text: str) -> tuple[tuple[str, str], ...]:
    """`K=V;K=V` as pairs. Raises: NetconfError."""
    pairs = []
    for part in text.split(";"):
        if not part:
            continue
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise NetconfError(f"CNI_ARGS has {part!r}", expected="KEY=VALUE;KEY=VALUE")
        pairs.append((key, value))
    return tuple(pairs)


def format_cni_args(pairs: Iterable[tuple[str, str]]) -> str:
    """The pairs as CNI_ARGS. Raises: NetconfError if one can't be told in it."""
    parts = []
    for key, value in pairs:
        if not key or set("=;\0") & set(key) or set(";\0") & set(value):
            raise NetconfError(
                f"CNI_ARGS can't hold {key!r} = {value!r}", expected="no ';', and no '=' in the key"
            )
        parts.append(f"{key}={value}")
    return ";".join(parts)


def _is_reserved(key: str) -> bool:
    """Is the key the runtime's to set, never the file's (section 1, "Reserved keys")?"""
    return key in ("cniVersion", "name", "capabilities", "prevResult") or key.startswith("cni.dev/")


def _join_path(directories: Sequence[str]) -> str:
    for directory in directories:
        if not directory.startswith("/") or ":" in directory or "\0" in directory:
            raise NetconfError(
                f"plugin directory {directory!r} can't be in CNI_PATH",
                expected="an absolute path without ':'",
            )
    return ":".join(directories)


def _with_lease_dir(plugin: PluginConf, ipam: msgspec.Raw, lease_dir: str) -> Mapping[str, Any]:
    field = f"{plugin.field}.ipam" if plugin.field else "ipam"
    fields: dict[str, Any] = dict(decode(ipam, dict[str, msgspec.Raw], file=plugin.source, field=field))
    return {"dataDir": lease_dir} | fields
