"""What lies at a path below a root, as whoever mounts something there will find it. Standard library only: init's."""

from __future__ import annotations

import os

from supervisor.sandbox import syscalls

DIRECTORY, FILE, MISSING = "directory", "file", "missing"  # missing: it can be made
THROUGH, LOOP, DANGLING = (
    "through",
    "loop",
    "dangling",
)  # it can't: a file, or a link that leads nowhere, is in the way


def look(root: str, paths: list[str]) -> list[str]:
    """One of the words above for each path. Raises: OSError."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [_look(directory, path) for path in paths]
    finally:
        os.close(directory)


def _look(root: int, path: str) -> str:
    is_missing = False
    while True:
        try:
            found = syscalls.open_in_root(root, path, os.O_PATH)
        except NotADirectoryError:
            return THROUGH
        except FileNotFoundError:
            if _is_link(root, path):
                return DANGLING
            path, is_missing = os.path.dirname(path), True
            continue
        except OSError as exc:
            if exc.errno != 40:  # ELOOP
                raise
            return LOOP
        is_directory = os.fstat(found).st_mode & 0o170000 == 0o040000
        os.close(found)
        if is_missing:
            return MISSING if is_directory else THROUGH
        return DIRECTORY if is_directory else FILE


def _is_link(root: int, path: str) -> bool:
    try:
        os.close(syscalls.open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW))
    except OSError:
        return False
    return True
