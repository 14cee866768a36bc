"""What is mounted into a container besides the defaults: -v, --mount, --tmpfs and the image's volumes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ctnr.bundles.errors import BundleError
from ctnr.bundles.mount_options import Options, bind_options, parse_options, tmpfs_options
from ctnr.bundles.spec import Mount

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


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
    """Mounts in the order in which they can be made, directories to make first, and what to do with them."""

    mounts: tuple[Mount, ...]
    directories: tuple[str, ...]
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


def plan_mounts(
    wishes: Sequence[Wish],
    image_volumes: Iterable[str],
    *,
    volume_root: str,
    anonymous_root: str,
    rootless: bool,
    recursive_ro: bool,
) -> MountPlan:
    """Everything about volumes, with errors before anything is made.

    Named volumes live below `volume_root` (NAME/_data), anonymous ones below `anonymous_root`.
    Raises: BundleError for a missing source or two mounts at one place.
    """
    taken: dict[str, str] = {}
    for wish in wishes:
        if wish.target in taken:
            raise BundleError(
                f"{wish.what}: {taken[wish.target]} is mounted at {wish.target} already",
                cure="leave out one",
            )
        taken[wish.target] = wish.what
    volumes = [
        Wish(
            kind="volume",
            source="",
            target=os.path.normpath(path),
            options=Options(),
            what=f"the image's volume {path}",
        )
        for path in image_volumes
        if os.path.normpath(path) not in taken
    ]
    mounts, directories, copies, chowns = [], [], [], []
    for wish in sorted([*wishes, *volumes], key=lambda one: (one.target.count("/"), one.target)):
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
            name = source or re.sub(r"[^a-zA-Z0-9_.-]", "_", wish.target.strip("/")) or "root"
            source = f"{volume_root}/{name}/_data" if wish.source else f"{anonymous_root}/{name}"
            directories.append(source)
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
    return MountPlan(
        mounts=tuple(mounts), directories=tuple(directories), copies=tuple(copies), chowns=tuple(chowns)
    )


def _wish(kind: str, source: str, target: str, words: list[str], what: str) -> Wish:
    if not target.startswith("/"):
        raise BundleError(
            f"{what}: the target {target!r} is not an absolute path", cure="give SOURCE:/TARGET"
        )
    target = os.path.normpath(target).replace("//", "/")
    if target == "/":
        raise BundleError(f"{what}: nothing can be mounted on /", cure="choose a directory below it")
    if kind == "volume" and source and not _VOLUME_NAME.fullmatch(source):
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
