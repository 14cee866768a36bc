"""Containers that belong together: who is started again when one of them ends, and when that is given up.

The strategies are Erlang's. Whether and after which pause one container is started again is `supervisor.restart`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TypeVarTuple, Unpack

import structlog
import trio

from supervisor.container import Container
from supervisor.errors import GroupFailed, SupervisorError
from supervisor.groups import bare_errors, single_error
from supervisor.restart import Backoff, Restart, RestartPolicy

log = structlog.get_logger()

Args = TypeVarTuple("Args")


class Strategy(StrEnum):
    """Who is started again when a member has ended and is to be started again."""

    ONE_FOR_ONE = "one_for_one"  # that one
    ONE_FOR_ALL = "one_for_all"  # all: the others are stopped before
    REST_FOR_ONE = "rest_for_one"  # that one and all that were started after it


class Intensity:
    """At most `restarts` in any `seconds`."""

    def __init__(self, restarts: int, seconds: float) -> None:
        self.restarts, self.seconds = restarts, seconds
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Count one more restart; whether it is still within the limit."""
        self._times.append(now)
        while self._times[0] <= now - self.seconds:
            self._times.popleft()
        return len(self._times) <= self.restarts


class Member:
    """One place in a group. `container` is who has it now, `restarts` counts those before."""

    def __init__(self, start: Callable[[], Awaitable[Container]], policy: RestartPolicy) -> None:
        self.container: Container
        self.restarts = 0
        self.has_ended = False  # for good
        self._start = start
        self._backoff = Backoff(policy)
        self._started_at = 0.0  # trio's clock

    async def _begin(self) -> None:
        self._started_at = trio.current_time()  # a start that fails has run for no time
        container = await self._start()
        if container.backoff.policy.when is not Restart.NO:
            container.cancel()
            with trio.CancelScope(shield=True):
                await container.wait_gone()
            raise SupervisorError(
                f"container {container.name} has a restart policy of its own",
                cure="leave it out: group.start(…, restart=…) is for members of a group",
            )
        self.container, self._started_at = container, trio.current_time()

    def _next_pause(self, status: int) -> float | None:
        return self._backoff.next_pause(status, trio.current_time() - self._started_at)


