"""Moments as people write and read them: --since, --until, and the times of events."""

from __future__ import annotations

import time

from ctnr.client.errors import UsageError


def parse_moment(text: str, flag: str) -> float:
    """Unix seconds from a number, a date (RFC 3339) or how long ago (``10m``). Raises: UsageError."""
    from datetime import datetime

    from ctnr.cli.grammar import parse_seconds

    try:
        return float(text)
    except ValueError:
        pass
    try:
        return time.time() - parse_seconds(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        cure = "2026-01-31T12:00:00, a time ago such as 10m, or Unix seconds"
        raise UsageError(f"{flag}={text}: not a moment", cure=cure) from None
