"""Names that travel through CNI, with the spec's limits and the kernel's."""

from __future__ import annotations

import re

from netconf.errors import NetconfError

_IDENTIFIER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_IDENTIFIER_TEXT = "letters, digits, '_', '.' and '-', the first of them a letter or digit"
_NAME_MAX = 255  # plugins make files of these names
_IFNAMSIZ = 16  # with the closing NUL


def check_network_name(name: str, *, file: str | None = None, field: str | None = None) -> str:
    """`name` itself. Raises: NetconfError if CNI 1.1.0 section 1 does not allow it."""
    return _check_identifier("network name", name, file, field)


def check_container_id(container_id: str) -> str:
    """`container_id` itself. Raises: NetconfError if CNI 1.1.0 section 2 does not allow it."""
    return _check_identifier("container id", container_id, None, None)


def check_ifname(ifname: str) -> str:
    """`ifname` itself. Raises: NetconfError if the kernel would refuse an interface of that name."""
    what = f"interface name {ifname!r}"
    if not ifname or ifname in (".", ".."):
        raise NetconfError(f"{what} is not allowed", expected="a name such as eth0")
    if len(ifname.encode("utf-8", "surrogatepass")) >= _IFNAMSIZ:
        raise NetconfError(f"{what} is too long", expected=f"at most {_IFNAMSIZ - 1} bytes")
    # '%' would be a pattern to the kernel ("eth%d"), not a name.
    if re.search(r"[/:%\s\0]", ifname) or not ifname.isprintable():
        raise NetconfError(
            f"{what} is not allowed", expected="no '/', ':', '%', white space or control character in it"
        )
    return ifname


def check_plugin_type(name: str, *, file: str | None = None, field: str | None = None) -> str:
    """`name` itself. Raises: NetconfError if it can't be the file name of an executable."""
    if not name or name in (".", "..") or "/" in name or not name.isprintable():
        raise NetconfError(
            f"{name!r} can't be a plugin",
            file=file,
            field=field,
            expected='the file name of a plugin, such as "bridge"',
        )
    return name


def _check_identifier(what: str, name: str, file: str | None, field: str | None) -> str:
    if not name:
        raise NetconfError(f"{what} is empty", file=file, field=field, expected=_IDENTIFIER_TEXT)
    if not _IDENTIFIER.fullmatch(name):
        raise NetconfError(
            f"{what} {name!r} is not allowed", file=file, field=field, expected=_IDENTIFIER_TEXT
        )
    if len(name) > _NAME_MAX:
        raise NetconfError(
            f"{what} {name[:20]}… is too long", file=file, field=field, expected=f"at most {_NAME_MAX} bytes"
        )
    return name
