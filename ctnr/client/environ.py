"""The caller's environment without `os`: text in, text out, bytes that are not UTF-8 as surrogate escapes."""

from __future__ import annotations

import posix


def lookup(name: str) -> str | None:
    """The value of the variable; None if it is not set."""
    value = posix.environ.get(name.encode("utf-8", "surrogateescape"))
    return None if value is None else value.decode("utf-8", "surrogateescape")


def names() -> list[str]:
    """All names that are set, sorted."""
    return sorted([name.decode("utf-8", "surrogateescape") for name in posix.environ])


def absolute(path: str) -> str:
    """The path seen from the caller's directory. Links and `..` are left to the kernel, which knows better."""
    if path.startswith("/"):
        return path
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    directory = posix.getcwd()
    return directory if path in ("", ".") else f"{directory.rstrip('/')}/{path}"
