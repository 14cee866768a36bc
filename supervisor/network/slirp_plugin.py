"""The CNI plugin `slirp` as a program of its own (CNI 1.1.0): VERSION, STATUS, ADD, CHECK, DEL, GC.

For any CNI runtime; needs no supervisor. ADD starts a slirp4netns that stays until DEL or GC ends it.
Configuration: the options of `SlirpOptions`, `dns`, and the capabilities portMappings, mac and dns. CNI_NETNS
may be /proc/PID/ns/net or a pinned file; which user namespace owns it is asked from the kernel. Errors go to
standard output as JSON with the spec's codes (ErrorCode), or 100 if slirp4netns itself failed.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

from netconf.errors import ErrorCode, NetconfError, build_error
from netconf.names import check_container_id, check_ifname, check_network_name
from netconf.versions import RELEASED, supports
from supervisor.errors import SupervisorError

SLIRP_FAILED = 100
CONVERGE_SECONDS = 2.0  # CHECK allows for an address or a process that is just coming

_NS_GET_USERNS, _NS_GET_NSTYPE, _CLONE_NEWNET = 0xB701, 0xB703, 0x40000000
_SIOCGIFFLAGS, _SIOCGIFADDR, _IFF_UP = 0x8913, 0x8915, 1


class Failure(Exception):
    """What the reply will say."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code, self.msg, self.details = code, msg, details


def main() -> int:
    """The console script. Returns the exit status."""
    if "CNI_COMMAND" not in os.environ:
        sys.stderr.write(f"CNI plugin slirp; CNI versions: {', '.join(RELEASED)}\n")
        return 0
    status, reply = answer(os.environ, sys.stdin.buffer.read())
    sys.stdout.buffer.write(reply)
    sys.stdout.buffer.flush()
    return status


