"""Whether a container's command is there, told before the runtime is asked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ctnr.bundles import defaults
from supervisor.errors import CommandNotExecutable, CommandNotFound
from supervisor.sandbox.sandbox import Sandbox


async def check_command(
    sandbox: Sandbox,
    rootfs: str,
    command: str,
    cwd: str,
    env: Sequence[str],
    mounted: Sequence[str],
) -> None:
    """Tell that a command is not there before the runtime does: crun would also write it into the program's stderr.

    What is mounted into the container can't be seen here, so then the runtime has to tell.
    """
    if "/" in command:
        paths = [os.path.normpath(os.path.join("/", cwd, command))]
    else:
        path = next((one[5:] for one in reversed(env) if one.startswith("PATH=")), defaults.PATH)
        paths = [os.path.normpath(os.path.join("/", cwd, part, command)) for part in path.split(":")]
    if any(is_below(one, mounted) for one in paths):
        return
    found, unusable = await sandbox.find_executable(rootfs, paths)
    if found is None and unusable:
        raise CommandNotExecutable(
            f"{command}: can't be executed in the container",
            cure="chmod +x it in the image, or name a program",
        )
    if found is None:
        raise CommandNotFound(
            f"{command}: not found in the container", cure="check its name, and PATH in the image"
        )


def is_below(path: str, mounted: Iterable[str]) -> bool:
    """Whether something is mounted at `path` or above it, so that the root filesystem does not tell what is there."""
    return any(path.startswith(f"{target.rstrip('/')}/") or path == target for target in mounted)
