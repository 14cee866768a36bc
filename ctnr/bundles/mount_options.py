"""Options of a mount: parsed, checked against each other, and completed with what the source's mount is locked to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import msgspec

from ctnr.bundles.errors import BundleError

PROPAGATIONS = frozenset(
    f"{recursive}{kind}" for recursive in ("", "r") for kind in ("private", "shared", "slave", "unbindable")
)

# Every pair excludes itself: the one that comes later wins, as with mount(8).
_PAIRS = (
    ("ro", "rw"),
    ("nosuid", "suid"),
    ("nodev", "dev"),
    ("noexec", "exec"),
    ("noatime", "atime"),
    ("nodiratime", "diratime"),
    ("relatime", "norelatime"),
    ("strictatime", "nostrictatime"),
    ("sync", "async"),
)
_flag_names = frozenset(name for pair in _PAIRS for name in pair)
_opposite = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
_NUMBER, _AMOUNT = r"\d+", r"\d+[kKmMgGtT]?"
# tmpfs(5); the kernel's own answer to all others is "Invalid argument"
_TMPFS_VALUES = {
    "size": rf"{_AMOUNT}|\d+%", "nr_inodes": _AMOUNT, "nr_blocks": _AMOUNT, "mode": "[0-7]{1,4}", "uid": _NUMBER,
    "gid": _NUMBER, "huge": "never|always|within_size|advise", "mpol": ".+",
}  # fmt: skip

# statvfs(3) flag → option: what a mount has from a more privileged mount namespace can't be taken off in a user
# namespace (mount_namespaces(7), "Restrictions"): a remount without them is EPERM. Access times are locked too, but
# a remount that does not speak of them keeps them.
_LOCKABLE = (
    (os.ST_RDONLY, "ro"),
    (os.ST_NOSUID, "nosuid"),
    (os.ST_NODEV, "nodev"),
    (os.ST_NOEXEC, "noexec"),
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `flags` are mount(8)'s words, `data` the file system's own (size=64m)."""

    flags: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    propagation: str | None = None
    recursive: bool = True
    recursive_read_only: bool | None = None  # None: where the kernel can
    chown: bool = False  # U: the files become the container user's
    copy_up: bool | None = None  # None: the kind's default

    @property
    def read_only(self) -> bool:
        return "ro" in self.flags


def parse_options(words: Iterable[str], *, what: str, kind: str) -> Options:
    """Options of a mount of `kind` (bind, volume, tmpfs); `what` names it in errors.

    Raises: BundleError for an unknown word, or one that the kind does not have.
    """
    flags: dict[str, None] = {}
    data: list[str] = []
    propagation: str | None = None
    recursive, recursive_read_only, chown = True, None, False
    copy_up: bool | None = None
    for word in words:
        if word in _flag_names:
            flags.pop(_opposite[word], None)
            flags[word] = None
        elif word in PROPAGATIONS:
            propagation = word
        elif kind == "tmpfs" and word.partition("=")[0] in _TMPFS_VALUES:
            name, _, value = word.partition("=")
            if not re.fullmatch(_TMPFS_VALUES[name], value, re.ASCII):
                raise BundleError(
                    f"{what}: {name} can't be {value!r}", cure="for example size=64m, or mode=1777"
                )
            data.append(word)
        elif kind == "tmpfs" and word in ("tmpcopyup", "notmpcopyup"):
            copy_up = word == "tmpcopyup"
        elif kind == "tmpfs":
            raise _unknown(word, what, kind)
        elif word == "rro":
            flags.pop("rw", None)
            flags["ro"] = None
            recursive_read_only = True
        elif word in ("bind", "rbind"):
            recursive = word == "rbind"
        elif word == "U":
            chown = True
        elif kind == "volume" and word in ("copy", "nocopy"):
            copy_up = word == "copy"
        elif word in ("z", "Z", ""):
            continue  # labels: containers get none from us, so SELinux has nothing to keep apart
        elif word not in (
            "consistent",
            "cached",
            "delegated",
        ):  # Docker Desktop's words; no meaning on Linux
            raise _unknown(word, what, kind)
    return Options(
        flags=tuple(flags),
        data=tuple(data),
        propagation=propagation,
        recursive=recursive,
        recursive_read_only=recursive_read_only,
        chown=chown,
        copy_up=copy_up,
    )


def bind_options(
    options: Options, source: str, *, what: str, rootless: bool, recursive_ro: bool
) -> tuple[str, ...]:
    """The OCI options of a bind mount of `source`; `recursive_ro`: the kernel has mount_setattr(2) (Linux 5.12).

    Raises: BundleError if something is asked for that the source's mount is locked against.
    """
    flags = dict.fromkeys(options.flags)
    for default in ("nosuid", "nodev"):  # podman's, unless the opposite is asked for
        if _opposite[default] not in flags:
            flags[default] = None
    if rootless:
        _add_locked(flags, source, what)
    is_tree = options.recursive and (os.path.isdir(source) or not os.path.exists(source))
    if (
        "ro" in flags and options.recursive_read_only is not False and is_tree
    ):  # crun wants a directory for rro
        if recursive_ro:
            flags["rro"] = None
        elif options.recursive_read_only:
            raise BundleError(
                f"{what}: rro needs Linux 5.12", cure="use ro, and mount no writable file system below it"
            )
    return ("rbind" if options.recursive else "bind", options.propagation or "rprivate", *flags)


def tmpfs_options(options: Options, *, copy_up: bool = True) -> tuple[str, ...]:
    """The OCI options of a tmpfs: podman's defaults, and those of `options`."""
    flags = dict.fromkeys(options.flags)
    for default in ("nosuid", "nodev", "noexec"):
        if _opposite[default] not in flags:
            flags[default] = None
    wanted = copy_up if options.copy_up is None else options.copy_up
    return (*flags, options.propagation or "rprivate", *options.data, *(("tmpcopyup",) if wanted else ()))


def _add_locked(flags: dict[str, None], source: str, what: str) -> None:
    try:
        locked = os.statvfs(source).f_flag
    except OSError:
        return  # not ours to look at; the runtime tells
    for bit, name in _LOCKABLE:
        if not locked & bit or name in flags:
            continue
        if _opposite[name] in flags:
            raise BundleError(
                f"{what}: {_opposite[name]} is not possible, the mount of {source} is {name}, which a user can't undo",
                cure=f"remount it with {_opposite[name]} as root, or leave out the option",
            )
        flags[name] = None


def _unknown(word: str, what: str, kind: str) -> BundleError:
    if word == "O":
        return BundleError(f"{what}: option O (overlay) is not supported", cure="use ro, or a named volume")
    if word.partition("=")[0] == "idmap":
        return BundleError(
            f"{what}: option idmap is not supported", cure="use U to give the files to the user"
        )
    cures = {
        "bind": "ro, rw, rro, z, Z, U, bind, [no]exec, [no]suid, [no]dev, [r]private, [r]shared, [r]slave",
        "volume": "ro, rw, z, Z, U, copy, nocopy, [no]exec, [no]suid, [no]dev",
        "tmpfs": "ro, rw, size=, mode=, uid=, gid=, [no]exec, [no]suid, [no]dev, [no]tmpcopyup",
    }
    return BundleError(f"{what}: unknown option {word!r}", cure=f"options are: {cures[kind]}")
