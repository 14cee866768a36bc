"""What a program may say of a container that it runs: the keywords of `EmbeddedEngine.run`, named as `requests.Run`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

import msgspec

from ctnr import __version__
from ctnr.cli.request import resolve_mount, resolve_volume
from ctnr.requests import Run
from supervisor.errors import SupervisorError


class LimitOptions(TypedDict, total=False):
    """Sizes in bytes, times in µs; -1 is no limit."""

    memory: int
    memory_swap: int
    memory_reservation: int
    cpus: float
    cpu_quota: int
    cpu_period: int
    cpu_shares: int
    cpuset_cpus: str
    cpuset_mems: str
    pids: int  # --pids-limit


class HealthOptions(TypedDict, total=False):
    """A health check; what is not given is the image's, or docker's default. Times in seconds."""

    cmd: str | Sequence[str]  # one string is for a shell; none: no check
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float
    on_failure: Literal["none", "kill", "restart", "stop"]


class RunOptions(TypedDict, total=False):
    """Each is the flag of `ctnr run` with that name, in the plural where it may be given several times.

    Relative paths are seen from the current directory. Other than on the command line, `remove` is true unless it is
    said otherwise, and none of the caller's proxy variables are passed on.
    """

    name: str
    bundle: str  # --bundle: what is written stays under this name, and is used again
    update: bool
    interactive: bool  # its stdin stays open
    tty: bool
    remove: bool  # --rm; true if it is not given
    privileged: bool
    rootless: bool
    networks: Sequence[str]  # --network: NAME[:OPTION=VALUE,…], in order cni0, cni1, …; or host, none
    publish: Sequence[str]  # [[IP:]HOST:]PORT[/udp]; without HOST any free one: see Container.ports
    publish_all: bool  # what the image and `expose` name, on random ports
    expose: Sequence[str]
    ip: str
    mac: str  # --mac-address
    aliases: Sequence[str]  # --network-alias
    volumes: Sequence[str]  # SRC:DST[:OPTIONS]
    mounts: Sequence[str]
    tmpfs: Sequence[str]
    env: Mapping[str, str] | Sequence[str]  # or NAME=VALUE
    workdir: str
    user: str
    group_add: Sequence[str]
    entrypoint: Sequence[str]  # (): none, also if the image has one
    hostname: str
    dns: Sequence[str]
    dns_search: Sequence[str]
    dns_options: Sequence[str]
    hosts_entries: Sequence[str]  # --add-host: NAME:IP
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    seccomp: str  # a profile's path, or unconfined
    no_new_privileges: bool
    read_only: bool
    init: bool
    devices: Sequence[str]
    ulimits: Sequence[str]
    sysctls: Sequence[str]
    shm_size: int  # bytes
    labels: Sequence[str]  # KEY=VALUE
    annotations: Sequence[str]
    replace: bool  # the container that has the name is removed first
    ipc: Literal["private", "host", "none"]
    pid: Literal["private"]
    uts: Literal["private", "host"]
    userns: Literal["", "host"]
    log_driver: Literal["k8s-file", "journald", "none"]  # Container.logs reads the first
    log_max_bytes: int
    log_max_files: int
    health: HealthOptions  # of the image, if it has one; Container.wait_healthy waits for it
    ready: str  # health, notify, log:REGEX or port:N: Container.wait_ready waits for it
    depends_on: Sequence[str]  # NAME[:ready|healthy], started before
    restart: str  # no, on-failure[:N], always or unless-stopped; not in a group
    stop_signal: str
    stop_timeout: float  # seconds
    image_policy: str  # a policy.json's path, or insecure
    pull: Literal["missing", "always", "never", "newer"]
    platform: str
    oom_score_adj: int
    limits: LimitOptions


NOT_FOR_PROGRAMS = frozenset(
    ("version", "image", "args", "detach", "start", "terminal", "progress", "environ")
)
"""Fields of `Run` that are the command line's own, or parameters of `run` itself."""


def build_run(image: str | None, args: Sequence[str], options: RunOptions) -> Run:
    """The request that the options come to. Raises: TypeError for a keyword that there is none, SupervisorError."""
    fields: dict[str, object] = {"remove": True, **options}
    for name in fields:
        if name not in Run.__struct_fields__ or name in NOT_FOR_PROGRAMS:
            raise TypeError(f"run() got an unexpected keyword argument {name!r}")
    if isinstance(env := options.get("env", ()), Mapping):
        fields["env"] = [f"{name}={value}" for name, value in env.items()]
    if (health := options.get("health")) and not isinstance(command := health.get("cmd", ""), str):
        fields["health"] = {**health, "cmd": msgspec.json.encode(command).decode()}
    if "bundle" in options:
        fields.setdefault("name", options["bundle"])
    for name, resolve in (("volumes", resolve_volume), ("mounts", resolve_mount)):
        if name in options:
            fields[name] = [resolve(one) for one in fields[name]]  # type: ignore[attr-defined]
    for name, word in (("image_policy", "insecure"), ("seccomp", "unconfined")):
        if name in options and fields[name] != word:
            fields[name] = os.path.abspath(str(fields[name]))
    fields |= {"image": image, "args": args, "version": __version__, "op": "run"}
    try:
        return msgspec.convert(fields, Run)
    except msgspec.ValidationError as exc:
        raise SupervisorError(
            f"run: {str(exc)[:1].lower()}{str(exc)[1:]}", cure="see ctnr.RunOptions for the types"
        ) from None
