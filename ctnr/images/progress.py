"""What a pull tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`id` names a layer (short digest) or the image, `what` is done to it; `done` and `total` count bytes."""

    id: str
    what: str
    done: int = 0
    total: int | None = None


Report = Callable[[Progress], None]