class Group:
    """Made by `open_group`. `cancel_scope` ends all of it at once, as a nursery's does."""

    def __init__(self, nursery: trio.Nursery, strategy: Strategy, intensity: Intensity) -> None:
        self.members: list[Member] = []
        self.cancel_scope = nursery.cancel_scope
        self._nursery = nursery
        self._strategy = strategy
        self._intensity = intensity
        self._changing = trio.Lock()  # held while members are started and stopped
        self._changed = trio.Event()

    async def start(
        self,
        start: Callable[[Unpack[Args]], Awaitable[Container]],
        *args: *Args,
        restart: str = "always",
    ) -> Member:
        """One more member: what `start(*args)` starts, `supervisor.start` or `engine.start` for example.

        It is called again for each restart, so keywords come by functools.partial. `restart` is always, on-failure
        or no: what is done when it ends by itself. With its siblings it is started again unless it has ended for good.
        Raises: what `start` raises, and SupervisorError for another policy; the group is as before then.
        """
        member = Member(lambda: start(*args), RestartPolicy(when=_policy(restart)))
        async with self._changing:
            await member._begin()
            self.members.append(member)
        self._nursery.start_soon(self._watch, member, member.container)
        return member

    async def stop(self, member: Member | None = None) -> None:
        """Stop a member, or all of them, the last first: stop signal, grace, SIGKILL. They are not started again.

        Cancelled, they are killed.
        """
        self._end_all(member)  # before the lock: whoever has it waits, perhaps, until a restart is due
        async with self._changing:
            chosen = self._end_all(member)
            try:
                for one in reversed(chosen):
                    await one.container.stop()
            except BaseException:
                for one in chosen:
                    one.container.cancel()
                raise

    def _end_all(self, member: Member | None) -> list[Member]:
        """That one, or all there are, for good."""
        chosen = [member] if member is not None else list(self.members)
        for one in chosen:
            self._end(one)
        return chosen

    async def _watch(self, member: Member, container: Container) -> None:
        await container.wait_gone()
        async with self._changing:
            if member.container is container and not member.has_ended:  # else it was stopped by us
                await self._ended(member, container.status or 0, container.error)

    async def _ended(self, member: Member, status: int, error: Exception | None) -> None:
        """Start again whom the strategy names, until they run or have ended for good. Raises: GroupFailed."""
        stopped: list[Member] = []
        while True:
            pause = member._next_pause(status)
            if pause is None:
                self._end(member)
                stopped = [one for one in stopped if one is not member]
            else:
                self._count(member.container.name, status, error)
                affected = self._affected(member)
                for one in reversed(affected):
                    await one.container.stop()
                stopped = [one for one in self.members if one in affected or one in stopped]
                log.info(
                    "group_restarts", container=member.container.name, status=status, members=len(stopped)
                )
                with trio.move_on_after(pause):
                    await self._wait_ended(stopped)
                stopped = [one for one in stopped if not one.has_ended]
            while stopped:
                member = stopped[0]
                try:
                    await member._begin()
                except Exception as exc:
                    error = single_error(exc)
                    status = getattr(error, "exit_status", SupervisorError.exit_status)
                    break
                member.restarts += 1
                self._nursery.start_soon(self._watch, stopped.pop(0), member.container)
            else:
                return

    def _affected(self, member: Member) -> list[Member]:
        at = self.members.index(member)
        among = {
            Strategy.ONE_FOR_ONE: [member],
            Strategy.ONE_FOR_ALL: self.members,
            Strategy.REST_FOR_ONE: self.members[at:],
        }[self._strategy]
        return [one for one in among if not one.has_ended]

    def _count(self, name: str, status: int, error: Exception | None) -> None:
        if not self._intensity.allows(trio.current_time()):
            limit = f"{self._intensity.restarts} restarts in {self._intensity.seconds:g} s"
            why = f": {error}" if error is not None else ""
            raise GroupFailed(
                f"container {name} ended with status {status}{why}; the group had its {limit}",
                container=name,
                status=status,
            ) from error

    def _end(self, member: Member) -> None:
        member.has_ended = True
        self._changed.set()
        self._changed = trio.Event()

    async def _wait_ended(self, members: Sequence[Member]) -> None:
        """Until they have, for good."""
        while not all(one.has_ended for one in members):
            await self._changed.wait()

    async def _wait_gone(self) -> None:
        """Until nothing is left of any member, and none will be started again: who is being stopped has its grace."""
        await self._wait_ended(self.members)
        for one in self.members:
            await one.container.wait_gone()

    async def _kill(self) -> None:
        with trio.CancelScope(shield=True):
            for one in self.members:
                one.container.cancel()
            for one in reversed(self.members):
                await one.container.wait_gone()


def _policy(text: str) -> Restart:
    if text not in (Restart.ALWAYS, Restart.ON_FAILURE, Restart.NO):
        raise SupervisorError(f"restart {text}: not known in a group", cure="always, on-failure or no")
    return Restart(text)


@asynccontextmanager
async def open_group(
    strategy: str = Strategy.ONE_FOR_ONE, *, restarts: int = 3, seconds: float = 5
) -> AsyncIterator[Group]:
    """A group of containers. As with a nursery, the end of the block waits until all members have ended for good;
    an exception or a cancellation kills them, and waits until they are gone.

    `strategy` is one_for_one, one_for_all (a restart of one is a restart of all) or rest_for_one (of it and of those
    started after it). More than `restarts` within `seconds` end the group.

    Raises: GroupFailed when it had too many restarts; the block is cancelled then.
    """
    try:
        chosen = Strategy(strategy)
    except ValueError:
        raise SupervisorError(
            f"strategy {strategy}: not known", cure=f"one of {', '.join(Strategy)}"
        ) from None
    with bare_errors():
        async with trio.open_nursery() as nursery:
            group = Group(nursery, chosen, Intensity(restarts, seconds))
            try:
                yield group
                await group._wait_gone()
            finally:
                await group._kill()
            nursery.cancel_scope.cancel()
