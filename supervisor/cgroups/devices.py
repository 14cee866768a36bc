"""Which devices a container may use: cgroup v1's two files, and the BPF program that v2 wants for the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.cgroups import bpf


@dataclass(frozen=True)
class DeviceRule:
    """`kind` is c or b; None for a number is any of them; `access` is of r, w and m (mknod)."""

    kind: str
    major: int | None
    minor: int | None
    access: str = "rwm"

    def __str__(self) -> str:
        major, minor = ("*" if number is None else number for number in (self.major, self.minor))
        return f"{self.kind} {major}:{minor} {self.access}"


# What every container has: a runtime makes these nodes (OCI runtime-spec, "Default Devices"), terminals, and mknod
# itself, which gives nothing that could be opened.
DEFAULT_RULES = (
    DeviceRule("c", None, None, "m"),
    DeviceRule("b", None, None, "m"),
    *(DeviceRule("c", 1, minor) for minor in (3, 5, 7, 8, 9)),  # null, zero, full, random, urandom
    *(DeviceRule("c", 5, minor) for minor in (0, 1, 2)),  # tty, console, ptmx
    DeviceRule("c", 136, None),  # pts
)


def attach_device_filter(directory: str, rules: Sequence[DeviceRule]) -> None:
    """Let the processes of a v2 cgroup use what one of the rules allows, and nothing else. Raises: OSError.

    The program goes with the cgroup, so there is nothing to undo.
    """
    program = bpf.load_device_program(
        bpf.assemble((rule.kind, rule.major, rule.minor, rule.access) for rule in rules)
    )
    try:
        cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            bpf.attach_device_program(program, cgroup)
        finally:
            os.close(cgroup)
    finally:
        os.close(program)
