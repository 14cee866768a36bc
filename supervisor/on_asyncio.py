"""The same for asyncio programs: trio runs as a guest in the running loop, and everything is awaited from asyncio.

`open_supervisor` and `open_group` give what the functions of that name in `supervisor` give, with the same methods:
what is a coroutine, a block or an iterator there is one of asyncio's here. Cancelling the asyncio task that waits
cancels what it waits for. Deadlines are asyncio's (`asyncio.timeout`).
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, cast

import outcome
import trio

from supervisor import strategies
from supervisor import supervisor as blocks
from supervisor.proxies import is_live, unwrap
from supervisor.strategies import Group
from supervisor.supervisor import Supervisor

T = TypeVar("T")

_CANCELLED: Any = object()


class Guest:
    """One trio run in one asyncio loop, shared by all who need it there. Made by `open_guest`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.users = 0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._pending: set[asyncio.Future[Any]] = set()
        self._token: trio.lowlevel.TrioToken
        self._nursery: trio.Nursery
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            host_uses_signal_set_wakeup_fd=True,
            done_callback=self._done,
        )

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self.ready.set_result(None)
            await trio.sleep_forever()

    def _done(self, ended: outcome.Outcome[None]) -> None:
        """With an error if Ctrl-C came to trio: whoever waits gets it."""
        error: BaseException | None = getattr(ended, "error", None)
        while isinstance(error, BaseExceptionGroup):
            interrupted, _ = error.split(KeyboardInterrupt)
            error = (interrupted or error).exceptions[0]
        for future in self._pending:
            if not future.done():
                future.set_exception(error or RuntimeError("trio's run in this loop has ended"))
        if not self.ended.done():
            self.ended.set_result(None)

    @property
    def is_ending(self) -> bool:
        """What trio's tasks raise from here is for the run, not for those who wait."""
        return self._nursery.cancel_scope.cancel_called

    async def stop(self) -> None:
        """Returns when the run has ended."""
        if not self.ended.done():
            self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        await _wait_for(self.ended, lambda: None)

    def future(self) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def do_soon(self, act: Callable[[], object]) -> None:
        """Run something synchronous in trio; nothing if its run has ended."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(act)

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        self.do_soon(lambda: self._nursery.start_soon(work))

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await a trio function from asyncio. Cancelled, the function is, and has ended when this raises."""
        future, scope = self.future(), trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    settle(future, outcome.Value(await function()))
                    return
                settle(future, outcome.Value(_CANCELLED))
            except BaseException as exc:
                if self.is_ending:
                    raise
                settle(future, outcome.Error(exc))

        self.spawn(run)
        was_cancelled = await _wait_for(future, lambda: self.do_soon(scope.cancel))
        value = future.result()
        if value is _CANCELLED:
            raise asyncio.CancelledError
        if (
            was_cancelled
        ):  # it was quicker: what it has made must not be lost, and the cancellation comes next
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return cast(T, value)


def settle(future: asyncio.Future[Any], result: outcome.Outcome[Any]) -> None:
    if future.done():
        return
    if isinstance(result, outcome.Error):
        future.set_exception(result.error)
    else:
        future.set_result(result.unwrap())


async def _wait_for(future: asyncio.Future[Any], on_cancel: Callable[[], None]) -> bool:
    """Until it is done, whatever comes; `on_cancel` is called when the task is cancelled. Whether it was."""
    was_cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            was_cancelled = True
            on_cancel()
    return was_cancelled


class Block:
    """A trio block, entered and left by one trio task, as a block of asyncio."""

    def __init__(self, guest: Guest, manager: AbstractAsyncContextManager[Any]) -> None:
        self._guest = guest
        self._manager = manager
        self._scope = trio.CancelScope()
        self._leave = trio.Event()
        self._error: BaseException | None = None  # of the body, raised in the trio block as well
        self._task: asyncio.Task[Any] | None = None  # whose body runs
        self._interrupted = False
        self._entered = guest.future()
        self._ended = guest.future()

    async def _hold(self) -> None:
        try:
            with self._scope:
                async with self._manager as value:
                    settle(self._entered, outcome.Value(value))
                    await self._leave.wait()
                    if self._error is not None:
                        raise self._error
        except BaseException as exc:
            if self._guest.is_ending:
                raise
            settle(self._ended, outcome.Error(exc))
        else:
            settle(self._ended, outcome.Value(None))

    def _cancel(self) -> None:
        self._guest.do_soon(self._scope.cancel)

    async def __aenter__(self) -> Any:
        self._guest.spawn(self._hold)
        self._ended.add_done_callback(self._entered_or_not)
        if await _wait_for(self._entered, self._cancel):
            self._cancel()
            await _wait_for(self._ended, self._cancel)
            self._ended.exception()
            raise asyncio.CancelledError
        if self._entered.result() is _CANCELLED:
            self._ended.result()
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        self._ended.add_done_callback(self._interrupt)
        return wrap(self._guest, self._entered.result())

    def _entered_or_not(self, _: object) -> None:
        settle(self._entered, outcome.Value(_CANCELLED))

    def _interrupt(self, _: object) -> None:
        """The trio block has ended under its body: as there, the body is cancelled."""
        if self._task is not None:
            self._interrupted = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if exc is not None and not isinstance(exc, Exception):
            self._cancel()
        self._error = exc if isinstance(exc, Exception) else None
        self._guest.do_soon(self._leave.set)
        was_cancelled = await _wait_for(self._ended, self._cancel)
        error = self._ended.exception()
        if self._interrupted and isinstance(exc, asyncio.CancelledError):
            assert task is not None
            task.uncancel()
            exc = None
        if error is not None and error is not self._error:
            raise error
        if was_cancelled:
            raise asyncio.CancelledError
        return exc is None or (error is None and isinstance(exc, Exception))


