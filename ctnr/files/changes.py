"""What an overlay's upper directory changes in the layers below it, as docker's `diff` tells: a program in the sandbox.

    argv: {"upper": PATH, "lower": [PATH, topmost first], "mounts": [where something is mounted in the container]}
stdout: a JSON list of [A|C|D, path]
"""

from __future__ import annotations

import json
import os
import stat
import sys

OPAQUE = "user.overlay.opaque"


def main() -> None:
    job = json.loads(sys.argv[1])
    found = Changes(job["upper"], job["lower"], job["mounts"]).find()
    print(json.dumps(found))  # noqa: T201 -- this is a program


class Changes:
    def __init__(self, upper: str, lower: list[str], mounts: list[str]) -> None:
        self._upper, self._lower = upper, lower
        self._mounts = set(mounts)

    def find(self) -> list[tuple[str, str]]:
        """(kind, path), sorted as a tree."""
        found: list[tuple[str, str]] = []
        self._walk("", found, opaque=False)
        return found

    def _walk(self, directory: str, found: list[tuple[str, str]], *, opaque: bool) -> None:
        entries = sorted(os.listdir(self._upper + directory))
        for name in entries:
            path = f"{directory}/{name}"
            info = os.lstat(self._upper + path)
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                if not opaque and self._below(path) is not None:
                    found.append(("D", path))
                continue
            below = self._below(path)
            kind = "A" if below is None else "C"
            if not stat.S_ISDIR(info.st_mode):
                if not (path in self._mounts and kind == "A" and info.st_size == 0):  # the runtime's
                    found.append((kind, path))
                continue
            at = len(found)
            hides = self._is_opaque(self._upper + path)
            self._walk(path, found, opaque=opaque or hides)
            if hides:
                kept = set(entries_of(self._upper + path))
                found += [("D", f"{path}/{one}") for one in self._listed(path) if one not in kept]
            if len(found) > at or not self._is_runtimes(path, below, info):
                found.insert(at, (kind, path))

    def _is_runtimes(self, path: str, below: os.stat_result | None, info: os.stat_result) -> bool:
        """A directory that is there only because the runtime needs a place to mount something on, or below."""
        if not any(mount == path or mount.startswith(f"{path}/") for mount in self._mounts):
            return False
        return below is None or (
            (below.st_mode, below.st_uid, below.st_gid) == (info.st_mode, info.st_uid, info.st_gid)
        )

    def _below(self, path: str) -> os.stat_result | None:
        """What the layers show at `path`; None for nothing."""
        for layer in self._lower:
            at = ""
            hidden = False
            for part in path.split("/")[1:]:
                at = f"{at}/{part}"
                try:
                    info = os.lstat(layer + at)
                except (FileNotFoundError, NotADirectoryError):
                    break
                if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                    return None
                if at == path:
                    return info
                if not stat.S_ISDIR(info.st_mode):
                    return None
                hidden = hidden or self._is_opaque(layer + at)
            if hidden:
                return None
        return None

    def _listed(self, path: str) -> list[str]:
        names: set[str] = set()
        for layer in self._lower:
            names.update(entries_of(layer + path))
        return sorted(name for name in names if self._below(f"{path}/{name}") is not None)

    def _is_opaque(self, path: str) -> bool:
        try:
            return os.getxattr(path, OPAQUE, follow_symlinks=False) == b"y"
        except OSError:
            return False


def entries_of(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


if __name__ == "__main__":
    main()
