"""What is there before and after: the guard that fails a test which leaves anything behind.

Everything that a test starts is a descendant of pytest (which is a subreaper, tests/world/machine.py), so processes and
what hangs on them are told exactly; links, mounts, rules, leases and files are those of the test's own machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.world import cgroups

Snapshot = dict[str, dict[str, str]]
"""kind of thing → what it is known by → how a person would describe it"""

SETTLE_SECONDS = 3.0
POLL_SECONDS = 0.02

# Chains that the portmap plugin makes once and, by its design, never removes; what is in them per container counts.
_PORTMAP_FURNITURE = re.compile(r"CNI-HOSTPORT-(DNAT|SETMARK|MASQ)")
_PER_CONTAINER_CHAIN = re.compile(r"CNI-(?!HOSTPORT-)|id: \\?\"")

# skopeo's memory of which registry has which blob
_FURNITURE = re.compile(r"/containers(/cache(/blob-info-cache-\S+)?)?$")


def snapshot(files: Iterable[Path] = ()) -> Snapshot:
    """Everything that the guard looks after; `files` are the folders whose content counts."""
    seen = {
        "process": _processes(),
        "network namespace": _network_namespaces(),
        "mount": _mounts(),
        "descriptor": _descriptors(),
        "cgroup": _cgroups(),
        "file": _files(files),
    }
    seen["link"], seen["address"], seen["route"] = _links_addresses_routes()
    seen["firewall rule"] = _rules()
    seen["lease"] = _leases(seen["file"])
    return seen


def added(before: Snapshot, after: Snapshot) -> list[str]:
    """What is in `after` only, a line each."""
    return [
        f"{kind}: {text}"
        for kind, things in after.items()
        for key, text in things.items()
        if key not in before[kind]
    ]


def wait_clean(before: Snapshot, take: Callable[[], Snapshot], seconds: float = SETTLE_SECONDS) -> list[str]:
    """Look until nothing is left that `before` did not have, or until time is up: then what is left.

    The kernel takes network namespaces and their links apart a little after their last user is gone.
    """
    deadline = time.monotonic() + seconds
    while True:
        reap_strays(before)
        left = added(before, take())
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(POLL_SECONDS)


def descendants(of: int | None = None) -> list[int]:
    """The processes that come from this one (or from `of`), the dead but unreaped ones too."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in _stats():
        children.setdefault(parent, []).append(pid)
    found, look_at = [], [of or os.getpid()]
    while look_at:
        for child in children.get(look_at.pop(), ()):
            found.append(child)
            look_at.append(child)
    return found


