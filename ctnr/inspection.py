"""Everything known of a container, laid out as docker and podman users expect it (`{{.State.Status}}`).

What they have no place for (the networks' CNI results, the bundle) stands in `Ctnr`, with the request as it came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ctnr.bundles.build import wishes_of
from ctnr.bundles.image import ImageConfig, ImageProcess
from ctnr.bundles.log_options import log_driver
from ctnr.bundles.mounts import Wish, with_image_volumes
from ctnr.describe import summary
from ctnr.records import Record
from supervisor.cgroups.limits import Limits
from supervisor.container import Container
from supervisor.network.attachment import Attachment
from supervisor.network.ports import parse_all_ports
from supervisor.restart import parse_restart_policy
from supervisor.spec import State

NEVER = "0001-01-01T00:00:00Z"  # Go's zero time: what scripts compare with


def inspect(
    record: Record,
    container: Container | None,
    *,
    log_path: str,
    config: ImageConfig | None,
    volume_path: Callable[[str], str],
    anonymous: Mapping[str, str],
) -> dict[str, Any]:
    """`container` is the one that runs, if one does; `config` the image's, if it is at hand.

    `anonymous` names the anonymous volumes by place.
    """
    row = summary(record, container)
    run = record.request
    image = config.config if config is not None else ImageProcess()
    command = list(record.command)
    limits = run.limits or Limits()
    policy = parse_restart_policy(run.restart)
    return {
        "Id": record.id,
        "Name": record.name,
        "Created": rfc3339(record.created),
        "Path": command[0] if command else "",
        "Args": command[1:],
        "State": _state(record, container, row),
        "RestartCount": container.backoff.count if container is not None else record.restarts,
        "Image": record.image_id,
        "ImageName": record.image,
        "LogPath": log_path if log_driver(run) == "k8s-file" else "",
        "Mounts": [
            _mount(wish, volume_path, anonymous) for wish in with_image_volumes(wishes_of(run), image.volumes or ())
        ],
        "Config": {
            "Hostname": run.hostname or record.id[:12],
            "User": run.user or image.user or "",
            "Tty": run.tty,
            "OpenStdin": run.interactive,
            "Env": [*(image.env or ()), *run.env],
            "Cmd": list(run.args or image.cmd or ()),
            "Entrypoint": list(run.entrypoint if run.entrypoint is not None else image.entrypoint or ()),
            "ExposedPorts": {port: {} for port in (*(image.exposed_ports or ()), *run.expose)},
            "Image": record.image,
            "Labels": {**(image.labels or {}), **row["labels"]},
            "Annotations": dict(one.partition("=")[::2] for one in run.annotations),
            "WorkingDir": run.workdir or image.working_dir or "/",
            "StopSignal": run.stop_signal or image.stop_signal or "SIGTERM",
            "Healthcheck": msgspec.to_builtins(run.health or image.healthcheck),
            "StopTimeout": 10 if run.stop_timeout is None else run.stop_timeout,
        },
        "HostConfig": {
            "AutoRemove": run.remove,
            "Binds": list(run.volumes),
            "CapAdd": list(run.cap_add),
            "CapDrop": list(run.cap_drop),
            "Memory": limits.memory or 0,
            "MemorySwap": limits.memory_swap or 0,
            "CpuShares": limits.cpu_shares or 0,
            "CpuPeriod": limits.cpu_period or 0,
            "CpuQuota": limits.cpu_quota or 0,
            "CpusetCpus": limits.cpuset_cpus or "",
            "PidsLimit": limits.pids or 0,
            "LogConfig": {
                "Type": log_driver(run),
                "Config": {"max-size": run.log_max_bytes, "max-file": run.log_max_files},
            },
            "NetworkMode": ",".join(run.networks or ()) or "default",
            "PortBindings": _bindings(run.publish, row["ports"]),
            "Privileged": run.privileged,
            "PublishAllPorts": run.publish_all,
            "RestartPolicy": {"Name": str(policy.when), "MaximumRetryCount": policy.retries or 0},
            "ReadonlyRootfs": run.read_only,
            "ShmSize": run.shm_size,
            "Sysctls": dict(one.partition("=")[::2] for one in run.sysctls),
            "Ulimits": list(run.ulimits),
        },
        "NetworkSettings": _networks(container.attachments if container is not None else (), row["ports"]),
        "Ctnr": {
            "Bundle": record.bundle,
            "Rootless": run.rootless,
            "Cgroups": container.confinement.directories if container is not None else (),
            "Ports": row["ports"],
            "Networks": [
                {"network": one.network.name, "ifname": one.ifname, "result": msgspec.Raw(bytes(one.result.raw))}
                for one in (container.attachments if container is not None else ())
            ],
            "Request": msgspec.to_builtins(run),
        },
    }  # fmt: skip


def _mount(wish: Wish, volume_path: Callable[[str], str], anonymous: Mapping[str, str]) -> dict[str, Any]:
    told = {
        "Type": wish.kind,
        "Source": wish.source,
        "Destination": wish.target,
        "RW": not wish.options.read_only,
    }
    if wish.kind == "volume":
        name = wish.source or anonymous.get(wish.target, "")
        told |= {"Name": name, "Driver": "local", "Source": volume_path(name) if name else ""}
    return told


def _state(record: Record, container: Container | None, row: dict[str, Any]) -> dict[str, Any]:
    state = str(row["state"])
    return {
        "Status": "exited" if state == State.STOPPED else state,
        "Running": state in (State.RUNNING, State.PAUSED, State.RESTARTING),
        "Restarting": state == State.RESTARTING,
        "Paused": state == State.PAUSED,
        "OOMKilled": container.oom_killed if container is not None else record.oom_killed,
        "Pid": row["pid"] or 0,
        "ExitCode": row["status"] or 0,
        "Error": row["error"] or "",
        **_health(container),
        "StartedAt": rfc3339(row["started"]),
        "FinishedAt": rfc3339(row["finished"]),
    }


def _health(container: Container | None) -> dict[str, Any]:
    """Only of one that has a check, as docker does it."""
    health = container.health if container is not None else None
    if health is None:
        return {}
    results = [
        {"Start": rfc3339(one.start), "End": rfc3339(one.end), "ExitCode": one.status, "Output": one.output}
        for one in health.results
    ]
    return {"Health": {"Status": health.status, "FailingStreak": health.failing_streak, "Log": results}}


def _networks(attachments: tuple[Attachment, ...], ports: list[dict[str, Any]]) -> dict[str, Any]:
    networks = {one.network.name: _network(one) for one in attachments}
    first = next(
        iter(networks.values()), {"IPAddress": "", "IPPrefixLen": 0, "Gateway": "", "MacAddress": ""}
    )
    return {
        **{key: first[key] for key in ("IPAddress", "IPPrefixLen", "Gateway", "MacAddress")},
        "Ports": _bindings((), ports),
        "Networks": networks,
    }


def _network(attachment: Attachment) -> dict[str, Any]:
    addresses = attachment.result.container_ips()
    four = next((one for one in addresses if ":" not in one.address), None)
    six = next((one for one in addresses if ":" in one.address), None)
    inside = next((one for one in attachment.result.interfaces if one.name == attachment.ifname), None)
    return {
        "NetworkID": attachment.network.name,
        "Interface": attachment.ifname,
        "IPAddress": four.address.partition("/")[0] if four else "",
        "IPPrefixLen": int(four.address.partition("/")[2] or 32) if four else 0,
        "Gateway": (four.gateway or "") if four else "",
        "GlobalIPv6Address": six.address.partition("/")[0] if six else "",
        "MacAddress": (inside.mac or "") if inside else "",
    }


def _bindings(asked: tuple[str, ...], ports: list[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """``{"80/tcp": [{"HostIp": …, "HostPort": …}]}`` of what is published; of what was asked if nothing runs."""
    found: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        key = f"{port['container_port']}/{port['protocol']}"
        found.setdefault(key, []).append({"HostIp": port["host_ip"], "HostPort": str(port["host_port"])})
    if not found:
        for mapping in parse_all_ports(asked):
            found.setdefault(f"{mapping.container_port}/{mapping.protocol}", []).append(
                {"HostIp": mapping.host_ip, "HostPort": str(mapping.host_port or "")}
            )
    return found


def rfc3339(unix_seconds: float | None) -> str:
    """RFC 3339 in UTC, with microseconds: what a double holds."""
    if unix_seconds is None:
        return NEVER
    whole = int(unix_seconds)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{stamp}.{int((unix_seconds - whole) * 1e6):06d}Z"
