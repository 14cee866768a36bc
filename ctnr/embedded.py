"""The engine for programs: images by reference, containers as blocks. `ctnr` fetches, `supervisor` runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Unpack

import trio

from ctnr import requests
from ctnr.bundles.errors import BundleBusy
from ctnr.client.connect import default_store_dir
from ctnr.engine import Engine, check_runtime_dir
from ctnr.housekeeping import remove_images
from ctnr.images.progress import Progress, Report
from ctnr.images.view import Image, ImageSummary
from ctnr.options import RunOptions, build_run
from ctnr.order import sweep_volumes
from supervisor.container import Container
from supervisor.events import EventReader
from supervisor.exec import run_captured
from supervisor.network.attachment import Attachment
from supervisor.network.ports import PortMapping, parse_all_ports
from supervisor.run_dir import PREFIX, SANDBOX, is_deserted, own_run_dir
from supervisor.runtime.stdio import Stdio
from supervisor.sandbox.process import Completed
from supervisor.supervisor import Supervisor, ending, open_supervisor


class EmbeddedEngine:
    """Runs containers from images. Made by `open_engine`; leaving that block ends them all.

    `supervisor` is what runs them: it takes OCI bundles beside our images.
    """

    def __init__(self, engine: Engine, report: Report) -> None:
        self.store_dir = engine.store_dir
        self.supervisor: Supervisor = engine.supervisor
        self._engine = engine
        self._report = report

    # Containers

    @asynccontextmanager
    async def run(
        self,
        image: str | None,
        args: Sequence[str] = (),
        *,
        stdio: Stdio | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[Container]:
        """A container for as long as the block lasts: leaving it, in whatever way, kills it and waits until it is gone.

        `image` is a name as people write it (`alpine:3.8`, `docker://…`, `oci:DIR`, an id), fetched if it is missing;
        None runs the bundle `bundle=NAME` again. `args` replace the image's command. Output goes to the container's log
        (`Container.logs`), or to the descriptors in `stdio`. What it wrote goes with it, unless `bundle` or
        `remove=False` is given. Entered when its program runs.

        Raises: NotFound, NameInUse, CommandNotFound, CommandNotExecutable, RuntimeFailed, AttachmentError, SandboxError
        and other kinds of SupervisorError (what can not be pulled, wrong options), NetconfError, OSError, TypeError.
        """
        async with ending(await self.start(image, args, stdio=stdio, **options)) as container:
            yield container

    async def start(
        self,
        image: str | None,
        args: Sequence[str] = (),
        *,
        stdio: Stdio | None = None,
        **options: Unpack[RunOptions],
    ) -> Container:
        """As `run` without a block: it lives until it ends, is stopped, or the engine goes. Raises: as `run`."""
        request = build_run(image, args, options)
        record = await self._engine.create(request, self._report)
        try:
            return await self._engine.start(
                record, stdio or Stdio(tty=request.tty), background=stdio is None
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._engine.forget_failed(record)
            raise

    async def run_process(
        self,
        image: str | None,
        args: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        **options: Unpack[RunOptions],
    ) -> Completed:
        """Run a container to its end: its `status` (shell style), `stdout` and `stderr`. Cancelled, it is killed.

        Raises: as `run`.
        """
        options["interactive"] = True

        async def start(stdio: Stdio) -> Container:
            return await self.start(image, args, stdio=stdio, **options)

        return await run_captured(start, stdin)

    @property
    def containers(self) -> tuple[Container, ...]:
        """Those that run or are being started, the oldest first."""
        return tuple(self.supervisor.containers.values())

    def get(self, name_or_id: str) -> Container:
        """One that runs. Raises: NotFound."""
        return self.supervisor.get(name_or_id)

    def events(self, since: float | None = None) -> EventReader:
        """What happens from now on (`async for event in engine.events()`), after what is kept from `since` on."""
        return self.supervisor.events(since)

    # Networks and ports of containers that run

    async def connect(
        self,
        container: Container,
        network: str,
        *,
        ip: str | None = None,
        mac: str | None = None,
        aliases: Sequence[str] = (),
    ) -> Attachment:
        """Attach it to one more network, `NAME[:OPTION=VALUE,…]`, as its next cniN.

        Raises: WrongState, AttachmentError, NetconfError, SupervisorError; nothing has changed then.
        """
        return await self._engine.connect(container, network, ip=ip, mac=mac, aliases=aliases)

    async def disconnect(self, container: Container, network: str) -> None:
        """Take it off a network, with the ports published there. Raises: WrongState, AttachmentError."""
        await self._engine.disconnect(container, network)

    async def publish(self, container: Container, *specs: str) -> tuple[PortMapping, ...]:
        """Open more ports of the host, `[[IP:]HOST:]PORT[/udp]` each, all of them or none; as they were chosen.

        Raises: WrongState, AttachmentError (PortTaken, …), SupervisorError for what is no port.
        """
        added = await container.membership.publish(parse_all_ports(specs))
        return tuple(mapping for _, mapping in added)

    async def withdraw(self, container: Container, *specs: str) -> tuple[PortMapping, ...]:
        """Close ports again. One without a host port stands for all that lead to the container's.

        Raises: WrongState, NotFound, AttachmentError, ExceptionGroup.
        """
        gone = await container.membership.withdraw(parse_all_ports(specs))
        return tuple(mapping for _, mapping in gone)

    # Images

    async def pull(
        self,
        image: str,
        *,
        pull: str = "always",
        image_policy: str | None = None,
        platform: str | None = None,
    ) -> Image:
        """Fetch an image into the store. Raises: SupervisorError (NotFound, StoreError, …), OSError."""
        if image_policy not in (None, "insecure"):
            image_policy = os.path.abspath(str(image_policy))
        return await self._engine.pull(
            image, policy=image_policy, mode=pull, platform=platform, environ={}, report=self._report
        )

    def images(self) -> list[ImageSummary]:
        """What is in the store, the newest first."""
        return self._engine.images.list()

    async def tag(self, image: str, name: str) -> None:
        """Give an image one more name. Raises: NotFound, SupervisorError."""
        await self._engine.images.tag(image, name)

    async def remove_image(self, image: str, *, force: bool = False) -> None:
        """Take an image or a name of one away. Raises: NotFound, SupervisorError if containers use it."""
        await remove_images(self._engine, requests.ImageRemove(version="", images=(image,), force=force))


def tell_nobody(progress: Progress) -> None:
    pass


@asynccontextmanager
async def open_engine(
    store_dir: str | None = None,
    *,
    run_dir: str | None = None,
    runtime: str | None = None,
    report: Report = tell_nobody,
) -> AsyncIterator[EmbeddedEngine]:
    """An engine for as long as the block lasts; leaving it ends every container.

    `store_dir` holds images and what containers write: the command line's by default, and several engines may share
    one. `run_dir` is an empty directory of the caller's own with a short path (default: a temporary one); containers
    with `remove=False` are known to later engines that have the same. `runtime` is an OCI runtime by name or path
    (default: crun, else runc). `report` is called with the progress of pulls. Nothing is started before it is needed;
    what a program that was killed has left in the store goes with the next engine.

    Raises: SupervisorError, OSError.
    """
    store_dir = os.path.abspath(store_dir or os.environ.get("CTNR_STORE_DIR") or default_store_dir())
    async with AsyncExitStack() as stack:
        if run_dir is None:
            run_dir = stack.enter_context(own_run_dir())
        check_runtime_dir(run_dir)
        sandbox_dir = f"{run_dir}/{SANDBOX}"
        os.makedirs(sandbox_dir, 0o700, exist_ok=True)
        supervisor = await stack.enter_async_context(open_supervisor(sandbox_dir, runtime=runtime))
        engine = Engine(store_dir, supervisor, runtime_dir=run_dir)
        await _forget_killed(engine)
        yield EmbeddedEngine(engine, report)


async def _forget_killed(engine: Engine) -> None:
    """What containers of programs that were killed have left in the store: the kernel has ended them."""
    await sweep_volumes(engine)
    for record in engine.records.of_host(os.uname().nodename):
        run_dir = record.owner.partition(":")[2]
        ours = os.path.basename(run_dir).startswith(PREFIX)
        if ours and record.request.remove and is_deserted(run_dir):
            with suppress(BundleBusy):  # another engine is about it
                await engine.remove(record)
                shutil.rmtree(run_dir, ignore_errors=True)
