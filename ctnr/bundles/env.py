"""A process's environment: ours, the image's, then what was asked for. Later wins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ctnr.bundles.defaults import PATH
from ctnr.bundles.errors import BundleError


def build_env(
    image: Iterable[str], wanted: Sequence[str], *, hostname: str, home: str, term: str | None
) -> tuple[str, ...]:
    """The environment as NAME=VALUE.

    `wanted` comes from the client in the order of its options, host proxy variables first, with `-e NAME` and
    `--env-file` already resolved. `term` is the kind of the terminal, None without one. `home` counts only if
    neither the image nor the user sets HOME.

    Raises: BundleError for an entry without a name, or with a NUL.
    """
    env = {"PATH": PATH, "HOSTNAME": hostname, "container": "ctnr"}
    if term is not None:
        env["TERM"] = term
    for entry in image:
        name, equals, value = entry.partition("=")
        if name and equals:  # other entries are the image's mistake: podman ignores them too
            env[name] = value
    for entry in wanted:
        name, equals, value = entry.partition("=")
        if not name or not equals or "\0" in entry:
            raise BundleError(f"environment variable {entry!r}: no NAME=VALUE", cure="give -e NAME=VALUE")
        env[name] = value
    env.setdefault("HOME", home)
    return tuple(f"{name}={value}" for name, value in env.items())
