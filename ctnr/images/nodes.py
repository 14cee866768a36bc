"""Device nodes of a layer that is unpacked anew where none can be made: linked from the layer that is there.

A program inside the sandbox. Standard library only.

    argv: the directory of the layer that is there, and of the new one
    stdin: JSON [[path, st_mode, st_rdev, uid, gid], …], what the layer's archive says of its nodes
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

_WALK = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def main() -> None:
    first, second = (os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in sys.argv[1:3])
    for path, *said in json.load(sys.stdin):
        with contextlib.suppress(OSError):  # it is not there, or something else has come in its place
            keep(first, second, path, said)


def keep(first: int, second: int, path: str, said: list[int]) -> None:
    """Link one node, if it is what the archive says; no link on the way is followed. Raises: OSError."""
    *above, name = path.split("/")
    with contextlib.ExitStack() as undo:
        for part in above:
            first, second = (os.open(part, _WALK, dir_fd=one) for one in (first, second))
            undo.callback(os.close, first)
            undo.callback(os.close, second)
        info = os.lstat(name, dir_fd=first)
        if [info.st_mode, info.st_rdev, info.st_uid, info.st_gid] == said:
            os.link(name, name, src_dir_fd=first, dst_dir_fd=second, follow_symlinks=False)
