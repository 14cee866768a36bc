"""One pull: skopeo copies, layers are unpacked as they arrive, and only what passed the policy becomes an image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio

from ctnr.images.catalog import Catalog
from ctnr.images.describe import Description, describe
from ctnr.images.errors import one_error
from ctnr.images.layers import LayerSource, LayerStore
from ctnr.images.manifest import (
    DOCKER_MANIFEST,
    BrokenImage,
    ConfigRootFs,
    Descriptor,
    Index,
    Manifest,
    load,
)  # fmt: skip
from ctnr.images.progress import Progress, Report
from ctnr.images.reference import ReferenceError
from ctnr.images.skopeo import Skopeo
from supervisor.sandbox.sandbox import Sandbox

WATCH_SECONDS = 0.1
ARRIVAL_SECONDS = 0.01
DESCRIBE_SECONDS = 10  # how long a description may take after everything has come

OpenSandbox = Callable[[], Awaitable[Sandbox]]


class Layers:
    """The layers of one image on their way into the store; those above may wait for those below."""

    def __init__(
        self, store: LayerStore, catalog: Catalog, open_sandbox: OpenSandbox, report: Report
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._open_sandbox = open_sandbox
        self._report = report

    async def unpack(
        self,
        layers: Sequence[Descriptor],
        diff_ids: Sequence[str],
        arrival: Callable[[str], Awaitable[bool]],
    ) -> tuple[str, ...] | None:
        """Their names, bottom first, once all are there. `arrival` waits for a blob, and gives False if it never comes:
        then None. Raises: BrokenImage, SupervisorError, OSError.
        """
        ready: list[trio.Event] = [trio.Event() for _ in layers]
        names: list[str] = ["" for _ in layers]
        is_complete = True

        async def lower(number: int) -> tuple[str, ...]:
            for event in ready[:number]:
                await event.wait()
            return tuple(reversed(names[:number]))

        async def one(number: int, layer: Descriptor, diff_id: str) -> None:
            nonlocal is_complete
            if await arrival(layer.hex):
                source = LayerSource(
                    self._catalog.blob(layer.hex),
                    layer,
                    diff_id,
                    lambda: lower(number),
                    is_lowest=number == 0,
                )
                names[number] = await self._store.unpack(source, await self._open_sandbox(), self._report)
                ready[number].set()
            else:
                is_complete = False
                nursery.cancel_scope.cancel()

        with one_error():
            async with trio.open_nursery() as nursery:
                for number, (layer, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
                    nursery.start_soon(one, number, layer, diff_id)
        return tuple(names) if is_complete else None


class Pull:
    """`directory` is the pull's own, below the store, and goes with it."""

    def __init__(
        self, catalog: Catalog, layers: Layers, skopeo: Skopeo, directory: str, name: str, report: Report
    ) -> None:
        self._catalog = catalog
        self._layers = layers
        self._skopeo = skopeo
        self._directory = directory
        self._name = name
        self._report = report
        self._copied = trio.Event()
        self._description: Description | None = None

    async def run(
        self, source: str, platform: tuple[str, str, str], *, may_keep_docker: bool
    ) -> tuple[Descriptor, str]:
        """Copy and unpack: the manifest to be used, whose blobs are all in the store, and the digest of the source.

        Raises: TransferFailed, BrokenImage, SupervisorError, OSError.
        """
        self._report(Progress(self._name, "downloading"))
        with one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                async with trio.open_nursery() as work:
                    work.start_soon(self._prefetch, source, platform)
                    await self._skopeo.copy(
                        source, f"oci:{self._directory}:image", "--dest-oci-accept-uncompressed-layers",
                        "--dest-shared-blob-dir", os.path.dirname(self._catalog.blob_dir),
                    )  # fmt: skip
                    self._copied.set()
                nursery.cancel_scope.cancel()
        with open(f"{self._directory}/index.json", "rb") as file:
            index = load(file.read(), Index, "index")
        if not index.manifests:
            raise BrokenImage(f"image {self._name}: skopeo brought nothing")
        return self._settle(index.manifests[0], may_keep_docker=may_keep_docker)

    async def _prefetch(self, source: str, platform: tuple[str, str, str]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._limit_waiting, scope)
                self._description = await describe(self._skopeo, source, platform)
                nursery.cancel_scope.cancel()
        if (description := self._description) is not None:
            await self._layers.unpack(description.manifest.layers, description.diff_ids, self._arrival)

    async def _limit_waiting(self, scope: trio.CancelScope) -> None:
        await self._copied.wait()
        await trio.sleep(DESCRIBE_SECONDS)
        scope.cancel()

    async def _arrival(self, digest: str) -> bool:
        path = self._catalog.blob(digest)
        while not os.path.exists(path):
            if self._copied.is_set():
                return os.path.exists(path)
            await trio.sleep(ARRIVAL_SECONDS)
        return True

    def _settle(self, copied: Descriptor, *, may_keep_docker: bool) -> tuple[Descriptor, str]:
        """The copy is what counts; the source's own documents replace its OCI version if they describe the same."""
        told = self._description
        if told is None:
            return copied, copied.hex
        manifest = load(self._catalog.read_blob(copied.hex), Manifest, "manifest")
        if not told.is_docker:
            own = hashlib.sha256(told.manifest_bytes).hexdigest()
            return copied, told.digest if own == copied.hex else copied.hex
        config = load(self._catalog.read_blob(manifest.config.hex), ConfigRootFs, "configuration")
        same_layers = [one.digest for one in manifest.layers] == [one.digest for one in told.manifest.layers]
        same_content = [f"sha256:{one}" for one in told.diff_ids] == list(config.rootfs.diff_ids)
        if not (same_layers and same_content and may_keep_docker):
            return copied, copied.hex
        self._catalog.write_blob(told.config_bytes, told.manifest.config.media_type)
        return self._catalog.write_blob(told.manifest_bytes, DOCKER_MANIFEST), told.digest

    async def _watch(self) -> None:
        """Tell how much has come. skopeo writes oci-put-blob* in the layout and renames each when it is verified."""
        before: dict[str, bool] = {}
        while True:
            total, done = None, 0
            if (described := self._description) is not None:
                sizes = {one.hex: one.size for one in described.manifest.layers}
                for digest in sizes:
                    before.setdefault(digest, os.path.exists(self._catalog.blob(digest)))
                missing = {digest: size for digest, size in sizes.items() if not before[digest]}
                total = sum(missing.values())
                done = sum(
                    size for digest, size in missing.items() if os.path.exists(self._catalog.blob(digest))
                )
            with suppress(FileNotFoundError):
                for entry in os.scandir(self._directory):
                    if entry.name.startswith("oci-put-blob"):
                        with suppress(FileNotFoundError):
                            done += entry.stat().st_size
            if done or total:
                self._report(Progress(self._name, "downloading", done, total))
            await trio.sleep(WATCH_SECONDS)


def parse_platform(platform: str | None) -> tuple[str, str, str]:
    """OS/ARCHITECTURE[/VARIANT], by default this machine's. Raises: ReferenceError."""
    if platform is None:
        return ("linux", architecture(), "")
    parts = platform.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise ReferenceError(
            f"platform {platform}: not OS/ARCHITECTURE[/VARIANT]", cure="for example --platform=linux/arm64"
        )
    return (parts[0], parts[1], parts[2] if len(parts) == 3 else "")


def platform_options(platform: str | None) -> tuple[str, ...]:
    """skopeo's options for it. Raises: ReferenceError."""
    if platform is None:
        return ()
    system, machine, variant = parse_platform(platform)
    options = ("--override-os", system, "--override-arch", machine)
    return (*options, "--override-variant", variant) if variant else options


def architecture() -> str:
    """This machine's, in the words of images (GOARCH)."""
    machine = os.uname().machine
    return {
        "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386",
    }.get(machine, machine)  # fmt: skip
