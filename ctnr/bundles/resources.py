"""--memory, --cpus and their like: held to what makes sense, and brought into the kernel's terms."""

from __future__ import annotations

import os
import re

import msgspec

from ctnr.bundles.errors import BundleError
from ctnr.requests import Limits as Asked
from supervisor.cgroups.limits import DEFAULT_PERIOD, UNLIMITED, Limits

MIN_MEMORY_BYTES = 6 << 20  # docker's; a runtime and a shell do not fit into less
MIN_PERIOD, MAX_PERIOD, MIN_QUOTA = 1_000, 1_000_000, 1_000  # µs; the kernel's (kernel/sched/core.c)
MIN_SHARES, MAX_SHARES = 2, 1 << 18
_SET = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def build_limits(asked: Asked | None) -> Limits:
    """What the supervisor is to see to. Raises: BundleError for what can't be."""
    if asked is None:
        return Limits()
    memory = _bytes(asked.memory, "memory")
    swap = _bytes(asked.memory_swap, "memory-swap")
    reservation = _bytes(asked.memory_reservation, "memory-reservation")
    if memory is not None and 0 < memory < MIN_MEMORY_BYTES:
        raise _wrong(f"memory {memory} bytes: below the least, 6m", "give --memory=6m or more")
    if swap is not None and swap != UNLIMITED:
        if memory is None or memory == UNLIMITED:
            raise _wrong("memory-swap: it is memory and swap together, and there is no limit on memory",
                         "give --memory, too")  # fmt: skip
        if swap < memory:
            raise _wrong(
                "memory-swap: less than memory", "it is memory and swap together: give as much or more"
            )
    if reservation is not None and memory is not None and 0 < memory < reservation:
        raise _wrong(
            "memory-reservation: more than memory",
            "give less: it is what the container keeps when memory is short",
        )
    quota, period = _cpu(asked)
    shares = asked.cpu_shares or None
    if shares is not None and not MIN_SHARES <= shares <= MAX_SHARES:
        raise _wrong(
            f"cpu-shares {shares}: out of range", f"give {MIN_SHARES} to {MAX_SHARES}; 1024 is everybody's"
        )
    if asked.pids is not None and asked.pids < UNLIMITED:
        raise _wrong(f"pids-limit {asked.pids}: out of range", "give a number, or -1 for no limit")
    return Limits(
        memory=memory,
        memory_swap=swap,
        memory_reservation=reservation,
        cpu_quota=quota,
        cpu_period=period,
        cpu_shares=shares,
        cpuset_cpus=_set(asked.cpuset_cpus, "cpuset-cpus", "/sys/devices/system/cpu/online"),
        cpuset_mems=_set(asked.cpuset_mems, "cpuset-mems", "/sys/devices/system/node/online"),
        pids=UNLIMITED if asked.pids == 0 else asked.pids,
    )


def merge(before: Asked | None, newer: Asked) -> Asked:
    """What `ctnr update` makes of a container's limits: `newer` wins, and --cpus and --cpu-quota end each other."""
    kept = msgspec.structs.asdict(before) if before is not None else {}
    asked = {name: value for name, value in msgspec.structs.asdict(newer).items() if value is not None}
    if "cpus" in asked:
        kept = {**kept, "cpu_quota": None, "cpu_period": None}
    elif "cpu_quota" in asked or "cpu_period" in asked:
        kept = {**kept, "cpus": None}
    if (
        "memory" in asked
        and "memory_swap" not in asked
        and (kept.get("memory_swap") or UNLIMITED) != UNLIMITED
    ):
        kept = {**kept, "memory_swap": None}  # it was said of the memory that there was
    return Asked(**{**kept, **asked})


def _bytes(value: int | None, name: str) -> int | None:
    """0 is no limit, as with docker."""
    if value is not None and value < UNLIMITED:
        raise _wrong(f"{name} {value}: out of range", "give a size such as 64m, or -1 for no limit")
    return UNLIMITED if value == 0 else value


def _cpu(asked: Asked) -> tuple[int | None, int | None]:
    """Quota and period in µs."""
    quota, period = asked.cpu_quota, asked.cpu_period or None
    if asked.cpus is not None:
        if quota is not None or period is not None:
            raise _wrong(
                "cpus: it sets quota and period itself", "leave out --cpus, or --cpu-quota and --cpu-period"
            )
        here = os.cpu_count() or 1
        if asked.cpus == 0:
            return UNLIMITED, None
        if not 0.01 <= asked.cpus <= here:
            raise _wrong(f"cpus {asked.cpus:g}: there are {here} here", f"give 0.01 to {here}")
        return round(asked.cpus * DEFAULT_PERIOD), DEFAULT_PERIOD
    if period is not None and not MIN_PERIOD <= period <= MAX_PERIOD:
        raise _wrong(f"cpu-period {period}: out of range", f"give {MIN_PERIOD} to {MAX_PERIOD} microseconds")
    if quota is not None and quota > 0 and quota < MIN_QUOTA:
        raise _wrong(
            f"cpu-quota {quota}: out of range", f"give {MIN_QUOTA} microseconds or more, or -1 for no limit"
        )
    return (UNLIMITED if quota is not None and quota <= 0 else quota), period


def _set(text: str | None, name: str, online: str) -> str | None:
    """A list such as 0-2,4 of what is online."""
    if text is None:
        return None
    try:
        with open(online) as file:
            here = file.read().strip()
    except OSError:
        here = "0"  # a kernel without NUMA has no list of nodes
    if not _SET.fullmatch(text) or not _numbers(text) <= _numbers(here):
        raise _wrong(f"{name} {text}: there are {here} here", "give a list such as 0 or 0-1")
    return text


def _numbers(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), min(int(last or first), 1 << 16) + 1))
    return found


def _wrong(message: str, cure: str) -> BundleError:
    return BundleError(message, cure=cure)
