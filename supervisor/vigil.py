"""What watches one round of a container while its program runs: its health checks, and whether it is ready."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from supervisor.errors import SupervisorError, WrongState
from supervisor.health import Health, HealthStatus, OnFailure, ProbeResult, probe, watch
from supervisor.line_search import LineSearch
from supervisor.readiness import ReadyBy, hear_notices, wait_listening
from supervisor.spec import State
from supervisor.teardown import Teardown, start_in_turn

if TYPE_CHECKING:
    from supervisor.container import Container
    from supervisor.realm import Realm

log = structlog.get_logger()


class Vigil:
    """Of one round. `health` is None without a check; `ready` says so once it is, `fault` why it never will be."""

    def __init__(self, container: Container, realm: Realm) -> None:
        spec = container.spec
        self.health = Health(spec.health) if spec.health is not None else None
        self.ready = spec.ready is None
        self.notify_socket: str | None = None
        self._container = container
        self._realm = realm
        self.fault = ""  # why it will never be ready
        self._listener: socket.socket | None = None
        self._search: LineSearch | None = None
        self._began: float | None = None

    async def set_up(self, teardown: Teardown) -> None:
        """Before the program starts: what it may say must be heard from the first moment."""
        ready = self._container.spec.ready
        if ready is None:
            return
        if ready.by is ReadyBy.LOG:
            assert ready.pattern is not None
            self._search = LineSearch(ready.pattern, self._set_ready, self._set_unready)
            watcher = self._search.feed
            watchers = self._container.streams.output.watchers
            watchers.append(watcher)

            async def leave() -> None:
                watchers.remove(watcher)

            teardown.push("stop reading its output for readiness", leave)
        elif ready.by is ReadyBy.NOTIFY:
            sandbox = self._realm.sandbox
            path = f"{sandbox.run_dir}/notify/{self._container.id[:12]}"  # at most 107 bytes
            await sandbox.call("make_dirs", paths=[f"{sandbox.run_dir}/notify"], mode=0o711)
            teardown.push("remove the notify socket", partial(sandbox.remove_tree, path))
            self._listener = await sandbox.listen_datagrams(path)
            teardown.push("close the notify socket", self._close_listener)
            self.notify_socket = path

    async def begin(self, teardown: Teardown, nursery: trio.Nursery) -> None:
        """The program runs. The watching ends before anything else of the round does."""
        self._began = trio.current_time()
        ready = self._container.spec.ready
        if ready is not None and self.ready:  # it was quick
            self._tell_ready()
        tasks = []
        if self.health is not None:
            tasks.append(self._watch_health)
        if ready is not None and ready.by in (ReadyBy.PORT, ReadyBy.NOTIFY):
            tasks.append(self._wait_ready)
        if self._search is not None and self._search.needs_process:
            tasks.append(partial(self._search_lines, self._search))
        if not tasks:
            return

        async def watch_all(*, task_status: trio.TaskStatus[None]) -> None:
            async with trio.open_nursery() as inner:
                for task in tasks:
                    inner.start_soon(task)
                task_status.started()

        await start_in_turn("end its checks", watch_all, teardown, nursery)

    async def check(self) -> ProbeResult:
        """One check now, beside those that are due. Raises: WrongState without a check, or unless it runs."""
        assert self.health is not None
        result = await probe(self._container, self.health.check)
        if self.health.take(result, trio.current_time() - (self._began or 0)):
            await self._health_changed(act=False)
        return result

    async def _watch_health(self) -> None:
        assert self.health is not None
        container = self._container
        try:
            await watch(
                self.health,
                self._probe,
                lambda: container.observed_state is State.PAUSED,
                partial(self._health_changed, act=True),
            )
        except SupervisorError as exc:  # it ends, or its sandbox has
            log.info("health_check_ended", id=container.id, error=str(exc))

    async def _probe(self) -> ProbeResult | None:
        """None if somebody has paused it before the check could begin."""
        assert self.health is not None
        try:
            return await probe(self._container, self.health.check)
        except WrongState:
            if self._container.observed_state is State.PAUSED:
                return None
            raise

    async def _health_changed(self, *, act: bool) -> None:
        assert self.health is not None
        container, status = self._container, self.health.status
        container.tell("health_status", health=str(status))
        ready = container.spec.ready
        if status is HealthStatus.HEALTHY and ready is not None and ready.by is ReadyBy.HEALTH:
            self._set_ready()
        container.has_changed()
        if status is HealthStatus.UNHEALTHY and act:
            await self._act(self.health.check.on_failure)

    async def _act(self, action: OnFailure) -> None:
        """What ends the round ends this task, too: nothing is awaited after it that has to be done."""
        container = self._container
        if action is OnFailure.KILL:
            await container.signal(9)
        elif action is OnFailure.RESTART:
            await container.restart()
        elif action is OnFailure.STOP:
            await container.stop()

    async def _wait_ready(self) -> None:
        ready, container = self._container.spec.ready, self._container
        assert ready is not None
        if ready.by is ReadyBy.PORT:
            if container.pid is None:
                return
            await wait_listening(self._realm.sandbox, container.pid, ready.port)
            self._set_ready()
        else:
            assert self._listener is not None
            await hear_notices(self._listener, self._set_ready)

    async def _search_lines(self, search: LineSearch) -> None:
        try:
            await search.run(self._realm.sandbox)
        except (
            SupervisorError,
            OSError,
        ) as exc:  # its sandbox has ended, or there was no room for the process
            self._set_unready(str(exc))

    def _set_unready(self, why: str) -> None:
        self.fault = why
        self._container.has_changed()

    def _set_ready(self) -> None:
        if not self.ready:
            self.ready = True
            if self._began is not None:
                self._tell_ready()

    def _tell_ready(self) -> None:
        self._container.tell("ready")
        self._container.has_changed()

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
