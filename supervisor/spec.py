"""What a container is to be, and what it is at any time: data that its task, its makers and its lookers-on share."""

from __future__ import annotations

import signal as signals
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from supervisor.cgroups.devices import DeviceRule
from supervisor.cgroups.limits import Limits
from supervisor.health import HealthCheck
from supervisor.network.attachment import Attachment, NetworkRequest
from supervisor.network.ports import PortMapping
from supervisor.readiness import Ready
from supervisor.restart import NEVER, RestartPolicy
from supervisor.runtime.logs import LogOptions
from supervisor.runtime.stdio import Stdio

if TYPE_CHECKING:
    from supervisor.container import Container
    from supervisor.realm import Realm

NOTIFY_SOCKET = "/run/notify/notify.sock"  # in the container, as podman has it
NO_STDIO, NO_LIMITS, DEFAULT_LOG = Stdio(), Limits(), LogOptions()


class State(StrEnum):
    """The states of OCI's runtime specification, and what follows."""

    CREATED = "created"
    RUNNING = "running"
    RESTARTING = "restarting"  # from the end of a round to the start of the next
    PAUSED = "paused"  # asked of the kernel: see Container.observed_state
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A root filesystem of layers: `lower` topmost first, changes in `upper`. Paths are absolute."""

    lower: tuple[str, ...]
    upper: str
    work: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is known once a container's root filesystem is mounted and its networks are attached."""

    rootfs: str  # path in the sandbox
    directory: str  # the container's own directory in the sandbox's tmpfs
    netns: str | None  # path in the sandbox; None with the host's network
    attachments: tuple[Attachment, ...]
    realm: Realm
    notify_socket: str | None = None  # path in the sandbox, to be mounted at NOTIFY_SOCKET
    cgroup_version: int | None = None  # of the container's own cgroup, if it has one


@dataclass(frozen=True)
class Built:
    """config.json, and files to be written in the sandbox before the start: {path: (mode, content)}."""

    config: bytes
    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Program:
    """One more program for a container that runs, as exec starts it."""

    args: Sequence[str]
    env: Sequence[str] = ()  # NAME=VALUE, on top of the container's own
    workdir: str | None = None  # None: the container's
    user: str | None = None  # USER[:GROUP], names or numbers; None: the container's
    privileged: bool = False
    term: str | None = None  # $TERM, where it gets a terminal


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """What to run. `build` makes the OCI config when the rest is known."""

    id: str
    name: str
    rootfs: Overlay | str  # a directory is used as it is
    build: Callable[[Prepared], Awaitable[Built]]
    build_process: Callable[
        [Container, Program, Stdio], Awaitable[bytes]
    ]  # an OCI `process` object, for exec
    networks: tuple[NetworkRequest, ...] = ()
    ports: tuple[PortMapping, ...] = ()  # published by the first of the networks
    aliases: tuple[str, ...] = ()  # further names on all of the networks
    host_network: bool = False
    shares: Container | None = None  # whose network namespace it is to have
    netns_path: str | None = None  # or that of this file on the host
    limits: Limits = NO_LIMITS
    device_rules: tuple[DeviceRule, ...] = ()  # empty: every device that it has a node of
    stdio: Stdio = NO_STDIO
    log_path: str | None = None  # background containers: stdout and stderr go there
    log_options: LogOptions = DEFAULT_LOG
    keep_stdin: bool = False  # background containers: stdin stays open for `attach`
    stop_signal: int = signals.SIGTERM
    stop_seconds: float = 10
    labels: Mapping[str, str] = field(default_factory=dict)  # told with its events
    restart: RestartPolicy = NEVER
    health: HealthCheck | None = None
    ready: Ready | None = None  # None: from its start on
    finish: Callable[[Container], Awaitable[None]] | None = None  # called, shielded, when all of it is gone
