"""The OCI `process` object: what runs, as whom, with which rights. For the container itself and for exec."""

from __future__ import annotations

import posixpath
import signal as signals
from collections.abc import Sequence
from functools import cache

from ctnr.bundles.capabilities import available_capabilities, bounding_capabilities, build_capabilities
from ctnr.bundles.env import build_env
from ctnr.bundles.errors import BundleError
from ctnr.bundles.image import ImageProcess
from ctnr.bundles.spec import Capabilities, ConsoleSize, Process, Rlimit, User
from ctnr.bundles.users import ResolvedUser


def build_args(
    image: ImageProcess, entrypoint: Sequence[str] | None, args: Sequence[str]
) -> tuple[str, ...]:
    """ENTRYPOINT followed by CMD: an entrypoint of the user's clears both of the image's, arguments the CMD only.

    Raises: BundleError if nothing is left to run.
    """
    own = (*(image.entrypoint or ()), *(args or image.cmd or ()))
    found = own if entrypoint is None else (*entrypoint, *args)
    if not found or not found[0]:
        raise BundleError(
            "no command: neither the image nor the command line names one",
            cure="say what to run: ctnr run IMAGE COMMAND [ARG…]",
        )
    return found


def build_process(
    *,
    args: Sequence[str],
    env: Sequence[str],
    image: ImageProcess,
    user: ResolvedUser,
    cwd: str | None,
    hostname: str,
    capabilities: Capabilities,
    tty: bool,
    term: str | None,
    rows: int | None = None,
    columns: int | None = None,
    no_new_privileges: bool = False,
    rlimits: tuple[Rlimit, ...] = (),
    oom_score_adj: int | None = None,
) -> Process:
    """One process in a container. `env` comes on top of the image's, `cwd` is relative to the image's directory.

    Raises: BundleError for a broken environment entry.
    """
    return Process(
        args=tuple(args),
        cwd=resolve_workdir(image, cwd),
        user=User(uid=user.uid, gid=user.gid, additional_gids=user.additional_gids),
        env=build_env(
            image.env or (), env, hostname=hostname, home=user.home, term=(term or "xterm") if tty else None
        ),
        terminal=tty,
        console_size=ConsoleSize(height=rows, width=columns) if tty and rows and columns else None,
        capabilities=capabilities,
        rlimits=rlimits,
        no_new_privileges=no_new_privileges,
        oom_score_adj=oom_score_adj,
    )


def resolve_workdir(image: ImageProcess, workdir: str | None) -> str:
    """An absolute path; a relative one is meant below the image's WORKDIR."""
    return "/" + posixpath.normpath(posixpath.join("/", image.working_dir or "", workdir or "")).lstrip("/")


def process_capabilities(
    user: ResolvedUser,
    *,
    rootless: bool,
    privileged: bool,
    add: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
) -> Capabilities:
    """The five sets for `user`. Raises: BundleError for a name that does not exist, or can't be given here."""
    return build_capabilities(
        _available(rootless), privileged=privileged, add=add, drop=drop, root=user.uid == 0
    )


def parse_signal(text: str) -> int:
    """`KILL`, `SIGKILL`, `9`, `SIGRTMIN+3` → the number. Raises: BundleError."""
    if text.isascii() and text.isdigit() and 0 < int(text) <= signals.SIGRTMAX:
        return int(text)
    name = text.upper().removeprefix("SIG")
    for base, number in (("RTMIN+", signals.SIGRTMIN), ("RTMAX-", signals.SIGRTMAX)):
        offset = name.removeprefix(base)
        if offset != name and offset.isascii() and offset.isdigit():
            wanted = number + int(offset) if base == "RTMIN+" else number - int(offset)
            if signals.SIGRTMIN <= wanted <= signals.SIGRTMAX:
                return int(wanted)
    try:
        return int(signals.Signals[f"SIG{name}"])
    except KeyError:
        raise BundleError(
            f"signal {text!r}: unknown", cure="give a name as in `kill -l` (TERM, SIGRTMIN+3) or a number"
        ) from None


@cache
def _available(rootless: bool) -> frozenset[str]:
    """A user namespace of our own starts with every capability; real root has what its bounding set has."""
    known = available_capabilities()
    return known if rootless else known & bounding_capabilities()
