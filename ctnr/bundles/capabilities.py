"""Capability names and the final sets of a process (capabilities(7))."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

from ctnr.bundles.defaults import CAPABILITIES
from ctnr.bundles.errors import BundleError
from ctnr.bundles.spec import Capabilities

# In the kernel's order (include/uapi/linux/capability.h): the index is the capability's number.
NAMES = tuple(
    "CAP_" + name
    for name in (  # noqa: SIM905 (forty quoted names on forty lines say no more)
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
        "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
        "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
        "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
        "PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
_known = frozenset(NAMES)


def normal_name(name: str) -> str:
    """`net_admin` and `CAP_NET_ADMIN` → `CAP_NET_ADMIN`; `all` → `ALL`.

    Raises: BundleError for a name that no capability has.
    """
    upper = name.strip().upper()
    if upper in ("ALL", "CAP_ALL"):
        return "ALL"
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in _known:
        raise BundleError(
            f"capability {name!r}: unknown", cure="capabilities(7) has the names; ALL means all"
        )
    return full


def available_capabilities() -> frozenset[str]:
    """What the kernel knows and this process may hand on: the bounding set of the root that runs the runtime.

    A user namespace of our own starts with every capability, so only the kernel's last one matters there.
    """
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return frozenset(NAMES[: int(file.read()) + 1])


def bounding_capabilities() -> frozenset[str]:
    """The bounding set of this process: the most that root without a user namespace of its own can give."""
    return _own_set(b"CapBnd:")


def effective_capabilities() -> frozenset[str]:
    """What this process may do: in some containers and sandboxes root lacks one or the other."""
    return _own_set(b"CapEff:")


def _own_set(name: bytes) -> frozenset[str]:
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(name):
                mask = int(line.split()[1], 16)
                return frozenset(name for number, name in enumerate(NAMES) if mask >> number & 1)
    return frozenset()


@lru_cache(maxsize=64)
def build_capabilities(
    available: frozenset[str],
    *,
    privileged: bool = False,
    add: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    root: bool = True,
) -> Capabilities:
    """The five sets for a process that is `root` in the container or not.

    A user other than root starts with none, as after execve(2) on any system, but keeps the bounding set for
    setuid programs; what was added by name is meant for the program itself, so it becomes ambient. Root's
    inheritable set stays empty (CVE-2022-24769).

    Raises: BundleError for an unknown name, one that is added and dropped, or one that can't be given here.
    """
    added = [normal_name(name) for name in add]
    dropped = [normal_name(name) for name in drop]
    for name in added:
        if name in dropped:
            raise BundleError(f"capability {name}: both added and dropped", cure="leave out one of the two")
        if name != "ALL" and name not in available:
            raise BundleError(
                f"capability {name}: not available here",
                cure="run ctnr where it has this capability itself, or leave out the option",
            )
    bounding = _bounding(available, privileged, added, dropped)
    if root:
        return Capabilities(bounding=bounding, effective=bounding, permitted=bounding)
    own = bounding if "ALL" in added else _ordered(set(added))
    return Capabilities(bounding=bounding, effective=own, permitted=own, inheritable=own, ambient=own)


def _bounding(
    available: frozenset[str], privileged: bool, added: Sequence[str], dropped: Sequence[str]
) -> tuple[str, ...]:
    wanted = set(available if privileged or "ALL" in added else available & set(CAPABILITIES))
    if "ALL" in dropped:
        wanted = set()
    return _ordered((wanted | (set(added) - {"ALL"})) - set(dropped))


def _ordered(names: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in NAMES if name in names)
