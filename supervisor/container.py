"""One container = one task with an error wall of its own, and one object over all of its restarts."""

from __future__ import annotations

import signal as signals
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from supervisor.cgroups.limits import Limits
from supervisor.confinement import Confinement
from supervisor.errors import SupervisorError, WrongState
from supervisor.events import describe_event
from supervisor.exec import Exec, open_exec, run_exec
from supervisor.groups import single_error
from supervisor.health import Health, HealthStatus, ProbeResult
from supervisor.network.attachment import Attachment
from supervisor.network.membership import Membership
from supervisor.network.ports import PortMapping
from supervisor.readiness import ReadyBy
from supervisor.restart import Backoff
from supervisor.round import Round
from supervisor.runtime.log_reader import follow_log
from supervisor.runtime.logs import LogLine, LogWriter
from supervisor.runtime.oci import Started
from supervisor.runtime.stdio import Stdio, set_size
from supervisor.runtime.streams import Streams
from supervisor.sandbox.process import Completed
from supervisor.sandbox.sandbox import Sandbox
from supervisor.spec import ContainerSpec, Overlay, Program, State

if TYPE_CHECKING:
    from supervisor.realm import Realm

log = structlog.get_logger()


class Attempt:
    """One start of a container's program: done when it runs or could not be started (`error`)."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None


class Container:
    """A container of a supervisor. Its task ends when it has ended for good and everything of it is gone."""

    def __init__(
        self, spec: ContainerSpec, realm: Realm, find_realm: Callable[[], Awaitable[Realm]]
    ) -> None:
        self.spec = spec
        self.id, self.name = spec.id, spec.name
        self.state = State.CREATED
        self.created_at = time.time()
        self.started_at: float | None = None  # of the last round
        self.finished_at: float | None = None
        self.status: int | None = None  # of the last round that has ended
        self.oom_killed = False  # the last round that has ended
        self.error: Exception | None = None
        self.limits = spec.limits
        self.networks, self.ports_wanted = spec.networks, spec.ports  # of the rounds to come
        self.backoff = Backoff(spec.restart)
        self.streams = Streams(spec.stdio, spec.log_path, spec.log_options, keep_stdin=spec.keep_stdin)
        self._find_realm = find_realm
        self._scope = trio.CancelScope()
        self._exited, self._gone = trio.Event(), trio.Event()
        self._nudged = trio.Event()  # a back-off ends early
        self._attempt = Attempt()  # the next one, or the one under way
        self._changed = trio.Event()  # something that one may wait for has; a new one each time
        self._announce: Callable[[], None] | None = None  # None: it has started once
        self._stopping = self._again = False  # asked for: no more rounds; one more at once
        self._pause: float | None = None  # before the next round; None: there is none
        self._exec_numbers = 0
        self._held = ExitStack()
        self._enter(realm)

    def _enter(self, realm: Realm) -> None:
        self._realm = realm
        self.directory = f"{realm.sandbox.run_dir}/containers/{self.id}"
        self.rootfs = (
            f"{self.directory}/rootfs" if isinstance(self.spec.rootfs, Overlay) else self.spec.rootfs
        )
        self._round = Round(self, realm)

    # The task

    async def run(
        self, *, resumed: bool = False, task_status: trio.TaskStatus[Container] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Live from set-up to the last trace, restarts included. `started` when the program runs.

        Raises before `started`: SupervisorError, OSError, NetconfError; all is undone then. After it nothing: see
        `error`. With `resumed` a first round that fails is one more to be restarted after.
        """
        structlog.contextvars.bind_contextvars(container=self.name)
        self._held.enter_context(self._realm.use())
        self._announce = partial(task_status.started, self)
        try:
            with self._scope:
                await self._rounds(resumed=resumed)
            if self._announce is not None:
                raise WrongState(f"container {self.name} was ended while it was being started")
        except Exception as exc:
            if self._announce is not None:
                raise single_error(exc) from None
            self._round_failed(single_error(exc))  # its clean-up, after it was cancelled
        finally:
            try:
                await self._leave()
            finally:
                self._held.close()

    async def _rounds(self, *, resumed: bool) -> None:
        """Raises: what the first round could not be set up with."""
        while True:
            try:
                await self._use_living_realm()
                await self._round.run()
            except Exception as exc:
                if self._announce is not None and not resumed:
                    raise
                self._round_failed(single_error(exc))
            if self._pause is None or not await self._back_off(self._pause):
                return
            self._round = Round(self, self._realm)

    async def _use_living_realm(self) -> None:
        """The sandbox may have died, and all that was in it."""
        if self._realm.sandbox.gone:
            realm = await self._find_realm()
            with self._held.pop_all():
                self._held.enter_context(realm.use())
            self._enter(realm)

    async def _back_off(self, seconds: float) -> bool:
        """Wait before the next round; whether it is still wanted then."""
        if not (self._stopping or self._again):
            self.tell("restarting", seconds=f"{seconds:g}", attempt=str(self.backoff.count))
            self._nudged = trio.Event()
            with trio.move_on_after(seconds):
                await self._nudged.wait()
        return not self._stopping

    async def _leave(self) -> None:
        self.state = State.STOPPED
        self.finished_at = self.finished_at or time.time()
        if self.status is None:
            self.status = 137
        started = self._announce is None
        with trio.CancelScope(shield=True):
            await self.streams.close()
        if started and self.spec.finish is not None:
            await self._finish(self.spec.finish)
        self._exited.set()
        self._gone.set()
        self.has_changed()
        self._attempted(WrongState(f"container {self.name} has ended"))
        if started:
            seconds = round(self.finished_at - (self.started_at or self.finished_at), 3)
            log.info("container_ended", id=self.id, status=self.status, seconds=seconds)

    async def _finish(self, finish: Callable[[Container], Awaitable[None]]) -> None:
        with trio.CancelScope(shield=True):
            try:
                await finish(self)
            except Exception as exc:
                log.warning("finish_failed", error=str(single_error(exc)))

    # What its rounds tell

    def round_started(self) -> None:
        """The program runs."""
        if self._again:
            self.backoff.reset()
        self._again = False
        self.started_at, self.finished_at, self.error = time.time(), None, None
        self.state = State.RUNNING
        self.tell("start")
        self.membership.tell_all("connect")
        self.has_changed()
        self._has_started()
        self._attempted(None)

    def round_ended(self, status: int, ran_seconds: float) -> None:
        """The program has ended, and the clean-up begins."""
        self.status, self.finished_at = status, time.time()
        self.tell("die", status=status)
        self._decide(status, ran_seconds)

    def _round_failed(self, error: Exception) -> None:
        """It could not be set up, a helper of it could not be kept running, or it could not be cleaned up."""
        self.error = error
        log.warning("container_failed", error=str(error))
        self.tell("failed", error=str(error))
        if self._round.status is None:
            self.status, self.finished_at = getattr(error, "exit_status", 125), time.time()
            self._again = False
            self._decide(self.status, 0)
            self._has_started()
            self._attempted(error)

    def _decide(self, status: int, ran_seconds: float) -> None:
        if self._stopping or self._scope.cancel_called:
            self._pause = None
        elif self._again:
            self._pause = 0
        else:
            self._pause = self.backoff.next_pause(status, ran_seconds)
        self.state = State.STOPPED if self._pause is None else State.RESTARTING
        if self._pause is None:
            self._exited.set()
        self.has_changed()

    def _has_started(self) -> None:
        if self._announce is not None:
            announce, self._announce = self._announce, None
            announce()

    def _attempted(self, error: Exception | None) -> None:
        attempt, self._attempt = self._attempt, Attempt()
        attempt.error = error
        attempt.done.set()

    def has_changed(self) -> None:
        """Whoever waits for a condition looks again."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # What others ask of it

    async def wait(self) -> int:
        """Its exit status (shell style) once its program has ended for good; `wait_gone` waits for the clean-up too."""
        await self._exited.wait()
        assert self.status is not None
        return self.status

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until it holds: looked at whenever this container starts, ends, becomes ready or changes its health."""
        while not condition():
            await self._changed.wait()

    async def wait_ready(self) -> None:
        """Until it is ready in the sense of its spec. Raises: WrongState if it ends, or can't become ready any more."""
        await self.wait_until(
            lambda: self.is_ready or self.has_ended or self._is_sick or self._round.vigil.fault != ""
        )
        if not self.is_ready:
            fault = self._round.vigil.fault
            if fault and not self.has_ended:
                raise WrongState(
                    f"container {self.name} can't be seen to be ready: {fault}",
                    cure="choose a simpler pattern for --ready=log:",
                )
            why = "is unhealthy" if not self.has_ended else f"has ended with status {self.status}"
            raise WrongState(
                f"container {self.name} {why}, and was not ready before", cure=f"ctnr logs {self.name}"
            )

    async def wait_healthy(self, *, patient: bool = True) -> None:
        """Until its health check says so. Raises: WrongState if it has none, or if it ends before; and, unless one is
        `patient`, if it becomes unhealthy."""
        if self.health is None:
            raise WrongState(f"container {self.name} has no health check", cure="ctnr run --health-cmd …")
        decided = (HealthStatus.HEALTHY,) if patient else (HealthStatus.HEALTHY, HealthStatus.UNHEALTHY)
        await self.wait_until(lambda: self.has_ended or self._health_is(*decided))
        if self.has_ended or not self._health_is(HealthStatus.HEALTHY):
            why = f"has ended with status {self.status}" if self.has_ended else "is unhealthy"
            raise WrongState(f"container {self.name} {why}", cure=f"ctnr logs {self.name}")

    def _health_is(self, *statuses: HealthStatus) -> bool:
        return self.health is not None and self.health.status in statuses

    @property
    def is_ready(self) -> bool:
        """It runs, and is ready in the sense of its spec."""
        return self.state is State.RUNNING and self._round.vigil.ready

    @property
    def health(self) -> Health | None:
        """Of this round; None without a check."""
        return self._round.vigil.health

    @property
    def _is_sick(self) -> bool:
        by_health = self.spec.ready is not None and self.spec.ready.by is ReadyBy.HEALTH
        return by_health and self._health_is(HealthStatus.UNHEALTHY)

    async def check_health(self) -> ProbeResult:
        """Run its health check once, now. Raises: WrongState if it has none, or does not run."""
        if self.health is None:
            raise WrongState(f"container {self.name} has no health check", cure="ctnr run --health-cmd …")
        return await self._round.vigil.check()

    async def wait_round(self) -> None:
        """Until nothing is left of the round that is under way."""
        await self._round.gone.wait()

    async def wait_gone(self) -> None:
        """Until nothing of it is left."""
        await self._gone.wait()

    @property
    def has_ended(self) -> bool:
        """Its program has, for good; the clean-up may go on."""
        return self._exited.is_set()

    @property
    def is_ending(self) -> bool:
        """It has ended, or somebody has asked for its end."""
        return self._stopping or self.has_ended or self._scope.cancel_called

    @property
    def sandbox(self) -> Sandbox:
        """Where it runs."""
        return self._realm.sandbox

    @property
    def membership(self) -> Membership:
        """Its part in networks, of this round."""
        return self._round.membership

    @property
    def confinement(self) -> Confinement:
        """Its cgroup, of this round."""
        return self._round.confinement

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
        process = self._round.process
        return process.pid if process is not None and self.state is State.RUNNING else None

    @property
    def host_pid(self) -> int | None:
        """Its first process, as the supervisor's own /proc counts; None unless it runs. Looked up at the first ask."""
        return self.sandbox.host_pid(self.pid) if self.pid is not None else None

    @property
    def observed_state(self) -> State:
        """`state`, and whether the kernel has it frozen."""
        return State.PAUSED if self.state is State.RUNNING and self.confinement.paused else self.state

    @property
    def ports(self) -> tuple[PortMapping, ...]:
        """What is published of it on the host; with `host_port` as it was chosen."""
        return tuple(port for one in self.attachments for port in one.ports)

    def logs(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        """The lines of its log in order, and with `follow` those to come until it ends.

        `tail` is how many lines to begin before the end, `since` and `until` are Unix seconds. Who leaves the loop
        early closes it: `async with aclosing(container.logs()) as lines`.
        Raises: WrongState if it has no log in a file.
        """
        log = self.streams.output.log
        if not isinstance(log, LogWriter):
            raise WrongState(f"container {self.name} has no log", cure="start it with one in a file")
        return follow_log(log.path, log if follow else None, tail=tail, since=since, until=until)

    async def signal(self, number: int) -> None:
        """Send a signal to its first process; a paused one takes it later, but for SIGKILL.

        Raises: WrongState unless it runs.
        """
        process = self._round.process
        if process is None or self.state is not State.RUNNING:
            raise WrongState(f"container {self.name} is not running")
        self.tell("kill", signal=str(int(number)))
        await process.signal(number)
        if number == signals.SIGKILL:
            await self.confinement.thaw()

    async def update(self, limits: Limits) -> None:
        """Other limits, at once if it runs, and for all that follows. Raises: LimitError; the old ones hold then."""
        if self.state is State.RUNNING:
            await self.confinement.update(limits)
        self.limits = limits

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Stop signal, grace, SIGKILL; returns when it is gone, for good. Nothing if it has stopped already."""
        ended = self._gone.is_set() or self._stopping
        self.end_restarts()
        await self._ask_to_end(self._round, grace_seconds)
        self.cancel()
        await self.wait_gone()
        if not ended:
            self.tell("stop")

    async def restart(self, grace_seconds: float | None = None) -> None:
        """Stop signal, grace, SIGKILL, and one more round at once, whatever its policy; returns when that has started.

        Who follows its output goes on following. Raises: WrongState if it has ended or is being stopped; what the round
        could not be set up with.
        """
        if self.is_ending:
            raise WrongState(f"container {self.name} has ended", cure=f"ctnr start {self.name}")
        attempt, current = self._attempt, self._round
        if self.state is not State.CREATED:
            self._again = True
            self._nudged.set()
            await self._ask_to_end(current, grace_seconds)
            if current.started_at is not None:
                current.cancel()
        await attempt.done.wait()
        if attempt.error is not None:
            raise attempt.error
        self.tell("restart")

    async def _ask_to_end(self, current: Round, grace_seconds: float | None) -> None:
        seconds = self.spec.stop_seconds if grace_seconds is None else grace_seconds
        if seconds > 0 and self.state is State.RUNNING:
            with suppress(WrongState):
                await self.signal(self.spec.stop_signal)
                await self.confinement.thaw()
            with trio.move_on_after(seconds):
                await current.ended.wait()

    def end_restarts(self) -> None:
        """The end of its program will be for good; in a back-off it ends now."""
        self._stopping = True
        self._nudged.set()

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
        self.confinement.check_not_paused()
        process = await self.spec.build_process(self, program, stdio)
        self._exec_numbers += 1
        directory = f"{self.directory}/exec-{self._exec_numbers}"
        sandbox = self._realm.sandbox
        await sandbox.call("make_dirs", paths=[directory], mode=0o700)
        try:
            async with self.confinement.joins_running() as joins:
                started = await self._realm.runtime.exec(self.id, directory, process, stdio, joins)
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await sandbox.remove_tree(directory)
                except (
                    SupervisorError,
                    OSError,
                ) as exc:  # it goes with the container's; what has started is kept
                    log.info("exec_directory_left", path=directory, error=str(exc))
        if started.terminal is not None:
            set_size(started.terminal, stdio.rows, stdio.columns)
        return started
