"""Containers that end with the test: a pytest plugin. Nothing of ctnr is imported before a fixture is used.

`container` and `containers` are for plain tests, `trio_container` and `trio_containers` for those of pytest-trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ctnr import EmbeddedEngine
    from supervisor import Container


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ctnr", "containers")
    group.addoption("--ctnr-store-dir", metavar="DIR", help="where images are kept [as ctnr: ~/.ctnr]")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "container(image, args=(), **options): what the fixture container (or trio_container) runs; options as "
        "ctnr.RunOptions",
    )


class Containers:
    """Runs containers that end with the test, the last one first. `engine` is ctnr's, of this session."""

    def __init__(self, engine: Any, stack: ExitStack) -> None:
        self.engine = engine
        self._stack = stack

    def run(self, image: str, args: Sequence[str] = (), **options: Any) -> Any:
        """A container, its methods plain calls (`ctnr.in_thread`). Raises: as `EmbeddedEngine.run`."""
        return self._stack.enter_context(self.engine.run(image, args, **options))


class TrioContainers:
    """The same for a test of pytest-trio. `engine` is ctnr's, of this test."""

    def __init__(self, engine: EmbeddedEngine, stack: AsyncExitStack) -> None:
        self.engine = engine
        self._stack = stack

    async def run(self, image: str, args: Sequence[str] = (), **options: Any) -> Container:
        """A container. Raises: as `EmbeddedEngine.run`."""
        return await self._stack.enter_async_context(self.engine.run(image, args, **options))


@pytest.fixture(scope="session")
def ctnr_engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An engine in a thread beside the tests, started by the first that wants it (`ctnr.in_thread.open_engine`)."""
    from ctnr.in_thread import open_engine

    with open_engine(request.config.option.ctnr_store_dir) as engine:
        yield engine


@pytest.fixture
def containers(ctnr_engine: Any) -> Iterator[Containers]:
    """`containers.run(image, args, **options)`: as many as the test wants."""
    with ExitStack() as stack:
        yield Containers(ctnr_engine, stack)


@pytest.fixture
def container(request: pytest.FixtureRequest, containers: Containers) -> Any:
    """The one that `@pytest.mark.container(image, args, **options)` names."""
    args, options = _marked(request)
    return containers.run(*args, **options)


@pytest.fixture
async def trio_containers(request: pytest.FixtureRequest) -> AsyncIterator[TrioContainers]:
    """`await trio_containers.run(image, args, **options)`, in the test's own loop."""
    from ctnr import open_engine

    store = request.config.option.ctnr_store_dir
    async with open_engine(store) as engine, AsyncExitStack() as stack:
        yield TrioContainers(engine, stack)


@pytest.fixture
async def trio_container(request: pytest.FixtureRequest, trio_containers: TrioContainers) -> Container:
    """The one that `@pytest.mark.container(image, args, **options)` names."""
    args, options = _marked(request)
    return await trio_containers.run(*args, **options)


def _marked(request: pytest.FixtureRequest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    mark = request.node.get_closest_marker("container")
    if mark is None:
        raise pytest.UsageError("the fixture needs a mark: @pytest.mark.container(image, args, **options)")
    return mark.args, mark.kwargs