class Proxy:
    """A live object of the trio side: its coroutines, blocks and iterators are asyncio's."""

    def __init__(self, guest: Guest, original: Any) -> None:
        self._guest = guest
        self._trio = original

    def __repr__(self) -> str:
        return f"<on asyncio: {self._trio!r}>"

    def __eq__(self, other: object) -> bool:
        return self._trio is unwrap(other)

    def __hash__(self) -> int:
        return hash(self._trio)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._trio, name)
        if not inspect.isroutine(value):
            return wrap(self._guest, value)

        def method(*args: Any, **options: Any) -> Any:
            call = partial(value, *map(unwrap, args), **{key: unwrap(one) for key, one in options.items()})
            if inspect.iscoroutinefunction(value):
                return self._call(call)
            return wrap(self._guest, call())

        method._trio = value  # type: ignore[attr-defined]
        return method

    async def _call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        return wrap(self._guest, await self._guest.call(function))

    def __aiter__(self) -> Proxy:
        return Proxy(self._guest, self._trio.__aiter__())

    async def __anext__(self) -> Any:
        try:
            return await self._call(self._next)
        except _End:
            raise StopAsyncIteration from None

    async def _next(self) -> Any:
        try:
            return await self._trio.__anext__()
        except StopAsyncIteration:
            raise _End from None  # a future can't carry the other

    async def __aenter__(self) -> Proxy:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._guest.call(self._trio.aclose)


class _End(Exception):
    """Of an iterator."""


def wrap(guest: Guest, value: Any) -> Any:
    """What an asyncio program may have of it: live objects as proxies, plain ones as they are."""
    if type(value) in (tuple, list):
        return type(value)(wrap(guest, one) for one in value)
    if type(value) is dict:
        return {key: wrap(guest, one) for key, one in value.items()}
    if is_live(value):
        return Proxy(guest, value)
    if isinstance(value, AbstractAsyncContextManager):
        return Block(guest, value)
    return value


_guests: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Guest] = weakref.WeakKeyDictionary()


@asynccontextmanager
async def open_guest() -> AsyncIterator[Guest]:
    """trio's run in this loop, for as long as somebody is in such a block."""
    loop = asyncio.get_running_loop()
    while (guest := _guests.get(loop)) is not None and not guest.users:
        await asyncio.wait([guest.ended])  # one is ending
    if guest is None:
        guest = _guests[loop] = Guest(loop)
    guest.users += 1
    try:
        await asyncio.shield(guest.ready)
        yield guest
    finally:
        guest.users -= 1
        if not guest.users:
            await _wait_for(guest.ready, lambda: None)
            await guest.stop()
            del _guests[loop]


@asynccontextmanager
async def open_on_asyncio(
    open_block: Callable[[], AbstractAsyncContextManager[T]],
) -> AsyncIterator[T]:
    """Any trio block in asyncio. For type checkers what it gives is the trio object: the methods are the same."""
    async with open_guest() as guest, Block(guest, open_block()) as value:
        yield value


def open_supervisor(
    run_dir: str | None = None, *, runtime: str | None = None
) -> AbstractAsyncContextManager[Supervisor]:
    """As `supervisor.open_supervisor`, in an asyncio program."""
    return open_on_asyncio(partial(blocks.open_supervisor, run_dir, runtime=runtime))


def open_group(
    strategy: str = strategies.Strategy.ONE_FOR_ONE, *, restarts: int = 3, seconds: float = 5
) -> AbstractAsyncContextManager[Group]:
    """As `supervisor.open_group`, in an asyncio program."""
    return open_on_asyncio(partial(strategies.open_group, strategy, restarts=restarts, seconds=seconds))
