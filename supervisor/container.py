"""One container = one task with an error wall of its own. This file reads in the order in which a container lives."""

from __future__ import annotations

import signal as signals
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from supervisor.errors import WrongState
from supervisor.events import describe_event
from supervisor.exec import Exec, open_exec, run_exec
from supervisor.groups import single_error
from supervisor.network.attachment import Attachment
from supervisor.network.membership import Membership
from supervisor.network.ports import PortMapping
from supervisor.runtime.logs import LogLine, follow_log
from supervisor.runtime.oci import Started
from supervisor.runtime.stdio import Stdio, set_size
from supervisor.runtime.streams import Streams
from supervisor.sandbox.process import Completed, Process
from supervisor.sandbox.sandbox import Sandbox
from supervisor.spec import ContainerSpec, Overlay, Prepared, Program, State
from supervisor.teardown import Teardown

if TYPE_CHECKING:
    from supervisor.realm import Realm

log = structlog.get_logger()


class Container:
    """A container of a supervisor. Its task ends when it has ended and everything of it is gone."""

    def __init__(self, spec: ContainerSpec, realm: Realm) -> None:
        self.spec = spec
        self.id, self.name = spec.id, spec.name
        self.state = State.CREATED
        self.created_at = time.time()
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.status: int | None = None
        self.error: Exception | None = None
        self.directory = f"{realm.sandbox.run_dir}/containers/{spec.id}"
        self.rootfs = f"{self.directory}/rootfs" if isinstance(spec.rootfs, Overlay) else spec.rootfs
        self.membership = Membership(self, realm, lambda: self.state is State.RUNNING)
        self.streams = Streams(spec.stdio, spec.log_path, keep_stdin=spec.keep_stdin)
        self._realm = realm
        self._scope = trio.CancelScope()
        self._process: Process | None = None
        self._gone = trio.Event()
        self._exited = trio.Event()
        self._exec_numbers = 0

    # The task

    async def run(self, *, task_status: trio.TaskStatus[Container] = trio.TASK_STATUS_IGNORED) -> None:
        """Live from set-up to the last trace. `started` when the program runs.

        Raises before `started`: SupervisorError, OSError, NetconfError; all is undone then. After it nothing: see
        `error`.
        """
        structlog.contextvars.bind_contextvars(container=self.name)
        with self._realm.use():
            await self._run(task_status)

    async def _run(self, task_status: trio.TaskStatus[Container]) -> None:
        announced = False
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    teardown, failure = Teardown(), None
                    try:
                        started = await self._set_up(teardown, nursery)
                        announced = True
                        task_status.started(self)
                        await self._live(started)
                    except Exception as exc:
                        failure = exc
                        raise
                    finally:
                        await self._take_down(teardown, failure)
                    nursery.cancel_scope.cancel()
        except Exception as exc:
            if not announced:
                raise single_error(exc) from None
            self.error = single_error(exc)
            log.warning("container_failed", error=str(self.error))
        finally:
            self.state = State.STOPPED
            self.finished_at = self.finished_at or time.time()
            if self.status is None:
                self.status = 137
            with trio.CancelScope(shield=True):
                await self.streams.close()
            if announced and self.spec.finish is not None:
                await self._finish(self.spec.finish)
            self._exited.set()
            self._gone.set()
            if announced:
                seconds = round(self.finished_at - (self.started_at or self.finished_at), 3)
                log.info("container_ended", id=self.id, status=self.status, seconds=seconds)

    async def _set_up(self, teardown: Teardown, nursery: trio.Nursery) -> Started:
        spec, realm, sandbox = self.spec, self._realm, self._realm.sandbox
        teardown.push("remove the container's directory", partial(sandbox.remove_tree, self.directory))
        await sandbox.call("make_dirs", paths=[self.directory], mode=0o700)
        if isinstance(spec.rootfs, Overlay):
            teardown.push("unmount the root filesystem", partial(sandbox.unmount, self.rootfs))
            await sandbox.mount_overlay(spec.rootfs.lower, spec.rootfs.upper, spec.rootfs.work, self.rootfs)
        await self.membership.set_up(teardown, nursery)
        prepared = Prepared(
            rootfs=self.rootfs,
            directory=self.directory,
            netns=self.netns,
            attachments=self.attachments if spec.shares is None else spec.shares.attachments,
            realm=realm,
        )
        built = await spec.build(prepared)
        await sandbox.write_files({**built.files, f"{self.directory}/config.json": (0o600, built.config)})
        teardown.push("delete the container from the runtime", partial(realm.runtime.delete, self.id))
        with self.streams.open(nursery) as stdio:
            started = await realm.runtime.run(self.id, self.directory, stdio)
        self._process = started.process
        self.streams.accept_terminal(started.terminal)
        teardown.push("kill the container", self._kill_first)
        self.started_at, self.state = time.time(), State.RUNNING
        self.tell("start")
        self.membership.tell_all("connect")
        return started

    async def _live(self, started: Started) -> None:
        """Until its first process ends."""
        self.status = await started.process.wait()
        self.finished_at, self.state = time.time(), State.STOPPED
        self.tell("die", status=self.status)
        self._exited.set()

    async def _take_down(self, teardown: Teardown, failure: Exception | None) -> None:
        """After a `failure` that one is told: that a plugin refuses DEL as well is no news after its ADD."""
        with trio.CancelScope(shield=True):
            try:
                await teardown.run()
            except ExceptionGroup as group:
                if failure is not None:
                    log.warning("teardown_failed", id=self.id, error=str(single_error(group)))
                elif not self._realm.sandbox.gone:
                    raise  # else the kernel has cleaned up, or the journal's next sweep will
            finally:
                self.membership.tell_all("disconnect")
                await self.streams.drain()

    async def _finish(self, finish: Callable[[Container], Awaitable[None]]) -> None:
        with trio.CancelScope(shield=True):
            try:
                await finish(self)
            except Exception as exc:
                log.warning("finish_failed", error=str(single_error(exc)))

    async def _kill_first(self) -> None:
        assert self._process is not None
        if self._process.status is None:
            self.tell("kill", signal=str(int(signals.SIGKILL)))
        await self._process.kill_and_wait()
        if self.status is None:
            self.status = self._process.status
            self.tell("die", status=self.status)

    # What others ask of it

    async def wait(self) -> int:
        """Its exit status (shell style) once its program has ended; `wait_gone` waits for the clean-up too."""
        await self._exited.wait()
        assert self.status is not None
        return self.status

    async def wait_gone(self) -> None:
        """Until nothing of it is left."""
        await self._gone.wait()

    @property
    def sandbox(self) -> Sandbox:
        """Where it runs."""
        return self._realm.sandbox

    @property
    def netns(self) -> str | None:
        """Its network namespace, a path in the sandbox; None with the host's network."""
        return self.membership.netns

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """The networks that it is on, cni0 first."""
        return self.membership.attachments

    @property
    def pid(self) -> int | None:
        """Its first process, as the sandbox counts; None unless it runs."""
        return self._process.pid if self._process is not None and self.state is State.RUNNING else None

    @property
    def ports(self) -> tuple[PortMapping, ...]:
        """What is published of it on the host; with `host_port` as it was chosen."""
        return tuple(port for one in self.attachments for port in one.ports)

    async def logs(self, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """The lines of its log in order, and with `follow` those to come until it ends. Raises: WrongState."""
        log = self.streams.output.log
        if log is None:
            raise WrongState(f"container {self.name} has no log", cure="start it with one")
        async for line in follow_log(log.path, log if follow else None):
            yield line

    async def signal(self, number: int) -> None:
        """Send a signal to its first process. Raises: WrongState unless it runs."""
        if self._process is None or self.state is not State.RUNNING:
            raise WrongState(f"container {self.name} is not running")
        self.tell("kill", signal=str(int(number)))
        await self._process.signal(number)

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Stop signal, grace, SIGKILL; returns when it is gone. Nothing if it has stopped already."""
        seconds = self.spec.stop_seconds if grace_seconds is None else grace_seconds
        if seconds > 0 and self.state is State.RUNNING:
            with suppress(WrongState):
                await self.signal(self.spec.stop_signal)
            with trio.move_on_after(seconds):
                await self._exited.wait()
        ended = self.status is not None and self._gone.is_set()
        self.cancel()
        await self.wait_gone()
        if not ended:
            self.tell("stop")

    def tell(
        self, action: str, *, type: str = "container", status: int | None = None, **attributes: str
    ) -> None:
        """An event of its own."""
        self._realm.events.tell(
            describe_event(
                action, self.id, self.name, self.spec.labels, type=type, status=status, **attributes
            )
        )

    def cancel(self) -> None:
        """End it at once: SIGKILL, then the clean-up. Synchronous, so that it can be called when cancelled."""
        self._scope.cancel()

    # Programs in it

    async def exec(
        self,
        args: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Sequence[str] = (),
        workdir: str | None = None,
        user: str | None = None,
        privileged: bool = False,
    ) -> Completed:
        """Run one more program in it to its end: its `status` (shell style), `stdout` and `stderr`.

        `env` is NAME=VALUE on top of the container's own, `user` is USER[:GROUP]. Cancelled, it is killed.
        Raises: WrongState, CommandNotFound, CommandNotExecutable, RuntimeFailed, SupervisorError.
        """
        program = Program(args=args, env=env, workdir=workdir, user=user, privileged=privileged)
        return await run_exec(self, program, stdin)

    def open_exec(
        self,
        args: Sequence[str],
        *,
        env: Sequence[str] = (),
        workdir: str | None = None,
        user: str | None = None,
        privileged: bool = False,
    ) -> AbstractAsyncContextManager[Exec]:
        """One more program in it for as long as the block lasts, with trio streams for its stdin, stdout and stderr.

        Leaving the block kills it if it has not ended. Raises: as `exec`.
        """
        return open_exec(
            self, Program(args=args, env=env, workdir=workdir, user=user, privileged=privileged)
        )

    async def start_exec(self, program: Program, stdio: Stdio) -> Started:
        """Run one more program in it on descriptors of the caller's.

        The caller waits for `Started.process` and closes `Started.terminal`; the program ends with the container.
        Raises: as `exec`.
        """
        if self.state is not State.RUNNING:
            raise WrongState(f"container {self.name} is not running", cure=f"ctnr start {self.name}")
        process = await self.spec.build_process(self, program, stdio)
        self._exec_numbers += 1
        directory = f"{self.directory}/exec-{self._exec_numbers}"
        sandbox = self._realm.sandbox
        await sandbox.call("make_dirs", paths=[directory], mode=0o700)
        try:
            started = await self._realm.runtime.exec(self.id, directory, process, stdio)
        finally:
            with trio.CancelScope(shield=True):
                await sandbox.remove_tree(directory)
        if started.terminal is not None:
            set_size(started.terminal, stdio.rows, stdio.columns)
        return started
