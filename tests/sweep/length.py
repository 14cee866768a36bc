"""How long the sweeps are: `CTNR_SWEEP_STRIDE` says it for all of them. 1 (make torture) is every point."""

from __future__ import annotations

import os

STRIDE = int(os.environ.get("CTNR_SWEEP_STRIDE", "0"))  # 0: each sweep's own, short enough for CI
FULL = STRIDE == 1

COVERED: list[str] = []
"""What the sweeps of this session covered, a line each; shown at its end."""


def stride(short: int) -> int:
    """How far apart the points of a sweep lie that can afford one in `short` in CI."""
    return STRIDE or short


def amount(short: int, full: int) -> int:
    """How often: `short` in CI, `full` at full length."""
    return full if FULL else short


def covered(what: str) -> None:
    """Tell at the end of the session what was covered."""
    COVERED.append(what)
