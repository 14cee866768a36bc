"""Is the store what it should be? Every blob, record, name and layer is looked at, and on demand mended.

What can be told from something good is mended: layers are unpacked anew from their blobs. What can't be is forgotten,
with its names, so that a pull brings it back. What is right is never touched, nor what a running container uses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import msgspec
import trio

from ctnr.images.catalog import ImageFile, names_in, settle
from ctnr.images.guard import adding, collecting, sweep
from ctnr.images.layers import LayerSource
from ctnr.images.manifest import BrokenImage, ConfigRootFs, Descriptor, Manifest, load
from ctnr.images.progress import Progress, Report
from ctnr.images.pull import Layers, OpenSandbox
from ctnr.images.view import StoreView

PIECE_BYTES = 32 << 20  # hashed at a time; between two it can be cancelled

Ids = Callable[[], set[str]]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is not right, and what was done about it (None: nothing)."""

    what: str
    done: str | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, and what was found."""

    images: int
    layers: int
    blobs: int
    findings: tuple[Finding, ...]


async def check_store(
    store: StoreView, *, sandbox: OpenSandbox, quick: bool = False, report: Report = lambda progress: None
) -> Verdict:
    """Look at everything, beside pulls and containers. `quick` leaves out what is in the layers.

    Raises: StoreError, SupervisorError, OSError.
    """
    async with adding(store, None):
        return await _Check(store, sandbox, report, quick=quick, may_forget=None).run()


async def repair_store(
    store: StoreView,
    *,
    sandbox: OpenSandbox,
    used: Ids,
    busy: Ids,
    quick: bool = False,
    report: Report = lambda progress: None,
) -> Verdict:
    """As `check_store`, and mend what is found. Waits until no pull is under way, in any process.

    `used` gives the ids of images that containers or bundles were made from, `busy` of those whose containers run.
    """
    async with collecting(store):
        await sweep(store, sandbox)
        return await _Check(store, sandbox, report, quick=quick, may_forget=(used, busy)).run()


class _Check:
    def __init__(
        self,
        store: StoreView,
        sandbox: OpenSandbox,
        report: Report,
        *,
        quick: bool,
        may_forget: tuple[Ids, Ids] | None,
    ) -> None:
        self._store = store
        self._catalog = store.catalog
        self._layers = store.layers
        self._sandbox = sandbox
        self._report = report
        self._quick = quick
        self._repairs = may_forget is not None
        self._used, self._busy = may_forget or (set, set)
        self._findings: list[Finding] = []
        self._broken_blobs: set[str] = set()
        self._seen_layers: set[str] = set()  # by name; several images may have one

    async def run(self) -> Verdict:
        blobs = await self._check_blobs()
        entries = [name for name in sorted(names_in(f"{self._store.root}/images")) if name.endswith(".json")]
        for entry in entries:
            await self._check_image(entry.removesuffix(".json"))
        self._check_names()
        return Verdict(
            images=len(entries), layers=len(self._seen_layers), blobs=blobs, findings=tuple(self._findings)
        )

    def _find(self, what: str, done: str | None = None) -> None:
        self._findings.append(Finding(what=what, done=done if self._repairs else None))

    # Blobs

    async def _check_blobs(self) -> int:
        """How many there are. A broken one is of no use to anybody: it is removed."""
        count = 0
        for name in sorted(names_in(self._catalog.blob_dir)):
            if name.startswith(".new-"):
                continue
            count += 1
            try:
                is_good = await self._hash(name) == name
                why = "its content does not match its digest"
            except OSError as exc:
                is_good, why = False, str(exc.strerror)
            if not is_good:
                self._broken_blobs.add(name)
                if self._repairs:
                    _remove(self._catalog.blob(name))
                self._find(f"blob {name[:12]}: {why}", "removed")
        return count

    async def _hash(self, name: str) -> str:
        digest = hashlib.sha256()
        with open(self._catalog.blob(name), "rb") as file:
            while await trio.to_thread.run_sync(_hash_piece, file, digest.update):
                self._report(Progress(name[:12], "checking", file.tell(), os.fstat(file.fileno()).st_size))
        return digest.hexdigest()

    def _blob_fault(self, digest: str) -> str | None:
        if digest in self._broken_blobs:
            return "broken"
        return None if os.path.isfile(self._catalog.blob(digest)) else "lost"

    # Images

    async def _check_image(self, image_id: str) -> None:
        names = sorted(name for name, its in self._catalog.names().items() if its == image_id)
        called = f"image {image_id[:12]}" + (f" ({', '.join(names)})" if names else "")
        file = self._catalog.image_file(image_id)
        blobless: list[str] = []
        try:
            if file is None:
                if not os.path.lexists(f"{self._store.root}/images/{image_id}.json"):
                    return  # removed meanwhile
                raise BrokenImage("its record can't be read")
            manifest = self._check_documents(file, image_id)
            blobless = await self._check_layers(file, manifest, called)
        except BrokenImage as exc:
            self._forget(f"{called}: {exc.message}", image_id, names, self._busy, "its container runs")
            return
        for what in blobless:
            self._forget(f"{called}: {what}", image_id, names, self._used, "containers use it")

    def _forget(self, what: str, image_id: str, names: list[str], kept: Ids, why: str) -> None:
        if not self._repairs:
            self._find(what)
        elif image_id in kept():
            again = f"; ctnr pull {names[0]}" if names else ""
            self._find(f"{what}: left, for {why}{again}")
        else:
            for name in names:
                self._catalog.remove_name(name)
            self._catalog.remove_image(image_id)
            self._find(what, f"forgotten with its names {', '.join(names)}" if names else "forgotten")

    def _check_documents(self, file: ImageFile, image_id: str) -> Manifest:
        """Raises: BrokenImage if record, manifest and configuration are not of one image."""
        manifest = load(self._document(file.manifest, "manifest"), Manifest, "manifest")
        config = load(self._document(image_id, "configuration"), ConfigRootFs, "configuration")
        diff_ids = tuple(Descriptor(digest=one, size=0).hex for one in config.rootfs.diff_ids)
        above = diff_ids[len(diff_ids) - len(file.layers) :]
        fits = (
            file.id == image_id == manifest.config.hex
            and file.diff_ids == diff_ids
            and len(diff_ids) == len(manifest.layers)
            and len(file.layers) <= len(diff_ids)
            and all(name.partition("-")[0] == one for name, one in zip(file.layers, above, strict=True))
            and (len(file.layers) > 0 or not diff_ids)
        )
        if not fits:
            raise BrokenImage("its record, manifest and configuration do not fit together")
        return manifest

    def _document(self, digest: str, what: str) -> bytes:
        if (fault := self._blob_fault(digest)) is not None:
            raise BrokenImage(f"its {what} is {fault}")
        return self._catalog.read_blob(digest)

    # Layers

    async def _check_layers(self, file: ImageFile, manifest: Manifest, called: str) -> list[str]:
        """What its blobs lack though the layers are good. Raises: BrokenImage if a layer can't be mended."""
        faults = [self._blob_fault(layer.hex) for layer in manifest.layers]
        hidden = len(file.diff_ids) - len(file.layers)
        names = self._chain(file)
        lost: list[str] = []
        for number, name in enumerate(file.layers, hidden):
            blob = manifest.layers[number]
            if not self._layers.has(name):
                self._seen_layers.add(name)
                if faults[number] is not None:
                    raise BrokenImage(f"its layer {name[:12]} is lost, and the blob of it {faults[number]}")
                lost.append(name[:12])
                if not self._repairs:
                    self._find(f"{called}: its layer {name[:12]} is lost")
            elif name not in self._seen_layers and not self._quick and faults[number] is None:
                await self._compare(name, blob, file.diff_ids[number], names[:number])
            self._seen_layers.add(name)
        if lost and self._repairs:
            await self._unpack_lost(file, manifest)
            self._find(f"{called}: its layers {', '.join(lost)} are lost", "unpacked again")
        return [
            f"the blob of its layer {layer.hex[:12]} is {fault}"
            for layer, fault in zip(manifest.layers, faults, strict=True)
            if fault is not None
        ]

    def _chain(self, file: ImageFile) -> list[str | None]:
        """The names of all layers, bottom first; None for one that is hidden and not there."""
        names: list[str | None] = []
        hidden = len(file.diff_ids) - len(file.layers)
        for diff_id in file.diff_ids[:hidden]:
            below = [name for name in names if name is not None]
            is_known = len(below) == len(names)
            names.append(self._layers.find(diff_id, below[::-1]) if is_known else None)
        return [*names, *file.layers]

    async def _unpack_lost(self, file: ImageFile, manifest: Manifest) -> None:
        for name in file.layers:
            if not self._layers.has(name) and os.path.lexists(self._layers.path(name)):
                _remove(self._layers.path(name))
        layers = Layers(self._layers, self._catalog, self._sandbox, self._report)
        names = await layers.unpack(manifest.layers, file.diff_ids, self._is_good)
        if names is None:
            raise BrokenImage("a layer is lost, and a blob that it is made from")
        visible = self._layers.visible(names)
        if visible != file.layers:
            self._catalog.write_image(msgspec.structs.replace(file, layers=visible))

    async def _is_good(self, digest: str) -> bool:
        await trio.lowlevel.checkpoint()
        return self._blob_fault(digest) is None

    async def _compare(self, name: str, blob: Descriptor, diff_id: str, lower: list[str | None]) -> None:
        """Unpack a layer again, and if the one that is there differs, put the new one in its place."""
        below = [one for one in lower if one is not None]

        async def topmost_first() -> list[str]:
            if len(below) != len(lower):
                raise _Unknown
            return below[::-1]

        sandbox = await self._sandbox()
        source = LayerSource(self._catalog.blob(blob.hex), blob, diff_id, topmost_first, is_lowest=not lower)
        # what a layer takes from one that nobody can see, and that is not kept, is not looked at
        with suppress(_Unknown):
            async with self._layers.fresh(source, sandbox, self._report) as fresh:
                wrong = await self._layers.difference(self._layers.path(name), fresh.directory, sandbox)
                told = f"layer {name[:12]}: {wrong}"
                if wrong is None:
                    return
                if not self._repairs:
                    self._find(told)
                    return
                await self._layers.keep_nodes(name, fresh, sandbox)
                await settle(self._layers.root)
                if self._layers.replace(name, fresh.directory, lambda: self._is_busy(name)):
                    self._find(told, "unpacked again")
                else:
                    self._find(f"{told}: left, for a container runs on it")

    def _is_busy(self, layer: str) -> bool:
        """Whether a container of an image that has this layer runs."""
        return not self._busy().isdisjoint(
            one.id for one in self._catalog.image_files() if layer in one.layers
        )

    # Names

    def _check_names(self) -> None:
        for name, image_id in sorted(self._catalog.names().items()):
            path = f"{self._store.root}/images/{image_id}.json"
            if not os.path.exists(path) and self._catalog.named(name) == image_id:
                if self._repairs:
                    self._catalog.remove_name(name)
                self._find(f"name {name}: its image {image_id[:12]!r} is not there", "removed")


class _Unknown(Exception):
    """What lies below a layer can't be told."""


def _hash_piece(file: BinaryIO, update: Callable[[bytes], None]) -> bool:
    data = file.read(PIECE_BYTES)
    update(data)
    return bool(data)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
