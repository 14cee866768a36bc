"""--ulimit, --sysctl and --oom-score-adj: parsed, and held to what the kernel lets this user set."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from ctnr.bundles.capabilities import effective_capabilities
from ctnr.bundles.defaults import PING_GROUP_RANGE, RLIMIT_CEILING
from ctnr.bundles.errors import BundleError
from ctnr.bundles.spec import Rlimit

if TYPE_CHECKING:
    from supervisor.sandbox.sandbox import Sandbox

# getrlimit(2); `resource` knows those of this kernel. The kernel's unlimited is 2**64 - 1 on the wire.
_RESOURCES = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_")
}
_RESOURCES.pop("ofile", None)  # BSD's name of nofile
_UNLIMITED = (1 << 64) - 1


@cache
def hard_limits() -> dict[str, int]:
    """The hard limits of this process, which what it starts inherits: RLIMIT_NOFILE → number."""
    return {
        f"RLIMIT_{name.upper()}": _wire(resource.getrlimit(number)[1])
        for name, number in sorted(_RESOURCES.items())
    }


def build_rlimits(ulimits: Sequence[str], *, hard: Mapping[str, int], may_raise: bool) -> tuple[Rlimit, ...]:
    """`NAME=SOFT[:HARD]` (-1 is unlimited), and for open files and processes as much as `hard` allows.

    `may_raise`: real root, which may go above `hard`. Raises: BundleError.
    """
    limits = {
        name: Rlimit(type=name, soft=min(ceiling, hard[name]), hard=min(ceiling, hard[name]))
        for name, ceiling in RLIMIT_CEILING.items()
        if name in hard
    }
    for text in ulimits:
        if text == "host":
            limits.clear()  # podman's word for: inherit everything
            continue
        limit = _parse_ulimit(text)
        allowed = hard.get(limit.type, _UNLIMITED)
        if limit.hard > allowed and not may_raise:
            raise BundleError(
                f"ulimit {text!r}: above this user's hard limit of {allowed}",
                cure="raise it in /etc/security/limits.conf and log in again, or ask for less",
            )
        limits[limit.type] = limit
    return tuple(limits.values())


_NET_SYSCTL = "net."
_IPC_SYSCTLS = re.compile(
    r"kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\..+"
)
_SYSCTL_NAME = re.compile(r"[a-zA-Z0-9_-]+([./][a-zA-Z0-9_@:-]+)+")


def build_sysctls(sysctls: Sequence[str], *, private_netns: bool) -> dict[str, str]:
    """`NAME=VALUE` pairs, and podman's default for ping. Only what a namespace of the container holds may be set.

    Raises: BundleError.
    """
    values = {"net.ipv4.ping_group_range": PING_GROUP_RANGE} if private_netns else {}
    for text in sysctls:
        name, equals, value = text.partition("=")
        if not equals or not _SYSCTL_NAME.fullmatch(name):
            raise BundleError(f"sysctl {text!r}: not NAME=VALUE", cure="give --sysctl net.ipv4.ip_forward=1")
        if "/" in name.split(".")[0]:  # sysctl(8): net/ipv4/conf/eth0.1/… ; there . and / swap
            name = name.translate(str.maketrans("./", "/."))
        if name.startswith(_NET_SYSCTL):
            if not private_netns:
                raise BundleError(
                    f"sysctl {name}: would change the host's, as the network is shared",
                    cure="leave out --network=host",
                )
        elif not _IPC_SYSCTLS.fullmatch(name):
            raise BundleError(
                f"sysctl {name}: is the whole machine's, no container has it of its own",
                cure="set it on the host; a container has net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm*",
            )
        values[name] = value
    return values


async def try_sysctls(sandbox: Sandbox, netns: str | None, sysctls: Sequence[str]) -> None:
    """Ask the kernel for each, before the runtime does: the network's in `netns`, where they stay; of the others, the
    names (their namespace is not there yet). Raises: BundleError."""
    for name, value in build_sysctls(sysctls, private_netns=netns is not None).items():
        path = name.replace(".", "/")
        try:
            if name.startswith(_NET_SYSCTL):
                await sandbox.call("sysctl", netns=netns, settings={path: value})
            else:
                os.stat(f"/proc/sys/{path}")
        except OSError as exc:
            raise BundleError(
                f"sysctl {name}={value}: {os.strerror(exc.errno or 0)}",
                cure="sysctl -a lists names and values",
            ) from None


def current_oom_score_adj() -> int:
    """This process's, in -1000…1000; what it starts inherits it."""
    with open("/proc/self/oom_score_adj", "rb") as file:
        return int(file.read())


def clamp_oom_score_adj(wanted: int | None, *, may_lower: bool) -> int | None:
    """None: inherited. Lowering takes CAP_SYS_RESOURCE on the host: without it a wish ends at the current value."""
    if wanted is None:
        return None
    if not -1000 <= wanted <= 1000:
        raise BundleError(f"oom-score-adj {wanted}: out of range", cure="give a number from -1000 to 1000")
    return wanted if may_lower else max(wanted, current_oom_score_adj())


@cache
def may_raise_limits(*, rootless: bool) -> bool:
    """Whether this is root of the machine (of the first user namespace) with CAP_SYS_RESOURCE: it counts there only."""
    if rootless or os.geteuid() != 0 or "CAP_SYS_RESOURCE" not in effective_capabilities():
        return False
    with open("/proc/self/uid_map", "rb") as file:
        return file.read().split() == [b"0", b"0", b"4294967295"]


def process_limits(
    ulimits: Sequence[str], oom_score_adj: int | None, *, rootless: bool
) -> tuple[tuple[Rlimit, ...], int | None]:
    """The resource limits and the OOM score of each program of a container. Raises: BundleError."""
    may_raise = may_raise_limits(rootless=rootless)
    limits = build_rlimits(ulimits, hard=hard_limits(), may_raise=may_raise)
    return limits, clamp_oom_score_adj(oom_score_adj, may_lower=may_raise)


def _parse_ulimit(text: str) -> Rlimit:
    name, equals, values = text.partition("=")
    name = name.lower().removeprefix("rlimit_")
    if name not in _RESOURCES:
        raise BundleError(
            f"ulimit {text!r}: no limit {name!r}", cure=f"limits are: {', '.join(sorted(_RESOURCES))}"
        )
    try:
        numbers = [_parse_number(value) for value in values.split(":")]
    except ValueError:
        numbers = []
    if not equals or len(numbers) not in (1, 2):
        raise BundleError(f"ulimit {text!r}: not NAME=SOFT[:HARD]", cure="give --ulimit nofile=1024:4096")
    soft, hard = numbers[0], numbers[-1]
    if soft > hard:
        raise BundleError(f"ulimit {text!r}: soft is above hard", cure="give the smaller number first")
    return Rlimit(type=f"RLIMIT_{name.upper()}", soft=soft, hard=hard)


def _parse_number(text: str) -> int:
    if text in ("-1", "unlimited"):
        return _UNLIMITED
    number = int(text)
    if not 0 <= number <= _UNLIMITED:
        raise ValueError(text)
    return number


def _wire(value: int) -> int:
    return _UNLIMITED if value == resource.RLIM_INFINITY else value
