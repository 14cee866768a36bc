"""A program that does one thing to an image store, and is killed at its n-th step, or from outside.

It starts once and forks for every request, so a point costs no start of Python. stdin: a JSON object per line, `What`;
stdout: `pid N` when the work begins, and `ended STATUS` (as waitpid gives it) when it is over.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import trio

from ctnr.images.export import export_image
from ctnr.images.fsck import repair_store
from ctnr.images.garbage import collect_garbage
from ctnr.images.store import ImageStore
from supervisor.sandbox.sandbox import Sandbox, open_sandbox


class KillAtStep(trio.abc.Instrument):
    """SIGKILL for this process before its n-th step of any task; with 0 never."""

    def __init__(self, step: int) -> None:
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def do(what: dict[str, Any], store: ImageStore, sandbox: Sandbox) -> None:
    """The one thing: pull, import, export, gc or repair, as `what` says."""

    async def give() -> Sandbox:
        return sandbox

    if what["op"] == "pull":
        await store.pull(what["reference"], sandbox=give, policy="insecure", mode="always")
    elif what["op"] == "import":
        await store.import_rootfs(what["source"], what["name"], sandbox=give)
    elif what["op"] == "export":
        await export_image(store, what["reference"], what["destination"])
    elif what["op"] == "gc":
        await collect_garbage(store, sandbox=give, used=tuple, every=True)
    else:
        await repair_store(store, sandbox=give, used=set, busy=set)


async def _work(what: dict[str, Any]) -> None:
    os.makedirs(what["run_dir"], exist_ok=True)
    async with open_sandbox(what["run_dir"], rootless=False) as sandbox:
        sys.stdout.write(f"pid {os.getpid()}\n")
        sys.stdout.flush()
        trio.lowlevel.add_instrument(KillAtStep(what["step"]))
        await do(what, ImageStore(what["root"]), sandbox)


def main() -> None:
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            status = 1
            try:
                trio.run(_work, json.loads(line))
                status = 0
            except Exception as exc:
                sys.stderr.write(f"{exc}\n")
                sys.stderr.flush()
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"ended {status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
