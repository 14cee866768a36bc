"""--init: a tiny PID 1 that reaps and forwards signals, found on the host and bind-mounted into the container."""

from __future__ import annotations

import os
import shutil

from ctnr.bundles.errors import BundleError

DESTINATION = "/run/ctnr-init"
# Static ones first: they run in any image, whatever its libc.
PROGRAMS = ("catatonit", "tini-static", "docker-init", "tini", "dumb-init")
_DIRECTORIES = ("/usr/libexec/podman", "/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin", "/usr/libexec")


def find_init_program(path: str | None = None) -> str:
    """The path of one on the host. `path` is a search path for tests. Raises: BundleError if there is none."""
    search = path if path is not None else os.pathsep.join((*_DIRECTORIES, os.environ.get("PATH", "")))
    for name in PROGRAMS:
        found = shutil.which(name, path=search)
        if found is not None:
            return os.path.realpath(found)
    raise BundleError(
        f"--init: none of {', '.join(PROGRAMS)} is installed", cure="sudo apt-get install catatonit"
    )
