"""Exceptions that leave a nursery come in groups; callers get their own exception back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def single_error(exc: Exception) -> Exception:
    """The error in a group of one; a group of several stays one, and each keeps its place in it."""
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


@contextmanager
def bare_errors() -> Iterator[None]:
    """Around a nursery that callers should not see: a group of one leaves as that one, with its own context."""
    try:
        yield
        return
    except BaseExceptionGroup as group:
        bare: BaseException = group
    while isinstance(bare, BaseExceptionGroup) and len(bare.exceptions) == 1:
        bare = bare.exceptions[0]
    context = bare.__context__
    try:
        raise bare
    finally:
        bare.__context__ = context  # `raise` made it the group, which the caller's `with` handles meanwhile
        del bare