def reap_strays(before: Snapshot) -> None:
    """Collect dead orphans that came to us as their subreaper, except what was there at the start."""
    own = os.getpid()
    for pid, (parent, state) in _stats():
        if parent == own and state == "Z" and str(pid) not in before["process"]:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _stats() -> Iterator[tuple[int, tuple[int, str]]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{name}/stat").read_text()
                state, parent = stat.rpartition(")")[2].split()[:2]
                yield int(name), (int(parent), state)


def _processes() -> dict[str, str]:
    found = {}
    for pid in descendants():
        with contextlib.suppress(OSError):
            argv = (
                Path(f"/proc/{pid}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
                .strip()
            )
            found[str(pid)] = (
                f"{pid} {argv or Path(f'/proc/{pid}/comm').read_text().strip() + ' (dead or kernel)'}"
            )
    return found


def _network_namespaces() -> dict[str, str]:
    """Those of our processes, those that an open descriptor of theirs keeps, and the pinned ones."""
    found = {}
    own = os.readlink("/proc/self/ns/net")
    for pid in [os.getpid(), *descendants()]:
        links = [f"/proc/{pid}/ns/net"]
        with contextlib.suppress(OSError):
            links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
        for link in links:
            with contextlib.suppress(OSError):
                target = os.readlink(link)
                if target.startswith("net:") and target != own:
                    found[target] = f"{target} held by {link}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[3].startswith("net:"):
            found[fields[3]] = f"{fields[3]} pinned at {fields[4]}"
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else ():
        found[f"/run/netns/{name}"] = f"the name /run/netns/{name}"
    return found


def _mounts() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind, source = line.partition(" - ")[2].split()[:2]
        # the mount's own number is not kept: the same thing mounted again is the same
        found[f"{fields[4]} {kind} {source}"] = f"{fields[4]} ({kind} of {source})"
    return found


def _descriptors() -> dict[str, str]:
    """This process's own; a number that is used again for the same thing is the same."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target != f"/proc/{os.getpid()}/fd":
                found[f"{fd} {target}"] = f"{fd} → {target}"
    return found


def _cgroups() -> dict[str, str]:
    """Those below pytest's own ones: the others are other programs'."""
    return {
        folder: folder
        for own in cgroups.current().values()
        for folder, _, _ in os.walk(own)
        if folder != str(own)
    }


def _files(folders: Iterable[Path]) -> dict[str, str]:
    """What is mounted below is told as a mount, and pytest looks after its own temporary directories."""
    found = {}
    mounted = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    for top in folders:
        for folder, folders_in_it, names in os.walk(top):
            folders_in_it[:] = [name for name in folders_in_it if not name.startswith("pytest-of-")]
            for name in (*names, *folders_in_it):
                path = os.path.join(folder, name)
                if not _FURNITURE.search(path):
                    found[path] = path
            folders_in_it[:] = [name for name in folders_in_it if f"{folder}/{name}" not in mounted]
    return found


def _leases(files: dict[str, str]) -> dict[str, str]:
    """host-local's: one file per address, named by it."""
    return {
        path: f"{path} ({_first_line(path)})"
        for path in files
        if "/cni/networks/" in path and re.fullmatch(r"[0-9a-f.:]+", os.path.basename(path))
    }


def _first_line(path: str) -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path(path).read_text(errors="replace").split()[0]
    return "empty"


def _links_addresses_routes() -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    links, addresses, routes = {}, {}, {}
    for link in json.loads(_output(["ip", "-j", "address", "show"]) or b"[]"):
        name = link["ifname"]
        links[f"{link['ifindex']} {name}"] = f"{name} ({link.get('address', '')})"
        for address in link.get("addr_info", ()):
            text = f"{address.get('local')}/{address.get('prefixlen')} on {name}"
            addresses[text] = text
    for family in ("-4", "-6"):
        for line in _output(["ip", family, "route", "show", "table", "all"]).decode().splitlines():
            text = re.sub(r" (expires|error|pref|linkdown|dead)( \S+)?", "", line).strip()
            if "fe80:" not in text and not text.startswith(("multicast", "anycast")):
                routes[text] = text
    return links, addresses, routes


def _rules() -> dict[str, str]:
    """Rules and chains of nftables (iptables' too, where it is built on that) and of old iptables, without counters."""
    found = {}
    lines = _nft_lines()
    for old in ("iptables-legacy-save", "ip6tables-legacy-save"):
        names = "/proc/net/ip6_tables_names" if old.startswith("ip6") else "/proc/net/ip_tables_names"
        if os.path.exists(names) and Path(names).read_text().strip():
            lines += [line for line in _output([old]).decode().splitlines() if line.startswith(("-A", "-N"))]
    for line in lines:
        if _PORTMAP_FURNITURE.search(line) and not _PER_CONTAINER_CHAIN.search(line):
            continue
        found[line] = line
    return found


def _nft_lines() -> list[str]:
    lines, table, chain = [], "", ""
    for raw in _output(["nft", "--stateless", "list", "ruleset"]).decode().splitlines():
        line = raw.strip()
        if line.startswith("table "):
            table, chain = line.removesuffix(" {"), ""
        elif line.startswith("chain "):
            chain = line.removesuffix(" {").removeprefix("chain ")
            # iptables makes its built-in chains (INPUT, …) at first use and keeps them
            if not re.fullmatch(r"[A-Z]+", chain):
                lines.append(f"{table} {chain}: the chain itself")
        elif line and line != "}" and not line.startswith(("type ", "#")):
            lines.append(f"{table} {chain}: {line}")
    return lines


def _output(argv: list[str]) -> bytes:
    """stdout of a looking program; nothing when it isn't installed or has nothing to say."""
    try:
        return subprocess.run(argv, capture_output=True, check=False).stdout
    except FileNotFoundError:
        return b""
