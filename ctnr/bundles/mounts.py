"""What is mounted into a container besides the defaults: -v, --mount, --tmpfs and the image's volumes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ctnr.bundles.errors import BundleError
from ctnr.bundles.mount_options import Options, bind_options, parse_options, tmpfs_options
from ctnr.bundles.spec import Mount

VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One mount as asked for. `source` is a path (bind), a volume's name, or empty (anonymous volume, tmpfs)."""

    kind: str  # bind, volume, tmpfs
    source: str
    target: str
    options: Options
    what: str  # as the user wrote it, for errors


@dataclass(frozen=True, kw_only=True)
class CopyUp:
    """A volume that takes the image's content at `target` if it is empty."""

    target: str
    directory: str


@dataclass(frozen=True, kw_only=True)
class MountPlan:
    """Mounts in the order in which they can be made, volumes to have first, and what to do with them.

    `volumes` tells of each name whether it is anonymous.
    """

    mounts: tuple[Mount, ...]
    volumes: Mapping[str, bool]
    copies: tuple[CopyUp, ...]
    chowns: tuple[str, ...]


def parse_volume(text: str) -> Wish:
    """`[SOURCE:]TARGET[:OPTIONS]`, as with -v. Raises: BundleError."""
    what = f"volume {text}"
    parts = text.split(":")
    if len(parts) == 1:
        source, target, words = "", parts[0], ""
    elif len(parts) in (2, 3):
        source, target, words = (*parts, "")[:3] if len(parts) == 2 else tuple(parts)
    else:
        raise BundleError(f"{what}: too many colons", cure="give SOURCE:TARGET[:OPTIONS], or use --mount")
    kind = "bind" if source.startswith(("/", ".")) else "volume"
    return _wish(kind, source, target, words.split(",") if words else [], what)


def parse_mount(text: str) -> Wish:
    """`type=bind,source=…,target=…[,readonly]…`, as with --mount. Raises: BundleError."""
    what = f"mount {text}"
    kind, source, target, words = "volume", "", "", []
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key == "type":
            kind = value
        elif key in ("source", "src"):
            source = value
        elif key in ("target", "destination", "dst"):
            target = value
        elif key in ("readonly", "ro"):
            words.append("ro" if value in ("", "true", "1") else "rw")
        elif key in ("tmpfs-size", "tmpfs-mode", "bind-propagation", "volume-opt"):
            words.append(value if key == "bind-propagation" else f"{key.removeprefix('tmpfs-')}={value}")
        else:
            words.append(part)
    if kind not in ("bind", "volume", "tmpfs"):
        raise BundleError(f"{what}: unknown type {kind!r}", cure="types are bind, volume and tmpfs")
    if kind == "bind" and not source:
        raise BundleError(f"{what}: no source", cure="give type=bind,source=PATH,target=PATH")
    return _wish(kind, source, target, words, what)


def parse_tmpfs(text: str) -> Wish:
    """`TARGET[:OPTIONS]`, as with --tmpfs. Raises: BundleError."""
    target, _, words = text.partition(":")
    return _wish("tmpfs", "", target, words.split(",") if words else [], f"tmpfs {text}")


def with_image_volumes(wishes: Sequence[Wish], image_volumes: Iterable[str]) -> list[Wish]:
    """What was asked for, and the image's volumes where that leaves their place free."""
    taken = {wish.target for wish in wishes}
    places = [place for path in image_volumes if (place := os.path.normpath(path)) not in taken]
    return [
        *wishes,
        *(
            Wish(
                kind="volume", source="", target=place, options=Options(), what=f"the image's volume {place}"
            )
            for place in places
        ),
    ]


def unnamed_places(wishes: Sequence[Wish]) -> list[str]:
    """Where anonymous volumes are to be mounted."""
    return [wish.target for wish in wishes if wish.kind == "volume" and not wish.source]


def plan_mounts(
    wishes: Sequence[Wish],
    anonymous: Mapping[str, str],
    *,
    volume_root: str,
    rootless: bool,
    recursive_ro: bool,
) -> MountPlan:
    """Everything about volumes, with errors before anything is made.

    Volumes live below `volume_root` (NAME/_data); `anonymous` names those that have only a place.
    Raises: BundleError for a missing source or two mounts at one place.
    """
    check_places(wishes)
    mounts, copies, chowns = [], [], []
    volumes: dict[str, bool] = {}
    for wish in sorted(wishes, key=lambda one: (one.target.count("/"), one.target)):
        if wish.kind == "tmpfs":
            mounts.append(
                Mount(
                    destination=wish.target,
                    type="tmpfs",
                    source="tmpfs",
                    options=tmpfs_options(wish.options),
                )
            )
            continue
        source = wish.source
        if wish.kind == "volume":
            name = source or anonymous[wish.target]
            volumes[name] = not wish.source
            source = f"{volume_root}/{name}/_data"
            if wish.options.copy_up is not False:
                copies.append(CopyUp(target=wish.target, directory=source))
        elif not os.path.lexists(source):
            raise BundleError(f"{wish.what}: {source} does not exist on the host", cure=f"mkdir -p {source}")
        if wish.options.chown:
            chowns.append(source)
        known = source if wish.kind == "bind" else os.path.dirname(volume_root)
        options = bind_options(
            wish.options, known, what=wish.what, rootless=rootless, recursive_ro=recursive_ro
        )  # fmt: skip
        mounts.append(Mount(destination=wish.target, type="bind", source=source, options=options))
    return MountPlan(mounts=tuple(mounts), volumes=volumes, copies=tuple(copies), chowns=tuple(chowns))


def check_places(wishes: Sequence[Wish]) -> None:
    """Raises: BundleError for two mounts at one place."""
    taken: dict[str, str] = {}
    for wish in wishes:
        if wish.target in taken:
            raise BundleError(
                f"{wish.what}: {taken[wish.target]} is mounted at {wish.target} already",
                cure="leave out one",
            )
        taken[wish.target] = wish.what


def _wish(kind: str, source: str, target: str, words: list[str], what: str) -> Wish:
    if not target.startswith("/"):
        raise BundleError(
            f"{what}: the target {target!r} is not an absolute path", cure="give SOURCE:/TARGET"
        )
    target = os.path.normpath(target).replace("//", "/")
    if target == "/":
        raise BundleError(f"{what}: nothing can be mounted on /", cure="choose a directory below it")
    if kind == "volume" and source and not VOLUME_NAME.fullmatch(source):
        raise BundleError(
            f"{what}: {source!r} is neither a path nor a volume's name",
            cure="paths start with / or ., names have no /",
        )
    return Wish(
        kind=kind,
        source=source,
        target=target,
        options=parse_options(words, what=what, kind=kind),
        what=what,
    )
