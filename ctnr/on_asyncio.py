"""`ctnr.open_engine` for asyncio programs. How: `supervisor.on_asyncio`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial

from ctnr import embedded
from ctnr.embedded import EmbeddedEngine
from ctnr.images.progress import Report
from supervisor.on_asyncio import open_group, open_on_asyncio, open_supervisor

__all__ = ["open_engine", "open_group", "open_supervisor"]


def open_engine(
    store_dir: str | None = None,
    *,
    run_dir: str | None = None,
    runtime: str | None = None,
    report: Report = embedded.tell_nobody,
) -> AbstractAsyncContextManager[EmbeddedEngine]:
    """As `ctnr.open_engine`, in an asyncio program."""
    return open_on_asyncio(
        partial(embedded.open_engine, store_dir, run_dir=run_dir, runtime=runtime, report=report)
    )
