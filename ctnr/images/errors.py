"""Errors of tasks side by side: people are told one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from supervisor.errors import SupervisorError


@contextmanager
def one_error() -> Iterator[None]:
    """Around a nursery: of several errors at once the most telling one leaves, alone.

    Layers of a broken image may fail at the same moment, and the copy fails when its layers do. Cancellation and what
    else is no Exception leaves as it is.
    """
    try:
        yield
        return
    except ExceptionGroup as group:
        errors = list(_leaves(group))
    raise next((error for error in errors if isinstance(error, SupervisorError)), errors[0])


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
