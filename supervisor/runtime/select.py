"""crun or runc: the first that runs a container in this sandbox. Found out once per sandbox."""

from __future__ import annotations

import os

from supervisor.errors import RuntimeFailed
from supervisor.runtime.oci import Runtime
from supervisor.sandbox.sandbox import Sandbox, find_program

CANDIDATES = ("crun", "runc")


async def select_runtime(sandbox: Sandbox, wanted: str | None = None) -> Runtime:
    """The runtime to use: `wanted` (a name or a path), else crun before runc.

    crun answers in 8 ms and needs no help; runc takes 25 ms and cgroups of its own.
    Raises: RuntimeFailed if there is none that works, with the reason of each.
    """
    reasons = []
    for name in (wanted,) if wanted else CANDIDATES:
        try:
            program = find_program(name)
        except FileNotFoundError:
            reasons.append(f"{name} is not installed")
            continue
        runtime = Runtime(program, sandbox)
        reason = await runtime.probe()
        if reason is None:
            return runtime
        reasons.append(f"{os.path.basename(program)}: {reason}")
    raise RuntimeFailed(f"no OCI runtime works here: {'; '.join(reasons)}", cure="sudo apt-get install crun")
