"""What programs without a trio loop of their own get instead of our objects: which are live, and the way back."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import trio

_OURS = ("supervisor", "ctnr")
_PLAIN = (msgspec.Struct, enum.Enum, tuple, BaseException)


def is_live(value: Any) -> bool:
    """Whether it is of use in its trio loop only: an object of ours that is no plain data, a stream, an iterator."""
    kind = type(value)
    ours = kind.__module__.partition(".")[0] in _OURS
    plain = isinstance(value, _PLAIN) or dataclasses.is_dataclass(kind)
    return (ours and not plain) or isinstance(value, (trio.abc.AsyncResource, AsyncIterator))


def unwrap(value: Any) -> Any:
    """What a proxy (or a method of one) stands for; anything else as it is."""
    return getattr(value, "_trio", value)
