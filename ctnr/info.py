"""What of the host is there, what is missing, and the command that cures it: `ctnr info`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ctnr import __version__
from ctnr.bundles.init_program import find_init_program
from ctnr.images.skopeo import find_policy
from supervisor.cgroups.layout import read_layout
from supervisor.cgroups.tree import Cgroups
from supervisor.errors import SupervisorError
from supervisor.network.plugins import default_cni_path, find_plugin
from supervisor.network.slirp import sandbox_report
from supervisor.sandbox.idmap import find_ranges, user_name
from supervisor.sandbox.sandbox import DEFAULT_PATH
from supervisor.supervisor import Supervisor

LIMITING = ("memory", "cpu", "cpuset", "pids", "freeze")  # cgroup controllers, and what pause takes
PLUGINS = ("bridge", "host-local", "portmap", "ptp")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that something needs. `cure` is a command, or words where none does it."""

    name: str
    ok: bool
    detail: str
    cure: str | None = None


async def describe_host(supervisor: Supervisor, store_dir: str) -> dict[str, Any]:
    """{"facts": …, "checks": [Check, …]}. Opens a sandbox, for that is the check that counts."""
    checks = [
        *_programs(),
        *_identity(supervisor.privileged),
        _tun(),
        _plugins(),
        _policy(),
        _store(store_dir),
    ]
    cgroups, limits = _cgroups()
    checks.append(limits)
    runtime = "none"
    try:
        realm = await supervisor.realm()
        runtime = realm.runtime.program
        checks.append(Check(name="sandbox", ok=True, detail="namespaces, mounts and an OCI runtime work"))
    except (SupervisorError, OSError) as exc:
        checks.append(Check(name="sandbox", ok=False, detail=str(exc), cure=getattr(exc, "cure", None)))
    facts = {
        "version": __version__,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "privileged": supervisor.privileged,
        "runtime": runtime,
        "cgroups": cgroups,
        "store": store_dir,
        "cni_path": list(default_cni_path(os.environ)),
        "slirp_sandboxed": sandbox_report(),
        "pasta": _which("pasta") or "not installed; for --network=pasta: sudo apt-get install passt",
    }
    return {"facts": facts, "checks": checks}


def _programs() -> Iterator[Check]:
    for names, package, need in (
        (("crun", "runc"), "crun", "to run containers"),
        (("slirp4netns",), "slirp4netns", "for --network=slirp"),
        (("skopeo",), "skopeo", "to pull and export images"),
        (("iptables",), "iptables", "for masquerading and published ports of bridges"),
    ):
        found = [path for name in names if (path := _which(name))]
        cure = None if found else f"sudo apt-get install {package}"
        yield Check(
            name=names[0], ok=bool(found), detail=found[0] if found else f"missing, needed {need}", cure=cure
        )
    yield _caught("init program", find_init_program)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{DEFAULT_PATH}")


def _caught(name: str, find: Callable[[], str]) -> Check:
    try:
        return Check(name=name, ok=True, detail=find())
    except SupervisorError as exc:
        return Check(name=name, ok=False, detail=str(exc), cure=exc.cure)


def _identity(privileged: bool) -> Iterator[Check]:
    if privileged:
        return
    user = user_name()
    for path, option in (("/etc/subuid", "uids"), ("/etc/subgid", "gids")):
        ranges = find_ranges(path, user)
        yield Check(
            name=os.path.basename(path), ok=bool(ranges),
            detail=", ".join(f"{start}+{count}" for start, count in ranges) or f"no range for {user}",
            cure=None if ranges else f"sudo usermod --add-sub{option} 100000-165535 {user}",
        )  # fmt: skip
    found = _which("newuidmap")
    cure = None if found else "sudo apt-get install uidmap"
    yield Check(name="newuidmap", ok=found is not None, detail=found or "missing", cure=cure)


def _tun() -> Check:
    path = "/dev/net/tun"
    if not os.path.exists(path):
        return Check(name=path, ok=False, detail="missing", cure="sudo modprobe tun")
    if not os.access(path, os.R_OK | os.W_OK):
        return Check(name=path, ok=False, detail="not yours to open", cure=f"sudo chmod 0666 {path}")
    return Check(name=path, ok=True, detail="can be opened")


def _plugins() -> Check:
    path = default_cni_path(os.environ)
    missing = []
    for name in PLUGINS:
        try:
            find_plugin(name, path)
        except SupervisorError:
            missing.append(name)
    if missing:
        return Check(
            name="CNI plugins", ok=False, detail=f"missing: {', '.join(missing)}",
            cure="sudo apt-get install containernetworking-plugins",
        )  # fmt: skip
    return Check(name="CNI plugins", ok=True, detail=os.path.dirname(find_plugin(PLUGINS[0], path)))


def _policy() -> Check:
    try:
        return Check(name="image policy", ok=True, detail=find_policy(None, os.environ).options[-1])
    except SupervisorError as exc:
        return Check(name="image policy", ok=False, detail=str(exc), cure=exc.cure)


def _store(store_dir: str) -> Check:
    directory = store_dir
    while not os.path.exists(directory):
        directory = os.path.dirname(directory)
    if os.access(directory, os.W_OK):
        free = os.statvfs(directory)
        return Check(
            name="store", ok=True, detail=f"{store_dir}, {free.f_bavail * free.f_frsize >> 30} GiB free"
        )
    return Check(
        name="store", ok=False, detail=f"{directory} can't be written", cure="choose another: --store-dir"
    )


def _cgroups() -> tuple[dict[str, Any], Check]:
    """What there is, and whether --memory and its like work; or why not."""
    cgroups = Cgroups(read_layout())
    refused = {name: refusal for name in LIMITING if (refusal := cgroups.refusal((name,))) is not None}
    usable = [name for name in LIMITING if name not in refused]
    facts = {
        "version": cgroups.layout.kind,
        "controllers": sorted({name for one in cgroups.layout.hierarchies for name in one.controllers}),
        "usable": usable,
    }
    if not refused:
        return facts, Check(name="limits", ok=True, detail=f"{', '.join(usable)}: cgroups are ours to make")
    first = next(iter(refused.values()))
    missing = f"not to be had: {', '.join(refused)}: {first.why}"
    detail = "; ".join(part for part in (", ".join(usable), missing) if part)
    return facts, Check(name="limits", ok=bool(usable), detail=detail, cure=None if usable else first.cure)