def answer(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    """Exit status and standard output of one command."""
    version = RELEASED[-1]
    try:
        conf = _decode(stdin)
        version = _version(conf, env.get("CNI_COMMAND", ""))
        return 0, _Command(env, conf, version).run()
    except Failure as exc:
        failure = exc
    except NetconfError as exc:
        failure = Failure(ErrorCode.INVALID_CONFIG, exc.message)
    except SupervisorError as exc:
        failure = Failure(SLIRP_FAILED, exc.message, exc.cure or "")
    except OSError as exc:
        failure = Failure(ErrorCode.IO_FAILURE, str(exc))
    except Exception as exc:  # a runtime must get an answer that it can read, whatever is wrong with us
        failure = Failure(ErrorCode.INTERNAL, f"{type(exc).__name__}: {exc}")
    return 1, build_error(failure.code, failure.msg, failure.details, cni_version=version)


class _Command:
    def __init__(self, env: Mapping[str, str], conf: dict[str, Any], version: str) -> None:
        self._env = env
        self._conf = conf
        self._version = version

    def run(self) -> bytes:
        command = self._env.get("CNI_COMMAND", "")
        commands = {
            "ADD": self._add,
            "CHECK": self._check,
            "DEL": self._del,
            "GC": self._gc,
            "STATUS": self._status,
            "VERSION": self._versions,
        }
        if command not in commands:
            raise Failure(
                ErrorCode.INVALID_ENVIRONMENT,
                f"CNI_COMMAND is {command!r}, not one of {', '.join(commands)}",
            )
        return commands[command]()

    def _versions(self) -> bytes:
        reply = {"cniVersion": self._version, "supportedVersions": RELEASED}
        return json.dumps(reply).encode() + b"\n"

    def _status(self) -> bytes:
        from supervisor.network.slirp_conf import check_ready, decode_options

        self._network()
        try:
            decode_options(self._conf)
            check_ready()
        except SupervisorError as exc:
            raise Failure(ErrorCode.UNAVAILABLE, exc.message, exc.cure or "") from exc
        return b""

    def _add(self) -> bytes:
        from supervisor.network import slirp_daemon
        from supervisor.network.slirp_conf import SlirpConfError, build_result, check_mac, random_mac

        network, container, ifname = self._key()
        options, mappings = self._options(), self._port_mappings()
        previous = self._previous()
        runtime = self._object("runtimeConfig")
        store = slirp_daemon.Store()
        with ExitStack() as stack:
            netns_fd, userns_fd = self._open_netns(stack)
            netns = self._need("CNI_NETNS")
            found = store.read(network, container, ifname)
            if found is not None:
                path, record = found
                if slirp_daemon.is_running(record):
                    raise Failure(
                        SLIRP_FAILED,
                        f"{container} has {ifname} of network {network} already",
                        "DEL it first",
                    )
                slirp_daemon.end_daemon(path, record)
                store.remove(path)
            path = store.path(network, container, ifname)
            inside = slirp_daemon.run_inside(
                netns_fd, userns_fd, lambda: _prepare(ifname, options.enable_ipv6)
            )
            if inside["exists"]:
                raise Failure(
                    SLIRP_FAILED, f"an interface {ifname} exists in {netns} already", "DEL it first"
                )
            try:
                mac = check_mac(str(runtime["mac"])) if runtime.get("mac") else random_mac()
            except SlirpConfError as exc:
                raise Failure(ErrorCode.INVALID_CONFIG, exc.message) from exc
            status = os.fstat(netns_fd)
            record = slirp_daemon.Record(
                network=network,
                container=container,
                ifname=ifname,
                boot=slirp_daemon.boot_id(),
                netns=(status.st_dev, status.st_ino),
                mac=mac,
                address=options.address,
                ports=tuple(mapping.to_cni() for mapping in mappings),
            )
            store.write(path, record)
            try:
                record.pid = slirp_daemon.start_daemon(
                    options, record_path=path, netns_path=netns, userns_fd=userns_fd, ifname=ifname, mac=mac
                )
                record.start = slirp_daemon.start_time(record.pid)
                store.write(path, record)
                self._publish(slirp_daemon.socket_path(path), options.address, mappings)
            except BaseException:
                slirp_daemon.end_daemon(path, record)
                store.remove(path)
                raise
        return self._result(previous, build_result(options, ifname=ifname, mac=mac, netns_path=netns))

    def _check(self) -> bytes:
        from supervisor.network import slirp_api, slirp_daemon

        network, container, ifname = self._key()
        options = self._options()
        previous = self._previous()
        if previous is None:
            raise Failure(
                ErrorCode.INVALID_CONFIG, "prevResult is missing: CHECK needs the result of the ADD"
            )
        found = slirp_daemon.Store().read(network, container, ifname)
        if found is None or not slirp_daemon.is_running(found[1]):
            raise Failure(
                SLIRP_FAILED, f"no slirp4netns runs for {ifname} of {container} in network {network}"
            )
        path, record = found
        with ExitStack() as stack:
            netns_fd, userns_fd = self._open_netns(stack)
            status = os.fstat(netns_fd)
            if (status.st_dev, status.st_ino) != record.netns:
                raise Failure(
                    SLIRP_FAILED, f"slirp4netns serves another netns than {self._need('CNI_NETNS')}"
                )

            def settled() -> bool:
                state.update(slirp_daemon.run_inside(netns_fd, userns_fd, lambda: _inspect(ifname)))
                return bool(state["up"]) and state["address"] == options.address and bool(state["default"])

            state: dict[str, Any] = {}
            if not slirp_daemon.wait_for(settled, CONVERGE_SECONDS):
                raise Failure(SLIRP_FAILED, f"interface {ifname} is not as it was set up", json.dumps(state))
        interfaces = [entry.get("name") for entry in previous.get("interfaces") or ()]
        addresses = [str(entry.get("address", "")).partition("/")[0] for entry in previous.get("ips") or ()]
        if ifname not in interfaces or options.address not in addresses:
            raise Failure(SLIRP_FAILED, f"prevResult does not have {ifname} with {options.address}")
        if record.ports:
            listed = slirp_api.call_blocking(slirp_daemon.socket_path(path), slirp_api.list_hostfwd())
            published = {(entry["proto"], int(entry["host_port"])) for entry in listed.get("entries", ())}
            missing = [
                port for port in record.ports if (port["protocol"], port["hostPort"]) not in published
            ]
            if missing:
                raise Failure(SLIRP_FAILED, "a published port is missing", json.dumps(missing))
        return b""

    def _del(self) -> bytes:
        from supervisor.network import slirp_daemon

        store = slirp_daemon.Store()
        found = store.read(*self._key(netns=False))
        if found is not None:
            slirp_daemon.end_daemon(*found)
            store.remove(found[0])
        return b""

    def _gc(self) -> bytes:
        network = self._network()
        listed = self._conf.get("cni.dev/valid-attachments", self._conf.get("cni.dev/attachments"))
        if not isinstance(listed, list):
            raise Failure(
                ErrorCode.INVALID_CONFIG, "cni.dev/valid-attachments is missing: GC needs the list"
            )
        valid = {
            (entry.get("containerID"), entry.get("ifname")) for entry in listed if isinstance(entry, dict)
        }
        from supervisor.network import slirp_daemon

        store, errors = slirp_daemon.Store(), []
        for path, record in list(store.all()):
            if record.network == network and (record.container, record.ifname) not in valid:
                try:
                    slirp_daemon.end_daemon(path, record)
                    store.remove(path)
                except SupervisorError as exc:
                    errors.append(exc.message)
        if errors:
            raise Failure(SLIRP_FAILED, "; ".join(errors))
        return b""

    def _publish(self, api: str, address: str, mappings: tuple[Any, ...]) -> None:
        from supervisor.network import slirp_api
        from supervisor.network.ports import PortTaken, reserve_ports

        for mapping in mappings:
            try:
                slirp_api.call_blocking(api, slirp_api.add_hostfwd(mapping, address))
            except slirp_api.ApiRefused:
                reserve_ports([mapping]).close()  # says why, in the usual case
                raise PortTaken(mapping, "slirp4netns could not bind it") from None

    def _result(self, previous: dict[str, Any] | None, own: dict[str, Any]) -> bytes:
        from netconf.result import convert_result

        if previous is not None:
            offset = len(previous.get("interfaces") or ())
            for ip in own["ips"]:
                ip["interface"] += offset
            for key in ("interfaces", "ips", "routes"):
                previous[key] = [*(previous.get(key) or ()), *own[key]]
            own = {**previous, "dns": _merge_dns(previous.get("dns") or {}, own["dns"])}
        own["dns"] = _merge_dns(own["dns"], self._told_dns())
        return convert_result(json.dumps(own).encode(), self._version) + b"\n"

    def _options(self) -> Any:
        from supervisor.network.slirp_conf import SlirpConfError, decode_options

        try:
            options = decode_options(self._conf)
        except SlirpConfError as exc:
            code = ErrorCode.INVALID_CONFIG if exc.option else ErrorCode.UNSUPPORTED_FIELD
            raise Failure(code, exc.message) from exc
        if self._conf.get("portHandler") == "relay":
            raise Failure(
                ErrorCode.UNSUPPORTED_FIELD,
                "portHandler: relay is a task of ctnr's supervisor; leave it out",
            )
        return options

    def _told_dns(self) -> dict[str, Any]:
        """The configuration's `dns`, or what the capability of that name puts in its place (CONVENTIONS.md)."""
        names = {"nameservers": "servers", "search": "searches", "options": "options"}
        given = self._object("runtimeConfig").get("dns") or {}
        if not isinstance(given, dict):
            raise Failure(ErrorCode.INVALID_CONFIG, "runtimeConfig.dns is not an object")
        return self._object("dns") | {key: given[name] for key, name in names.items() if given.get(name)}

    def _port_mappings(self) -> tuple[Any, ...]:
        from supervisor.network.ports import from_cni

        listed = self._object("runtimeConfig").get("portMappings") or []
        if not isinstance(listed, list):
            raise Failure(ErrorCode.INVALID_CONFIG, "runtimeConfig.portMappings is not a list")
        try:
            return tuple(from_cni(entry) for entry in listed)
        except ValueError as exc:
            raise Failure(ErrorCode.INVALID_CONFIG, f"runtimeConfig.portMappings: {exc}") from exc

    def _previous(self) -> dict[str, Any] | None:
        """prevResult in the form of 1.1.0."""
        from netconf.result import convert_result, parse_result

        if self._conf.get("prevResult") is None:
            return None
        previous = self._object("prevResult")
        previous.setdefault("cniVersion", self._version)
        raw = convert_result(json.dumps(previous).encode(), RELEASED[-1])
        parse_result(raw, source="prevResult")
        converted: dict[str, Any] = json.loads(raw)
        return converted

    def _open_netns(self, stack: ExitStack) -> tuple[int, int | None]:
        """Descriptors of the netns and, if that is not ours, of the user namespace that owns it."""
        path = self._need("CNI_NETNS")
        try:
            netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise Failure(ErrorCode.UNKNOWN_CONTAINER, f"open CNI_NETNS {path}: {exc.strerror}") from exc
        stack.callback(os.close, netns)
        try:
            is_netns = fcntl.ioctl(netns, _NS_GET_NSTYPE) == _CLONE_NEWNET
        except OSError:
            is_netns = False
        if not is_netns:
            raise Failure(ErrorCode.INVALID_ENVIRONMENT, f"CNI_NETNS {path} is not a network namespace")
        own = os.stat("/proc/self/ns/net")
        same = (own.st_dev, own.st_ino) == (os.fstat(netns).st_dev, os.fstat(netns).st_ino)
        if same and not self._env.get("CNI_NETNS_OVERRIDE"):
            raise Failure(
                ErrorCode.INVALID_ENVIRONMENT,
                f"CNI_NETNS {path} is the network namespace of the plugin itself",
            )
        try:
            userns = fcntl.ioctl(netns, _NS_GET_USERNS)
        except (
            PermissionError
        ):  # owned by a namespace above ours: joining it will fail with a message of its own
            return netns, None
        stack.callback(os.close, userns)
        own = os.stat("/proc/self/ns/user")
        if (own.st_dev, own.st_ino) == (os.fstat(userns).st_dev, os.fstat(userns).st_ino):
            return netns, None
        return netns, userns

    def _key(self, *, netns: bool = True) -> tuple[str, str, str]:
        try:
            container = check_container_id(self._need("CNI_CONTAINERID"))
            ifname = check_ifname(self._need("CNI_IFNAME"))
        except NetconfError as exc:
            raise Failure(ErrorCode.INVALID_ENVIRONMENT, exc.message) from exc
        if netns and not os.path.isabs(self._need("CNI_NETNS")):
            raise Failure(ErrorCode.INVALID_ENVIRONMENT, "CNI_NETNS is not an absolute path")
        return self._network(), container, ifname

    def _network(self) -> str:
        name = self._conf.get("name")
        if not isinstance(name, str):
            raise Failure(ErrorCode.INVALID_CONFIG, "name of the network is missing")
        return check_network_name(name)

    def _need(self, variable: str) -> str:
        value = self._env.get(variable, "")
        if not value:
            raise Failure(ErrorCode.INVALID_ENVIRONMENT, f"{variable} is not set")
        return value

    def _object(self, key: str) -> dict[str, Any]:
        value = self._conf.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise Failure(ErrorCode.INVALID_CONFIG, f"{key} is not an object")
        return value


def _decode(stdin: bytes) -> dict[str, Any]:
    try:
        conf = json.loads(stdin)
    except ValueError as exc:
        raise Failure(ErrorCode.DECODING_FAILURE, f"standard input is not JSON: {exc}") from exc
    if not isinstance(conf, dict):
        raise Failure(ErrorCode.DECODING_FAILURE, "standard input is not a JSON object")
    return conf


def _version(conf: dict[str, Any], command: str) -> str:
    version = conf.get("cniVersion") or RELEASED[0]
    if command == "VERSION":
        return version if version in RELEASED else RELEASED[-1]
    if version not in RELEASED:
        known = ", ".join(RELEASED)
        raise Failure(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"CNI version {version!r} is not supported",
            f"supported: {known}",
        )
    if command in ("CHECK", "GC", "STATUS") and not supports(version, command):
        raise Failure(ErrorCode.INCOMPATIBLE_VERSION, f"CNI version {version} has no {command}")
    return str(version)


def _merge_dns(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Lists one after the other without repetition; the first domain counts."""
    merged = {**second, **first}
    for key in ("nameservers", "search", "options"):
        if values := [*(first.get(key) or ()), *(second.get(key) or ())]:
            merged[key] = list(dict.fromkeys(values))
    return merged


def _prepare(ifname: str, ipv6: bool) -> dict[str, Any]:
    """In the netns, before slirp4netns: is the name free? No duplicate address detection for its IPv6
    address.
    """
    from supervisor.network.slirp_conf import IPV6_SYSCTLS

    for name, value in IPV6_SYSCTLS.items() if ipv6 else ():
        with suppress(OSError), open(f"/proc/sys/{name.replace('.', '/')}", "w", encoding="ascii") as file:
            file.write(value)
    return {"exists": ifname in (name for _, name in socket.if_nameindex())}


def _inspect(ifname: str) -> dict[str, Any]:
    """In the netns: is the interface up, its IPv4 address, does the default route lead there?"""
    state: dict[str, Any] = {"up": False, "address": None, "default": False}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        request = struct.pack("16s24x", ifname.encode())
        flags = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)[0]
        state["up"] = bool(flags & _IFF_UP)
        state["address"] = socket.inet_ntoa(fcntl.ioctl(sock, _SIOCGIFADDR, request)[20:24])
    with open("/proc/self/net/route", encoding="ascii") as routes:
        for line in routes:
            fields = line.split()
            if fields[0] == ifname and fields[1] == "00000000" and fields[7] == "00000000":
                state["default"] = True
    return state


if __name__ == "__main__":
    sys.exit(main())
