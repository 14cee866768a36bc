"""Plain OCI bundles (a directory with config.json and a root filesystem) as containers, for programs that embed us."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from netconf import NetworkList
from netconf.decode import UNREADABLE
from supervisor.errors import RuntimeFailed
from supervisor.network.attachment import number_interfaces
from supervisor.network.ports import PortMapping
from supervisor.runtime.stdio import Stdio
from supervisor.spec import NOTIFY_SOCKET, Built, ContainerSpec, Prepared, Program

if TYPE_CHECKING:
    from supervisor.container import Container


def open_bundle(
    path: str,
    *,
    name: str | None = None,
    args: Sequence[str] | None = None,
    networks: Sequence[NetworkList] = (),
    ports: Sequence[PortMapping] = (),
    stdio: Stdio | None = None,
    log_path: str | None = None,
) -> ContainerSpec:
    """A container as the bundle at `path` says (OCI runtime-spec 1.0, bundle.md), in networks of ours.

    `args` replaces the bundle's command. Output goes to the descriptors in `stdio`, or to a log file, or nowhere.
    Raises: RuntimeFailed if the bundle can't be used.
    """
    try:
        with open(os.path.join(path, "config.json"), "rb") as file:
            config: dict[str, Any] = msgspec.json.decode(file.read(), type=dict)
    except FileNotFoundError:
        raise RuntimeFailed(f"bundle {path}: it has no config.json", cure="crun spec makes one") from None
    except UNREADABLE as exc:
        raise RuntimeFailed(f"bundle {path}: config.json: {exc}") from None
    stdio = stdio or Stdio()
    rootfs = os.path.abspath(os.path.join(path, config.get("root", {}).get("path", "rootfs")))

    async def build(prepared: Prepared) -> Built:
        process = config.get("process", {}) | {"terminal": stdio.tty}
        if args is not None:
            process["args"] = list(args)
        linux = config.get("linux", {})
        namespaces = [one for one in linux.get("namespaces", ()) if one.get("type") != "network"]
        if prepared.netns is not None:
            namespaces.append({"type": "network", "path": prepared.netns})
        mounts = list(config.get("mounts", ()))
        if prepared.notify_socket is not None:
            source = {"source": prepared.notify_socket, "type": "bind", "options": ["bind"]}
            mounts.append({"destination": NOTIFY_SOCKET, **source})
            process["env"] = [*process.get("env", ()), f"NOTIFY_SOCKET={NOTIFY_SOCKET}"]
        own = {
            "mounts": mounts,
            "root": config.get("root", {}) | {"path": prepared.rootfs},
            "process": process,
            "linux": linux | {"namespaces": namespaces},
        }
        return Built(msgspec.json.encode(config | own))

    async def build_process(_: Container, program: Program, stdio: Stdio) -> bytes:
        return msgspec.json.encode(_process(config.get("process", {}), program, stdio))

    container_id = secrets.token_hex(32)
    return ContainerSpec(
        id=container_id,
        name=name or container_id[:12],
        rootfs=rootfs,
        build=build,
        build_process=build_process,
        networks=number_interfaces(networks),
        ports=tuple(ports),
        stdio=stdio,
        log_path=log_path,
    )


def _process(own: dict[str, Any], program: Program, stdio: Stdio) -> dict[str, Any]:
    """The bundle's process with another command. Raises: RuntimeFailed for what a bundle does not tell."""
    if program.privileged:
        raise RuntimeFailed(
            "exec: privileged is nothing that a bundle knows", cure="give its process the capabilities"
        )
    process = own | {"args": list(program.args), "terminal": stdio.tty}
    term = (f"TERM={program.term}",) if stdio.tty and program.term else ()
    process["env"] = [*own.get("env", ()), *term, *program.env]
    if program.workdir is not None:
        process["cwd"] = os.path.join(own.get("cwd", "/"), program.workdir)
    if program.user is not None:
        uid, colon, gid = program.user.partition(":")
        if not uid.isdecimal() or (colon and not gid.isdecimal()):
            raise RuntimeFailed(f"exec: user {program.user}: a bundle knows numbers only", cure="UID[:GID]")
        process["user"] = {"uid": int(uid), "gid": int(gid or 0)}
    return process
