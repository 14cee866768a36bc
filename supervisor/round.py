"""One round of a container: set up, live, taken down. This file reads in the order in which its program lives."""

from __future__ import annotations

import signal as signals
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from supervisor.confinement import Confinement
from supervisor.errors import RuntimeFailed
from supervisor.groups import single_error
from supervisor.network.membership import Membership
from supervisor.runtime.oci import Started
from supervisor.sandbox.process import Process
from supervisor.spec import Overlay, Prepared, State
from supervisor.teardown import Teardown
from supervisor.vigil import Vigil

if TYPE_CHECKING:
    from supervisor.container import Container
    from supervisor.realm import Realm

log = structlog.get_logger()


class Round:
    """From the mounts to the last trace. A container that is restarted has one after the other, each with its own."""

    def __init__(self, container: Container, realm: Realm) -> None:
        self.process: Process | None = None
        self.started_at: float | None = None  # trio's clock
        self.status: int | None = None  # of its program
        self.ended, self.gone = trio.Event(), trio.Event()  # its program has ended; nothing is left of it
        self.membership = Membership(container, realm, lambda: container.state is State.RUNNING)
        self.confinement = Confinement(container, realm)
        self.vigil = Vigil(container, realm)
        self._container = container
        self._realm = realm
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Tells its container when the program has started, and when it has ended.

        Raises: SupervisorError, OSError, NetconfError of the set-up, of a helper that could not be kept running, or of
        the clean-up; or an ExceptionGroup of them. All is undone then.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                teardown, failure = Teardown(), None
                try:
                    started = await self._set_up(teardown, nursery)
                    self._container.round_started()
                    await self.vigil.begin(teardown, nursery)
                    self._end(await started.process.wait())
                except Exception as exc:
                    failure = exc
                    raise
                finally:
                    await self._take_down(teardown, failure)
                nursery.cancel_scope.cancel()

    def cancel(self) -> None:
        """End it at once: SIGKILL, then the clean-up."""
        self._scope.cancel()

    async def _set_up(self, teardown: Teardown, nursery: trio.Nursery) -> Started:
        container, realm, sandbox = self._container, self._realm, self._realm.sandbox
        spec, directory, rootfs = container.spec, container.directory, container.rootfs
        await self.confinement.set_up(teardown)
        await self.vigil.set_up(teardown)
        teardown.push("remove the container's directory", partial(sandbox.remove_tree, directory))
        await sandbox.call("make_dirs", paths=[directory], mode=0o700)
        if isinstance(spec.rootfs, Overlay):
            teardown.push("unmount the root filesystem", partial(sandbox.unmount, rootfs))
            await sandbox.mount_overlay(spec.rootfs.lower, spec.rootfs.upper, spec.rootfs.work, rootfs)
        await self.membership.set_up(teardown, nursery)
        prepared = Prepared(
            rootfs=rootfs,
            directory=directory,
            netns=self.membership.netns,
            attachments=self.membership.attachments if spec.shares is None else spec.shares.attachments,
            realm=realm,
            cgroup_version=self.confinement.cgroup_version,
            notify_socket=self.vigil.notify_socket,
        )
        built = await spec.build(prepared)
        await sandbox.write_files({**built.files, f"{directory}/config.json": (0o600, built.config)})
        teardown.push("delete the container from the runtime", partial(realm.runtime.delete, spec.id))
        with container.streams.open(nursery) as stdio, self.confinement.joins() as joins:
            try:
                started = await realm.runtime.run(spec.id, directory, stdio, joins)
            except RuntimeFailed as exc:
                raise self.confinement.explain(exc) from None
        self.process = started.process
        teardown.push("kill the container", self._kill_first)
        container.streams.accept_terminal(started.terminal)
        self.confinement.settle()
        self.started_at = trio.current_time()
        return started

    async def _kill_first(self) -> None:
        assert self.process is not None
        if self.process.status is None:
            self._container.tell("kill", signal=str(int(signals.SIGKILL)))
        await self.process.kill()
        await self.confinement.thaw()  # v1: what is frozen can't die
        await self.process.kill_and_wait()
        assert self.process.status is not None
        self._end(self.process.status)

    def _end(self, status: int) -> None:
        if self.status is None:
            self.status = status
            self.ended.set()
            self._container.oom_killed = self.confinement.oom_killed
            if self._container.oom_killed:
                self._container.tell("oom")
            now = trio.current_time()
            self._container.round_ended(
                status, now - (self.started_at if self.started_at is not None else now)
            )

    async def _take_down(self, teardown: Teardown, failure: Exception | None) -> None:
        """After a `failure` that one is told: that a plugin refuses DEL as well is no news after its ADD."""
        with trio.CancelScope(shield=True):
            try:
                await teardown.run()
            except ExceptionGroup as group:
                if failure is not None:
                    log.warning("teardown_failed", id=self._container.id, error=str(single_error(group)))
                elif not self._realm.sandbox.gone:
                    raise  # else the kernel has cleaned up, or the journal's next sweep will
            finally:
                self.membership.forget_all()
                await self._container.streams.end_round()
                self.gone.set()
