"""--ipc, --pid, --uts and --userns: the namespaces of a container, and what of them it may have in common with others.

Containers run in a sandbox with process and IPC namespaces of its own, and all that is left of them goes with its
processes. So a container can't see the host's processes, nor outlive the end of its own first one in another's.
"""

from __future__ import annotations

from ctnr.bundles.errors import BundleError
from ctnr.bundles.spec import Mount, Namespace
from ctnr.requests import Run
from supervisor.spec import Prepared

HOST_SHM = Mount(
    destination="/dev/shm", type="bind", source="/dev/shm",
    options=("bind", "rprivate", "nosuid", "noexec", "nodev", "rw"),
)  # fmt: skip
_KNOWN = {
    "ipc": ("private", "host", "none"),
    "pid": ("private",),
    "uts": ("private", "host"),
    "userns": ("", "host"),  # the sandbox's: rootless or not is --rootless
}
_WHY = {
    ("ipc", "shareable"): "every container has its own /dev/shm here",
    ("ipc", "container"): "every container has its own /dev/shm here",
    ("pid", "host"): "containers run in a process namespace that ends with all of them",
    ("pid", "container"): "what a container leaves behind is ended with its own process namespace",
    ("userns", "keep-id"): "containers of a user share one user namespace",
    ("userns", "auto"): "containers of a user share one user namespace",
    ("userns", "nomap"): "containers of a user share one user namespace",
    ("userns", "container"): "containers of a user share one user namespace",
}
_CURES = {
    "ipc": "--ipc=host shares the host's /dev/shm, or share a directory: -v NAME:/dev/shm",
    "pid": "ctnr exec runs a program beside another one, ctnr top shows them",
    "userns": "--rootless runs in a user namespace also for root; -u chooses the user inside",
}


def check_namespaces(run: Run) -> None:
    """Raises: BundleError for what can't be had."""
    for flag, known in _KNOWN.items():
        wanted = getattr(run, flag)
        if wanted is None or wanted in known:
            continue
        why = _WHY.get((flag, wanted.partition(":")[0]))
        one_of = f"one of: {', '.join(filter(None, known))}"
        raise BundleError(f"--{flag}={wanted}: {why or 'not known'}", cure=_CURES[flag] if why else one_of)


def build_namespaces(run: Run, prepared: Prepared) -> tuple[Namespace, ...]:
    """A cgroup of its own is seen as the root of all: what asks how much memory there is reads the limit."""
    kinds = ["pid", "mount"]
    if run.ipc != "host":
        kinds.append("ipc")
    if not has_host_name(run):
        kinds.append("uts")
    if prepared.cgroup_version == 2:
        kinds.append("cgroup")
    own = tuple(Namespace(type=kind) for kind in kinds)
    return own if prepared.netns is None else (*own, Namespace(type="network", path=prepared.netns))


def has_host_name(run: Run) -> bool:
    return run.uts == "host"
