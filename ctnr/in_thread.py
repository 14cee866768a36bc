"""`ctnr.open_engine` for programs without an event loop: trio runs in a thread beside, and every call waits for it.

What is a coroutine, a block or an iterator in `ctnr` is a plain call, a `with` block or a plain iterator here. Any
thread may use what it gives.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import trio

from ctnr import embedded
from ctnr.images.progress import Report
from supervisor.groups import bare_errors
from supervisor.proxies import is_live, unwrap

T = TypeVar("T")


class Loop:
    """A trio run in a thread of its own. Made by `open_loop`."""

    def __init__(self) -> None:
        self.nursery: trio.Nursery
        self._token: trio.lowlevel.TrioToken
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name="ctnr-trio")
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set()
            await trio.sleep_forever()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a trio function there, and wait for it. Raises: what it raises."""
        return trio.from_thread.run(function, trio_token=self._token)

    def call_sync(self, function: Callable[[], T]) -> T:
        return trio.from_thread.run_sync(function, trio_token=self._token)

    def close(self) -> None:
        """Cancel what is under way, and wait for its clean-up."""
        with suppress(trio.RunFinishedError):
            self.call_sync(self.nursery.cancel_scope.cancel)
        self._thread.join()


class Block(AbstractContextManager[Any]):
    """A trio block, entered and left by one trio task, as a plain block."""

    def __init__(self, loop: Loop, manager: AbstractAsyncContextManager[Any]) -> None:
        self._loop = loop
        self._manager = manager
        self._error: BaseException | None = None  # of the body, raised in the trio block as well
        self._failure: BaseException | None = None  # what came out of the trio block
        self._value: Any = None

    async def _hold(self) -> None:
        try:
            async with self._manager as self._value:
                self._entered.set()
                await self._leave.wait()
                if self._error is not None:
                    raise self._error
        except trio.Cancelled:
            raise  # the loop is being closed
        except BaseException as exc:
            self._failure = exc
        finally:
            self._entered.set()
            self._ended.set()

    async def _enter(self) -> None:
        self._entered, self._leave, self._ended = trio.Event(), trio.Event(), trio.Event()
        self._loop.nursery.start_soon(self._hold)
        await self._entered.wait()
        if self._failure is not None:
            raise self._failure

    async def _exit(self) -> None:
        self._leave.set()
        await self._ended.wait()
        if self._failure is not None and self._failure is not self._error:
            raise self._failure

    def __enter__(self) -> Any:
        self._loop.call(self._enter)
        return wrap(self._loop, self._value)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._error = exc
        self._loop.call(self._exit)


class Proxy:
    """A live object of the trio side: its coroutines are plain calls, its blocks and iterators plain ones."""

    def __init__(self, loop: Loop, original: Any) -> None:
        self._loop = loop
        self._trio = original

    def __repr__(self) -> str:
        return f"<in a thread: {self._trio!r}>"

    def __eq__(self, other: object) -> bool:
        return bool(self._trio is unwrap(other))

    def __hash__(self) -> int:
        return hash(self._trio)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._trio, name)
        if not inspect.isroutine(value):
            return wrap(self._loop, value)

        def method(*args: Any, **options: Any) -> Any:
            call = partial(value, *map(unwrap, args), **{key: unwrap(one) for key, one in options.items()})
            run = self._loop.call if inspect.iscoroutinefunction(value) else self._loop.call_sync
            return wrap(self._loop, run(call))

        method._trio = value  # type: ignore[attr-defined]
        return method

    def __iter__(self) -> Iterator[Any]:
        iterator = self._trio.__aiter__()

        async def step() -> Any:
            return await iterator.__anext__()

        try:
            while True:
                try:
                    yield wrap(self._loop, self._loop.call(step))
                except StopAsyncIteration:
                    return
        finally:
            if hasattr(iterator, "aclose"):

                async def close() -> None:
                    await iterator.aclose()

                self._loop.call(close)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call(self._trio.aclose)


def wrap(loop: Loop, value: Any) -> Any:
    """What a thread may have of it: live objects as proxies, plain ones as they are."""
    if type(value) in (tuple, list):
        return type(value)(wrap(loop, one) for one in value)
    if type(value) is dict:
        return {key: wrap(loop, one) for key, one in value.items()}
    if is_live(value):
        return Proxy(loop, value)
    if isinstance(value, AbstractAsyncContextManager):
        return Block(loop, value)
    return value


@contextmanager
def open_engine(
    store_dir: str | None = None,
    *,
    run_dir: str | None = None,
    runtime: str | None = None,
    report: Report = embedded.tell_nobody,
) -> Iterator[Any]:
    """As `ctnr.open_engine`, without a loop. `report` is called in the thread beside. Raises: as there."""
    with bare_errors():
        loop = Loop()
        try:
            manager = embedded.open_engine(store_dir, run_dir=run_dir, runtime=runtime, report=report)
            with Block(loop, manager) as engine:
                yield engine
        finally:
            loop.close()
