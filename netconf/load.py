"""Finding networks: the directories, the order of the files, and the built-in networks under them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

import msgspec

from netconf.conf import NetworkList
from netconf.decode import UNREADABLE
from netconf.errors import NetconfError, NetworkNotFound
from netconf.names import check_network_name

_EXTENSIONS = (".conflist", ".conf", ".json")
_SIZE_LIMIT = 1 << 20  # bytes; real configs have a few hundred
_BUILTIN_DIR = os.path.join(os.path.dirname(__file__), "builtin")
BUILTIN_PREFIX = "built-in network "


def search_path(environ: Mapping[str, str], home: str | None) -> tuple[str, ...]:
    """The directories with config files: NETCONFPATH's if it is set, else ~/.cni/net.d, /etc/cni/net.d."""
    if configured := tuple(part for part in environ.get("NETCONFPATH", "").split(":") if part):
        return configured
    own = (os.path.join(home, ".cni/net.d"),) if home else ()
    return (*own, "/etc/cni/net.d")


def load_network(name: str, directories: Sequence[str]) -> NetworkList:
    """The network of that name: from the first file of the first directory that has it, else the built-in.

    A broken file is an error only if it is the one asked for, as far as can be told from what is in it.
    Raises: NetconfError; NetworkNotFound if there is none, with the broken files named.
    """
    check_network_name(name)
    known: set[str] = set()
    broken: list[_Broken] = []
    for found in _read_all(directories):
        if found.name == name:
            if isinstance(found, NetworkList):
                return found
            raise found.error
        if isinstance(found, NetworkList):
            known.add(found.name)
        else:
            broken.append(found)
    raise _not_found(name, directories, known, [item.error for item in broken])


def list_networks(directories: Sequence[str]) -> tuple[tuple[NetworkList, ...], tuple[NetconfError, ...]]:
    """Every network that `load_network` would find, by name, and what is wrong with the other files."""
    networks: dict[str, NetworkList] = {}
    claimed: set[str] = set()
    errors: list[NetconfError] = []
    for found in _read_all(directories):
        if isinstance(found, NetworkList):
            if found.name not in claimed:
                networks.setdefault(found.name, found)
        else:
            errors.append(found.error)
            if found.name is not None and found.name not in networks:
                claimed.add(found.name)
    return tuple(networks[name] for name in sorted(networks)), tuple(errors)


def load_file(path: str) -> NetworkList:
    """The network in that file, with the plugins of the folder beside it that has the network's name.

    Raises: NetconfError.
    """
    raw = _read_file(path)
    return NetworkList.from_bytes(raw, path, more_plugins=_folder_plugins(path, raw))


def builtin_names() -> tuple[str, ...]:
    return tuple(
        entry.removesuffix(".conflist")
        for entry in sorted(os.listdir(_BUILTIN_DIR))
        if entry.endswith(".conflist")
    )


@cache  # every run asks for all of them, and they change with the program only
def load_builtin(name: str) -> NetworkList:
    """A network that comes with the program. Raises: NetworkNotFound."""
    if name not in builtin_names():
        raise NetworkNotFound(
            f"there is no built-in network {name}", expected=f"one of {', '.join(builtin_names())}"
        )
    with open(os.path.join(_BUILTIN_DIR, f"{name}.conflist"), "rb") as file:
        return NetworkList.from_bytes(file.read(), BUILTIN_PREFIX + name)


def is_builtin(network: NetworkList) -> bool:
    """Does it come with the program, rather than from a file of the user's?"""
    return network.source.startswith(BUILTIN_PREFIX)


class _Broken:
    """A file that can't be read, and the network it seems to be meant for, if that can be told."""

    def __init__(self, name: str | None, error: NetconfError) -> None:
        self.name, self.error = name, error


def _read_all(directories: Iterable[str]) -> Iterator[NetworkList | _Broken]:
    """All files in order of precedence, then the built-ins."""
    for directory in directories:
        try:
            paths = _config_files(directory, _EXTENSIONS)
        except OSError as exc:
            yield _Broken(None, _unreadable(directory, exc, "a directory that you may read"))
            continue
        for path in paths:
            try:
                yield load_file(path)
            except NetconfError as exc:
                yield _Broken(_claimed_name(path), exc)
    for name in builtin_names():
        yield load_builtin(name)


def _config_files(directory: str, extensions: tuple[str, ...]) -> list[str]:
    """In lexical order over all the extensions. No such directory is as good as an empty one."""
    try:
        entries = sorted(os.listdir(directory), key=os.fsencode)
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = (os.path.join(directory, entry) for entry in entries if os.path.splitext(entry)[1] in extensions)
    return [path for path in paths if not os.path.isdir(path)]


def _folder_plugins(path: str, raw: bytes) -> list[tuple[str, bytes]]:
    """libcni 1.3: `NETNAME/*.conf` beside the list's file, unless the list says loadOnlyInlinedPlugins."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        name = check_network_name(msgspec.json.decode(fields["name"], type=str))
    except (*UNREADABLE, KeyError, NetconfError):
        return []  # from_bytes says what is wrong
    folder = os.path.join(os.path.dirname(path), name)
    try:
        return [(plugin, _read_file(plugin)) for plugin in _config_files(folder, (".conf",))]
    except OSError as exc:
        raise _unreadable(folder, exc, "a directory that you may read") from exc


def _read_file(path: str) -> bytes:
    try:
        # Not blocking: a fifo of that name must not hang the program.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise _unreadable(path, exc, "a file that you may read") from exc
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NetconfError("is not a file", file=path, expected="a regular file")
        try:
            raw = file.read(_SIZE_LIMIT + 1)
        except OSError as exc:
            raise _unreadable(path, exc, "a file that you may read") from exc
    if len(raw) > _SIZE_LIMIT:
        raise NetconfError(
            "is too big for a network config", file=path, expected=f"at most {_SIZE_LIMIT} bytes"
        )
    return raw


def _unreadable(path: str, exc: OSError, expected: str) -> NetconfError:
    reason = (exc.strerror or str(exc)).lower()
    cure = f"chmod a+rX {path}" if isinstance(exc, PermissionError) else None
    return NetconfError(f"can't be read: {reason}", file=path, expected=expected, cure=cure)


def _claimed_name(path: str) -> str | None:
    """The network that a broken file is meant for: its `name`, else the file's (`10-web.conf` → web)."""
    try:
        raw = _read_file(path)
    except NetconfError:
        raw = b""
    found = re.search(rb'"name"\s*:\s*"([a-zA-Z0-9][a-zA-Z0-9_.\-]*)"', raw)
    if found:
        return found[1].decode()
    stem = os.path.splitext(os.path.basename(path))[0]
    return re.sub(r"^\d+[-_]", "", stem) or None


def _not_found(
    name: str, directories: Sequence[str], known: set[str], errors: Sequence[NetconfError]
) -> NetworkNotFound:
    import difflib  # only for this message

    reason = f"network {name} is not known: no file in {', '.join(directories) or 'any directory'} has it"
    if errors:
        reason += "; broken files there: " + "; ".join(error.message for error in errors)
    close = difflib.get_close_matches(name, sorted(known), n=1)
    cure = f"did you mean {close[0]}? " if close else ""
    cure += f"use one of {', '.join(sorted(known))}"
    if directories:
        cure += f", or write {os.path.join(directories[0], name)}.conflist"
    return NetworkNotFound(reason, cure=cure)
