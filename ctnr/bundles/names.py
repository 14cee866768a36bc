"""The names of a container: they stand in paths, in /etc/hosts and in the kernel, so not every text will do."""

from __future__ import annotations

import re

from ctnr.bundles.errors import BundleError

HOSTNAME_BYTES_MAX = 64  # sethostname(2)

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?")


def check_names(name: str | None, hostname: str | None) -> None:
    """--name and --hostname, where they are given. Raises: BundleError."""
    if name is not None and not _NAME.fullmatch(name):
        raise BundleError(
            f"container name {name!r}: not letters, digits, _ . -", cure="for example --name=web"
        )
    if hostname is None:
        return
    if not _HOSTNAME.fullmatch(hostname):
        raise BundleError(
            f"hostname {hostname!r}: not letters, digits, _ . -", cure="for example --hostname=web"
        )
    if len(hostname) > HOSTNAME_BYTES_MAX:
        raise BundleError(
            f"hostname {hostname}: {len(hostname)} characters, and the kernel takes {HOSTNAME_BYTES_MAX}",
            cure="choose a shorter one",
        )
