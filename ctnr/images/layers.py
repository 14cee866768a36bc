"""Layers: verified, decompressed and unpacked once, inside a sandbox; one directory each, ready for overlayfs."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from ctnr.images.attributes import OPAQUE_XATTR
from ctnr.images.catalog import settle
from ctnr.images.errors import one_error
from ctnr.images.inflate import Feed
from ctnr.images.locks import SUFFIX, claim, dead_claims, file_lock
from ctnr.images.manifest import BrokenImage, Descriptor
from ctnr.images.progress import Progress, Report
from netconf.decode import UNREADABLE
from supervisor.errors import SupervisorError
from supervisor.sandbox.descriptors import close_all
from supervisor.sandbox.sandbox import Sandbox, python_argv

UNPACK_AT_ONCE = max(os.cpu_count() or 1, 2)
PIPE_BYTES = 1 << 20
TELL_SECONDS = 0.1

Lower = Callable[[], Awaitable[Sequence[str]]]


@dataclass(frozen=True)
class LayerSource:
    """What a layer is made from: `blob` is the file that `layer` describes, `diff_id` the hex digest of its tar stream.

    `lower` waits for the layers below and gives their names, topmost first; it is awaited only if it matters what they
    are.
    """

    blob: str
    layer: Descriptor
    diff_id: str
    lower: Lower
    is_lowest: bool


class _Told(msgspec.Struct):
    """What the extractor answers."""

    entries: int = 0
    bytes: int = 0
    skipped: int = 0
    nodes: list[tuple[str, int, int, int, int]] = []
    pending: bool = False
    error: str | None = None
    errno: int | None = None


@dataclass(frozen=True)
class Fresh:
    """A layer unpacked anew: its directory, the name it should have, and the device nodes that could not be made."""

    directory: str
    name: str
    nodes: list[tuple[str, int, int, int, int]]  # path, st_mode, st_rdev, uid, gid


class _Compared(msgspec.Struct):
    difference: str | None


class LayerStore:
    """`<root>/<name>/` is a layer, complete and verified: it gets that name by a rename, at the very end.

    A name is the diff id (hex), if the layer stands for itself. If it took something from the layers below it (see
    finish.py), a digest of their names follows, for over other layers it would be another directory.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._limit = trio.CapacityLimiter(UNPACK_AT_ONCE)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def has(self, name: str) -> bool:
        return os.path.isdir(self.path(name))

    def find(self, diff_id: str, lower: Sequence[str]) -> str | None:
        """The name of a layer over those named `lower` (topmost first), if it is there."""
        for name in (diff_id, _name_over(diff_id, lower)):
            if self.has(name):
                return name
        return None

    async def unpack(self, source: LayerSource, sandbox: Sandbox, report: Report) -> str:
        """Make the layer exist, and return its name. Concurrent calls for one layer do the work once, also those of
        other processes. Raises: BrokenImage, SupervisorError, OSError.
        """
        os.makedirs(self.root, 0o711, exist_ok=True)
        async with file_lock(f"{self.root}/.{source.diff_id}{SUFFIX}", transient=True):
            if (found := await self._find_now(source)) is not None:
                return found
            async with self.fresh(source, sandbox, report) as fresh:
                await settle(self.root)
                os.rename(fresh.directory, self.path(fresh.name))
        layer = source.layer
        report(Progress(layer.hex[:12], "done", layer.size, layer.size))
        return fresh.name

    @asynccontextmanager
    async def fresh(self, source: LayerSource, sandbox: Sandbox, report: Report) -> AsyncIterator[Fresh]:
        """A layer unpacked anew. What is not renamed goes with the block.

        Raises: BrokenImage, SupervisorError, OSError.
        """
        with claim(self.root) as temporary:
            try:
                await sandbox.call("make_dirs", paths=[temporary], mode=0o755)
                job = _Job(sandbox, temporary, source.layer.hex[:12])
                async with self._limit:
                    told = await job.extract(source, report)
                name = source.diff_id
                if told.pending:
                    names = await source.lower()
                    await job.finish([self.path(one) for one in names])
                    name = _name_over(source.diff_id, names)
                yield Fresh(temporary, name, told.nodes)
            finally:
                if os.path.lexists(temporary):
                    with trio.CancelScope(shield=True):
                        await sandbox.remove_tree(temporary)

    async def keep_nodes(self, name: str, fresh: Fresh, sandbox: Sandbox) -> None:
        """Give `fresh` the device nodes of the layer `name`, where it lacks them. Raises: SandboxError."""
        if fresh.nodes:
            argv = python_argv("ctnr.images.nodes", self.path(name), fresh.directory)
            await sandbox.run(argv, stdin=msgspec.json.encode(fresh.nodes))

    def replace(self, name: str, fresh: str, is_busy: Callable[[], bool]) -> bool:
        """Let `fresh` and the layer `name` change places, unless a container uses it (False). Raises: OSError."""
        with self._swapping(fcntl.LOCK_EX), claim(self.root) as aside:
            if is_busy():
                return False
            os.rename(self.path(name), aside)
            os.rename(fresh, self.path(name))
            os.rename(aside, fresh)
        return True

    def keep_in_place(self) -> AbstractContextManager[None]:
        """While it lasts no layer is replaced: for containers to say that they use some. Waits microseconds."""
        return self._swapping(fcntl.LOCK_SH)

    @contextmanager
    def _swapping(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    async def difference(self, directory: str, expected: str, sandbox: Sandbox) -> str | None:
        """How a layer differs from what it should be: PATH: WHAT, or None. Raises: SandboxError."""
        done = await sandbox.run(python_argv("ctnr.images.compare", directory, expected))
        try:
            return msgspec.json.decode(done.stdout, type=_Compared).difference
        except UNREADABLE:
            return f"can't be compared: {done.last_line()}"

    def visible(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of an image's layers (bottom first) that no opaque root hides."""
        for number in range(len(names) - 1, 0, -1):
            if self._hides_all_below(names[number]):
                return names[number:]
        return names

    def _hides_all_below(self, name: str) -> bool:
        """True if the layer's root is opaque, which overlayfs does not look at."""
        try:
            return os.getxattr(self.path(name), OPAQUE_XATTR) == b"y"
        except OSError:
            return False

    async def _find_now(self, source: LayerSource) -> str | None:
        if self.has(source.diff_id):
            return source.diff_id
        if any(name.startswith(f"{source.diff_id}-") for name in os.listdir(self.root)):
            return self.find(source.diff_id, await source.lower())
        return None

    async def sweep(self, sandbox: Sandbox) -> None:
        """Remove what was being unpacked when its process died. Raises: SandboxError."""
        for path in dead_claims(self.root):
            if os.path.lexists(path):
                await sandbox.remove_tree(path)
            with suppress(FileNotFoundError):
                os.unlink(path + SUFFIX)


class _Job:
    """Runs of the extractor for one layer into one directory; its lock file holds what is pending between them."""

    def __init__(self, sandbox: Sandbox, directory: str, name: str) -> None:
        self._sandbox = sandbox
        self._directory = directory
        self._name = name

    async def extract(self, source: LayerSource, report: Report) -> _Told:
        reader, writer = os.pipe()
        with suppress(OSError):  # unprivileged users may have used up their share
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        feed = Feed(source.blob, writer, source.layer, source.diff_id)  # owns the writer
        ends = [reader]
        with one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed.run)
                telling = trio.CancelScope()
                nursery.start_soon(self._tell, feed, source.layer.size, report, telling)
                try:
                    status, told = await self._run(
                        {"finish": False, "lowest": source.is_lowest, "lower": []}, reader
                    )
                finally:
                    close_all(ends)  # or the feeding thread would write for ever when nobody reads
                    telling.cancel()
        return self._judge(status, told, feed)

    async def finish(self, lower: Sequence[str]) -> None:
        status, told = await self._run({"finish": True, "lowest": False, "lower": list(lower)}, None)
        self._judge(status, told, None)

    async def _run(self, job: dict[str, Any], stdin: int | None) -> tuple[str, _Told | None]:
        job |= {
            "directory": self._directory, "pending": self._directory + SUFFIX, "rootless": self._sandbox.rootless,
        }  # fmt: skip
        done = await self._sandbox.run(
            python_argv("ctnr.images.unpack", msgspec.json.encode(job).decode()), stdin=stdin
        )
        try:
            return done.last_line(), msgspec.json.decode(done.stdout, type=_Told)
        except UNREADABLE:
            return done.last_line(), None

    def _judge(self, status: str, told: _Told | None, feed: Feed | None) -> _Told:
        if feed is not None and feed.error is not None and (told is None or told.errno is None):
            raise feed.error  # what is not what it should be may look like anything to the extractor
        if told is None:
            raise BrokenImage(f"layer {self._name}: the extractor failed: {status}")
        if told.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(told.errno, "no space left", self._directory)
        if told.error is not None:
            is_range = "subordinate ids" in told.error
            raise (SupervisorError if is_range else BrokenImage)(
                f"layer {self._name}: {told.error}",
                cure="give yourself a larger range: sudo usermod --add-subuids 100000-165535 --add-subgids "
                "100000-165535 $USER" if is_range else "the image was made wrongly or changed: ask who built it",
            )  # fmt: skip
        return told

    async def _tell(self, feed: Feed, total: int, report: Report, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                report(Progress(self._name, "unpacking", feed.done_bytes, total))
                await trio.sleep(TELL_SECONDS)


def _name_over(diff_id: str, lower: Sequence[str]) -> str:
    return f"{diff_id}-{hashlib.sha256(' '.join(lower).encode()).hexdigest()[:16]}"
