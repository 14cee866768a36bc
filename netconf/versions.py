"""The versions of the CNI spec: which exist, which allows what, and which one to speak."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from netconf.errors import NetconfError

RELEASED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CURRENT = RELEASED[-1]
OLDEST = RELEASED[0]  # also what a config that names no version is

# The first version that knows each command.
_SINCE = {
    "ADD": "0.1.0",
    "DEL": "0.1.0",
    "VERSION": "0.1.0",
    "CHECK": "0.4.0",
    "GC": "1.1.0",
    "STATUS": "1.1.0",
}


def parse_version(text: str, *, file: str | None = None, field: str = "cniVersion") -> tuple[int, int, int]:
    """`1.1.0` → (1, 1, 0), with the missing parts of `1.1` or `1` as 0.

    Raises: NetconfError.
    """
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6}){0,2}", text):
        raise NetconfError(
            f"{text!r} is not a version", file=file, field=field, expected="a version such as 1.0.0"
        )
    major, minor, micro = ([int(part) for part in text.split(".")] + [0, 0])[:3]
    return major, minor, micro


def normal_version(text: str, *, file: str | None = None, field: str = "cniVersion") -> str:
    """The version written in full; none at all is 0.1.0. Raises: NetconfError."""
    if not text:
        return OLDEST
    return ".".join(map(str, parse_version(text, file=file, field=field)))


def supports(version: str, command: str) -> bool:
    """Does the spec of that version know the command?"""
    return parse_version(version) >= parse_version(_SINCE[command])


def passes_result_to_del(version: str) -> bool:
    """Since 0.4.0 a DEL gets the result of the ADD."""
    return parse_version(version) >= (0, 4, 0)


def usable_versions(
    cni_version: str, cni_versions: Iterable[str] = (), *, file: str | None = None
) -> tuple[str, ...]:
    """The versions that a config allows and this runtime speaks, lowest first.

    CNI 1.1.0 section 1, "Version considerations".
    Entries of `cni_versions` that are newer than the runtime are passed over, as the spec wants it.
    Raises: NetconfError if none is left, or if one is malformed.
    """
    entries = list(cni_versions)
    asked = {normal_version(entry, file=file, field=f"cniVersions[{i}]") for i, entry in enumerate(entries)}
    if cni_version or not entries:
        asked.add(normal_version(cni_version, file=file))
    usable = tuple(version for version in RELEASED if version in asked)
    if not usable:
        raise NetconfError(
            f"{', '.join(sorted(asked))} is not a CNI version that this program speaks",
            file=file,
            field="cniVersion",
            expected=f"one of {', '.join(RELEASED)}",
            cure=f'set "cniVersion": "{CURRENT}", or add an older one to "cniVersions"',
        )
    return usable


def needs_probe(allowed: Collection[str]) -> bool:
    """Can what the plugins answer to VERSION change the choice of `agreed_version`?

    Below 1.1.0 a lone version is simply used: living plugins know it, and one that doesn't says so itself.
    """
    return len(allowed) > 1 or parse_version(max(allowed, key=parse_version)) >= (1, 1, 0)


def agreed_version(allowed: Collection[str], supported: Iterable[Collection[str]]) -> str | None:
    """The highest version that the config allows and every plugin supports.

    If there is none, a lower one of the same major version serves: formats are compatible within one, and a
    config for 1.1.0 can so run with plugins that end at 1.0.0. None if there is no such either.
    """
    common = set(RELEASED)
    for versions in supported:
        common &= set(versions)
    by_age = sorted(common, key=parse_version, reverse=True)
    for version in by_age:
        if version in allowed:
            return version
    highest = parse_version(max(allowed, key=parse_version))
    for version in by_age:
        parsed = parse_version(version)
        if parsed[0] == highest[0] and parsed < highest:
            return version
    return None
