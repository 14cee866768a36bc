"""A realm: one sandbox with what it takes to run containers in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import trio

from supervisor.cgroups.tree import Cgroups, open_cgroups
from supervisor.events import EventLog
from supervisor.network.attach import Networks
from supervisor.network.journal import LEASE_DIR, open_journal
from supervisor.network.netns import NetnsPool
from supervisor.network.records import Records
from supervisor.runtime.oci import Runtime
from supervisor.runtime.select import select_runtime
from supervisor.sandbox.sandbox import Sandbox, open_sandbox


class Realm:
    """Made by `open_realm`. Containers say that they `use` it, so that it can outlive them."""

    def __init__(
        self,
        sandbox: Sandbox,
        runtime: Runtime,
        netns_pool: NetnsPool,
        networks: Networks,
        events: EventLog,
        cgroups: Cgroups,
    ) -> None:
        self.sandbox = sandbox
        self.runtime = runtime
        self.netns_pool = netns_pool
        self.networks = networks
        self.events = events
        self.cgroups = cgroups
        self._users = 0
        self._unused = trio.Event()

    @contextmanager
    def use(self) -> Iterator[None]:
        """Around all of a container's life, its clean-up included."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()
                self._unused = trio.Event()

    async def wait_unused(self) -> None:
        """Until no container uses it."""
        while self._users:
            await self._unused.wait()


@asynccontextmanager
async def open_realm(
    run_dir: str, events: EventLog, *, rootless: bool, runtime: str | None = None
) -> AsyncIterator[Realm]:
    """A sandbox, its runtime and its networks for as long as the block lasts.

    Raises: SandboxError, RuntimeFailed.
    """
    async with AsyncExitStack() as stack:
        cgroups = stack.enter_context(open_cgroups())  # around the sandbox: its processes have gone then
        sandbox = await stack.enter_async_context(open_sandbox(run_dir, rootless=rootless))
        chosen = await select_runtime(sandbox, runtime)
        nursery = await stack.enter_async_context(trio.open_nursery())
        if rootless:
            # what the plugins leave lies in namespaces that go with the sandbox, and so do the records of it
            records = Records(sandbox.outer_path(f"{run_dir}/cni"))
            networks = Networks(sandbox, nursery, records, f"{run_dir}/leases")
        else:
            journal = stack.enter_context(open_journal())
            networks = Networks(sandbox, nursery, Records(journal.directory), LEASE_DIR, journal)
            await journal.sweep(networks.plugins)
        pool = NetnsPool(sandbox)
        nursery.start_soon(pool.run)
        yield Realm(sandbox, chosen, pool, networks, events, cgroups)
        nursery.cancel_scope.cancel()
