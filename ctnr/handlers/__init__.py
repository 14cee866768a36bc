"""Requests of clients, one function each. What they do is `engine`'s; what stands here is who waits for what."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec

from ctnr.engine import Engine
from ctnr.handlers import (
    files,
    images,
    life,
    limits,
    logs,
    looking,
    networks,
    ports,
    running,
    system,
    upkeep,
    volumes,
    watching,
)
from supervisor.service.server import Handler

ROOMS = (
    running,
    life,
    limits,
    looking,
    watching,
    logs,
    files,
    images,
    networks,
    volumes,
    upkeep,
    ports,
    system,
)


def build_handlers(engine: Engine) -> Mapping[type[msgspec.Struct], Handler]:
    """The table of the service."""
    return {kind: partial(handler, engine) for room in ROOMS for kind, handler in room.TABLE.items()}
