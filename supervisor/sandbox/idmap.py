"""User and group ids inside a rootless sandbox: subuid ranges by newuidmap, or the ids that root has anyway."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from functools import partial

import trio

from supervisor.errors import SandboxError


async def write_maps(pid: int) -> None:
    """Give the user namespace of `pid` its ids: root inside is the user outside, subuids from 1 up.

    For root: every id it has, unchanged (one store serves both ways of running).
    Raises: SandboxError with the command that cures it.
    """
    if os.geteuid() == 0:
        for name in ("uid_map", "gid_map"):
            extents = [one for inside, _, count in _own_map(name) for one in _split(inside, count)]
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write("".join(f"{start} {start} {count}\n" for start, count in extents))
        return
    user = user_name()
    async with trio.open_nursery() as nursery:
        for tool, ranges, own in (
            ("newuidmap", "/etc/subuid", os.getuid()),
            ("newgidmap", "/etc/subgid", os.getgid()),
        ):
            nursery.start_soon(partial(_run_newidmap, tool, pid, _arguments(ranges, user, own)))


def _arguments(ranges: str, user: str, own: int) -> list[str]:
    arguments, inside = ["0", str(own), "1"], 1
    for start, count in find_ranges(ranges, user):
        arguments += [str(inside), str(start), str(count)]
        inside += count
    if inside == 1:
        option = "uids" if ranges.endswith("uid") else "gids"
        raise SandboxError(
            f"user namespace: {user} has no range in {ranges}",
            cure=f"sudo usermod --add-sub{option} 100000-165535 {user}",
        )
    return arguments


def find_ranges(path: str, user: str) -> list[tuple[int, int]]:
    """The (start, count) ranges of `user` (name or uid) in a file as subuid(5) tells it."""
    found = []
    try:
        with open(path) as file:
            for line in file:
                fields = line.strip().split(":")
                if (
                    len(fields) == 3
                    and fields[0] in (user, str(os.getuid()))
                    and fields[1].isdigit()
                    and fields[2].isdigit()
                ):
                    found.append((int(fields[1]), int(fields[2])))
    except FileNotFoundError:
        pass
    return found


async def _run_newidmap(tool: str, pid: int, arguments: list[str]) -> None:
    path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/bin:/bin")
    if path is None:
        raise SandboxError(f"user namespace: {tool} is not installed", cure="sudo apt-get install uidmap")
    done = await trio.run_process(
        [path, str(pid), *arguments],
        stdin=subprocess.DEVNULL,
        capture_stderr=True,
        capture_stdout=True,
        check=False,
    )
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        cure = None
        if "Operation not permitted" in why[0]:
            cure = f"sudo chmod u+s {path}   (or reinstall it: sudo apt-get install --reinstall uidmap)"
        raise SandboxError(f"user namespace: {tool}: {why[0]}", cure=cure)


def _own_map(name: str) -> list[tuple[int, int, int]]:
    with open(f"/proc/self/{name}") as file:
        return [(int(inside), int(outside), int(count)) for inside, outside, count in map(str.split, file)]


def _split(start: int, count: int) -> list[tuple[int, int]]:
    """One map of everything, 4294967295 ids, is how programs (crun too) tell the first user namespace: so two."""
    if count <= 65536:
        return [(start, count)]
    return [(start, 65536), (start + 65536, count - 65536)]


def user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
