"""Where each millisecond of a warm `run --rm` with slirp goes: the engine's own steps, timed from outside."""

from __future__ import annotations

import functools
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import trio

from ctnr import requests
from ctnr.assembly import Assembly
from ctnr.daemon import configure_logging
from ctnr.engine import Engine
from supervisor import open_supervisor
from supervisor.network.attach import Networks
from supervisor.network.netns import NetnsPool
from supervisor.round import Round
from supervisor.runtime.oci import Runtime
from supervisor.runtime.stdio import Stdio
from supervisor.sandbox.sandbox import Sandbox

ROUNDS = 40
STEPS: tuple[tuple[str, type, str], ...] = (
    ("image looked up, record and bundle made", Engine, "create"),
    ("overlay mounted", Sandbox, "mount_overlay"),
    ("network namespace taken, made beforehand", NetnsPool, "take"),
    ("slirp4netns started, until its network works", Networks, "attach"),
    ("user, command, config.json", Assembly, "_build"),
    ("files written into the sandbox", Sandbox, "write_files"),
    ("crun, until the program is executed", Runtime, "run"),
    ("clean-up: runtime, slirp4netns, netns, mount", Round, "_take_down"),
    ("record and bundle removed", Engine, "_finish"),
)


def measure_steps(rootfs: Path, directory: Path, whole_milliseconds: float) -> list[tuple[str, float]]:
    """Medians in ms. `whole_milliseconds` is what the whole command takes: the client's part is the rest of it."""
    taken: dict[str, list[float]] = defaultdict(list)
    configure_logging("error")
    with ExitStack() as stack:
        for name, owner, method in STEPS:
            stack.enter_context(patch.object(owner, method, _timed(getattr(owner, method), taken[name])))
        trio.run(_run_often, rootfs, directory, taken)
    steps = [(name, statistics.median(taken[name])) for name, _, _ in STEPS]
    python = statistics.median(_bare_python() for _ in range(ROUNDS))
    rest = whole_milliseconds - statistics.median(taken["whole"]) - python
    return [
        ("start of the client's Python", python),
        ("the client's own code, and the way to the service and back", rest),
        *steps,
    ]


def _timed(function: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def timed(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return await function(*args, **options)
        finally:
            into.append((time.perf_counter() - start) * 1000)

    return timed


async def _run_often(rootfs: Path, directory: Path, taken: dict[str, list[float]]) -> None:
    run_dir = directory / "run"
    run_dir.mkdir(mode=0o700)
    async with open_supervisor(str(run_dir)) as supervisor:
        engine = Engine(str(directory / "store"), supervisor, runtime_dir=str(run_dir))
        await engine.images.import_rootfs(
            str(rootfs), "demo", sandbox=engine.sandbox, report=lambda *_: None, config={}
        )
        request = requests.Run(
            version="", image="demo", args=("true",), networks=("slirp",), remove=True, rootless=True
        )
        for number in range(ROUNDS + 3):
            if number == 3:
                for values in taken.values():
                    values.clear()
            start = time.perf_counter()
            record = await engine.create(request, lambda *_: None)
            container = await engine.start(record, Stdio())
            await container.wait_gone()
            taken["whole"].append((time.perf_counter() - start) * 1000)


def _bare_python() -> float:
    start = time.perf_counter()
    subprocess.run(["/usr/bin/python3", "-I", "-S", "-c", ""], check=True)
    return (time.perf_counter() - start) * 1000
