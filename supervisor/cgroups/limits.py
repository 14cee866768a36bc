"""Limits as numbers, and what is written where for them. Pure functions of the two versions' files."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

UNLIMITED = -1
DEFAULT_PERIOD = 100_000  # µs; the kernel's


@dataclass(frozen=True, kw_only=True)
class Limits:
    """None: nothing is asked. UNLIMITED lifts a limit that there was."""

    memory: int | None = None  # bytes
    memory_swap: int | None = (
        None  # bytes of memory and swap together; None: twice the memory, as docker does
    )
    memory_reservation: int | None = None  # bytes that are taken last when memory is short
    cpu_quota: int | None = None  # µs of each period
    cpu_period: int | None = None  # µs
    cpu_shares: int | None = None  # 2 … 262144; the kernel's default is 1024
    cpuset_cpus: str | None = None  # as in cpuset(7): 0-2,4
    cpuset_mems: str | None = None
    pids: int | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))

    def merged(self, newer: Limits) -> Limits:
        """What `newer` asks for, and the rest as it is."""
        changes = {field.name: getattr(newer, field.name) for field in fields(newer)}
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def without(self, other: Limits) -> Limits:
        """What lifts those limits of `other` that are not in this: to go back to this one."""
        lifted = {name: value for name, value in _LIFTED.items() if getattr(other, name) is not None}
        return Limits(**lifted).merged(self)

    @property
    def controllers(self) -> tuple[str, ...]:
        """Those that it takes to keep these limits."""
        needs = {
            "memory": (self.memory, self.memory_swap, self.memory_reservation),
            "cpu": (self.cpu_quota, self.cpu_period, self.cpu_shares),
            "cpuset": (self.cpuset_cpus, self.cpuset_mems),
            "pids": (self.pids,),
        }
        return tuple(name for name, values in needs.items() if any(value is not None for value in values))

    @property
    def total_memory(self) -> int | None:
        """Memory and swap together, in bytes."""
        if self.memory_swap is not None or self.memory is None:
            return self.memory_swap
        return UNLIMITED if self.memory == UNLIMITED else 2 * self.memory


_LIFTED: dict[str, Any] = {
    "memory": UNLIMITED, "memory_swap": UNLIMITED, "memory_reservation": UNLIMITED, "cpu_quota": UNLIMITED,
    "cpu_period": DEFAULT_PERIOD, "cpu_shares": 1024, "pids": UNLIMITED,
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One file of one controller. `optional`: a kernel without it keeps all that was asked for."""

    controller: str
    file: str
    value: str
    optional: bool = False


def settings_v2(limits: Limits) -> list[Setting]:
    """As the kernel's cgroup-v2.rst has it; shares become weights as the OCI runtimes do it."""
    found = []
    if limits.memory is not None:
        found.append(Setting("memory", "memory.max", _or_max(limits.memory)))
    if (total := limits.total_memory) is not None:
        swap = total if total == UNLIMITED else total - (limits.memory or 0)
        found.append(
            Setting("memory", "memory.swap.max", _or_max(swap), optional=limits.memory_swap is None)
        )
    if limits.memory_reservation is not None:
        found.append(Setting("memory", "memory.low", str(max(limits.memory_reservation, 0))))
    if limits.cpu_quota is not None or limits.cpu_period is not None:
        quota = UNLIMITED if limits.cpu_quota is None else limits.cpu_quota
        found.append(Setting("cpu", "cpu.max", f"{_or_max(quota)} {limits.cpu_period or DEFAULT_PERIOD}"))
    if limits.cpu_shares is not None:
        weight = 1 + (limits.cpu_shares - 2) * 9999 // 262142
        found.append(Setting("cpu", "cpu.weight", str(weight)))
    return found + _common(limits)


def settings_v1(limits: Limits) -> list[Setting]:
    """As the kernel's cgroup-v1/*.rst has it."""
    found = []
    if limits.memory is not None:
        found.append(Setting("memory", "memory.limit_in_bytes", str(limits.memory)))
    if (total := limits.total_memory) is not None:
        found.append(
            Setting("memory", "memory.memsw.limit_in_bytes", str(total), optional=limits.memory_swap is None)
        )
    if limits.memory_reservation is not None:
        found.append(Setting("memory", "memory.soft_limit_in_bytes", str(limits.memory_reservation)))
    if limits.cpu_period is not None:
        found.append(Setting("cpu", "cpu.cfs_period_us", str(limits.cpu_period)))
    if limits.cpu_quota is not None:
        found.append(Setting("cpu", "cpu.cfs_quota_us", str(limits.cpu_quota)))
    if limits.cpu_shares is not None:
        found.append(Setting("cpu", "cpu.shares", str(limits.cpu_shares)))
    return found + _common(limits)


def _common(limits: Limits) -> list[Setting]:
    found = []
    if limits.cpuset_mems is not None:
        found.append(Setting("cpuset", "cpuset.mems", limits.cpuset_mems))
    if limits.cpuset_cpus is not None:
        found.append(Setting("cpuset", "cpuset.cpus", limits.cpuset_cpus))
    if limits.pids is not None:
        found.append(Setting("pids", "pids.max", _or_max(limits.pids)))
    return found


def _or_max(value: int) -> str:
    return "max" if value == UNLIMITED else str(value)
