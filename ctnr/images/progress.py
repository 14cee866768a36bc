"""What a pull, or the making of a container, tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`id` names a layer (short digest) or the image, `what` is done to it; `done` and `total` count bytes.

    A `warning` tells what is probably not meant; `id` is what it is about.
    """

    id: str
    what: str
    done: int = 0
    total: int | None = None
    warning: bool = False


Report = Callable[[Progress], None]
