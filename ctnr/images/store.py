"""The image store: blobs, layers, images and names below one directory, shared by processes, valid at every moment.

blobs/sha256/<hex>     manifests, configurations, compressed layers, as an OCI layout has them
layers/<name>/         unpacked layers (layers.py)
images/<id>.json       an image: its manifest and what it is made of; <id> is the digest of its configuration
names/<quoted name>    a name: the id it stands for
tmp/                   pulls under way
locks/                 one for each name that is being pulled
lock                   shared by whoever adds, exclusive for whoever collects garbage
"""

from __future__ import annotations

import builtins
import errno
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import trio

from ctnr.images import skopeo
from ctnr.images.catalog import Catalog, ImageFile, names_in
from ctnr.images.layers import LayerStore
from ctnr.images.locks import SUFFIX, claim, dead_claims, file_lock
from ctnr.images.manifest import CONFIG, MANIFEST, BrokenImage, ConfigRootFs, Descriptor, Manifest, load
from ctnr.images.progress import Progress, Report
from ctnr.images.pull import Layers, OpenSandbox, Pull, architecture, parse_platform, platform_options
from ctnr.images.reference import Reference, ReferenceError, local_name, local_names, parse_reference
from ctnr.images.rootfs import write_layer
from supervisor.errors import NotFound, SupervisorError

PREFIX_MIN = 4
MODES = ("missing", "always", "newer", "never")
DESTINATIONS = ("oci", "oci-archive", "docker-archive", "dir", "docker")

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


class StoreError(SupervisorError):
    """The store can't be written."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is there. `layer_paths` are directories, bottom first."""

    id: str
    names: tuple[str, ...]
    manifest_digest: str
    config_bytes: bytes
    layer_paths: tuple[str, ...]


class ImageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `ctnr images`. Sizes are those of the compressed blobs, `created` is RFC 3339 or empty."""

    id: str
    names: tuple[str, ...]
    digest: str
    created: str
    added: float
    size_bytes: int
    layers: int


class ImageStore:
    """One store. Every method leaves it valid, wherever it is interrupted."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.catalog = Catalog(root)
        self.layers = LayerStore(f"{root}/layers")

    # Looking

    def find(self, text: str) -> Image | None:
        """By name as people write it, by id or prefix of an id, or by digest."""
        file = self._find_file(text)
        return None if file is None else self._open(file)

    def get(self, text: str) -> Image:
        """As `find`. Raises: NotFound."""
        image = self.find(text)
        if image is None:
            raise NotFound(
                f"image {text} is not in the store",
                cure=f"ctnr pull {text}   (ctnr images lists what is there)",
            )
        return image

    def load(self, image_id: str) -> Image | None:
        """By id; None unless all of it is there."""
        file = self.catalog.image_file(image_id)
        return None if file is None else self._open(file)

    def list(self) -> list[ImageSummary]:
        """All images, the newest addition first."""
        names: dict[str, list[str]] = {}
        for name, image_id in self.catalog.names().items():
            names.setdefault(image_id, []).append(name)
        rows = [
            ImageSummary(
                id=file.id,
                names=tuple(sorted(names.get(file.id, ()))),
                digest=f"sha256:{file.source_digest or file.manifest}",
                created=file.created or "",
                added=file.added,
                size_bytes=file.size_bytes,
                layers=len(file.diff_ids),
            )
            for file in self.catalog.image_files()
        ]
        return sorted(rows, key=lambda row: row.added, reverse=True)

    def blob(self, digest: str) -> str:
        return self.catalog.blob(digest)

    def _find_file(self, text: str) -> ImageFile | None:
        for name in local_names(text):
            image_id = self.catalog.named(name)
            if image_id is not None and (file := self.catalog.image_file(image_id)) is not None:
                return file
        wanted = text.rpartition("@")[2].removeprefix("sha256:")
        if len(wanted) < PREFIX_MIN or not all(letter in "0123456789abcdef" for letter in wanted):
            return None
        is_whole = len(wanted) == 64
        if "@" in text and not is_whole:
            return None
        by_id = "" if "@" in text else wanted
        found = [
            one
            for one in self.catalog.image_files()
            if (is_whole and wanted in (one.manifest, one.source_digest))
            or (by_id and one.id.startswith(by_id))
        ]
        return found[0] if len(found) == 1 else None

    def _open(self, file: ImageFile) -> Image | None:
        if not all(self.layers.has(one) for one in file.layers):
            return None
        try:
            with open(self.blob(file.id), "rb") as opened:
                config = opened.read()
        except FileNotFoundError:
            return None
        return Image(
            id=file.id,
            names=tuple(sorted(name for name, one in self.catalog.names().items() if one == file.id)),
            manifest_digest=f"sha256:{file.manifest}",
            config_bytes=config,
            layer_paths=tuple(self.layers.path(one) for one in file.layers),
        )

    # Adding

    async def pull(
        self,
        text: str,
        *,
        sandbox: OpenSandbox,
        policy: str | None = None,
        mode: str = "missing",
        platform: str | None = None,
        environ: dict[str, str] | None = None,
        report: Report = lambda progress: None,
    ) -> Image:
        """The image that `text` names, fetched as `mode` says (missing, always, newer, never).

        `sandbox` gives (awaited) the sandbox to unpack in. Concurrent pulls of the same do the work once, also those of
        other processes. Raises: ReferenceError, NotFound, TransferFailed, BrokenImage, StoreError, SupervisorError.
        """
        if mode not in MODES:
            raise SupervisorError(f"pull policy {mode}: unknown", cure=f"one of {', '.join(MODES)}")
        if mode in ("missing", "never") and (image := self._find_for(text, platform)) is not None:
            return image
        reference = parse_reference(text)
        if mode == "never":
            raise NotFound(
                f"image {text} is not in the store" + (f" for {platform}" if platform else ""),
                cure=f"ctnr pull {text}, or run without --pull=never",
            )
        asked_at = time.time()
        environ = dict(os.environ) if environ is None else environ
        rules = skopeo.find_policy(policy, environ)
        tool = skopeo.Skopeo((*rules.options, *platform_options(platform)), environ)
        if (
            mode == "newer"
            and (image := await self._if_current(text, reference, platform, tool)) is not None
        ):
            return image
        key = hashlib.sha256(
            "\0".join((reference.source, platform or "", *rules.options)).encode()
        ).hexdigest()
        async with self._adding(sandbox):
            os.makedirs(f"{self.root}/locks", 0o711, exist_ok=True)
            async with file_lock(f"{self.root}/locks/{key[:32]}{SUFFIX}", transient=True) as has_waited:
                # whoever had the lock has pulled the same, by the same rules, after we were asked
                is_done = has_waited and self.catalog.named_at(reference.name) >= asked_at
                if is_done and (image := self._find_for(reference.name, platform)) is not None:
                    return image
                may_keep_docker = not rules.wants_signatures
                return await self._pull(
                    reference, tool, platform, sandbox, report, may_keep_docker=may_keep_docker
                )

    async def _pull(
        self,
        reference: Reference,
        tool: skopeo.Skopeo,
        platform: str | None,
        sandbox: OpenSandbox,
        report: Report,
        *,
        may_keep_docker: bool,
    ) -> Image:
        layers = Layers(self.layers, self.catalog, sandbox, report)
        with claim(f"{self.root}/tmp") as directory:
            os.mkdir(directory, 0o700)
            try:
                pull = Pull(self.catalog, layers, tool, directory, reference.name, report)
                manifest, source_digest = await pull.run(
                    reference.source, parse_platform(platform), may_keep_docker=may_keep_docker
                )
            finally:
                shutil.rmtree(directory, ignore_errors=True)
        image = await self._add(manifest, reference.name, layers, source_digest)
        report(Progress(reference.name, "done"))
        return image

    async def _if_current(
        self, text: str, reference: Reference, platform: str | None, tool: skopeo.Skopeo
    ) -> Image | None:
        """The image that is there, if its source has no other one, or can't be asked."""
        image = self._find_for(text, platform)
        file = None if image is None else self.catalog.image_file(image.id)
        if file is None:
            return None
        try:
            digest = hashlib.sha256(await tool.inspect(reference.source)).hexdigest()
        except skopeo.TransferFailed:
            return image
        return image if digest in (file.manifest, file.source_digest) else None

    def _find_for(self, text: str, platform: str | None) -> Image | None:
        file = self._find_file(text)
        if file is None or (platform is not None and not _is_for(file.platform, platform)):
            return None
        return self._open(file)

    async def _add(self, manifest_at: Descriptor, name: str, layers: Layers, source_digest: str) -> Image:
        """Unpack what a manifest in the blob directory refers to, as far as it is not, and give it its name."""
        manifest = load(self.catalog.read_blob(manifest_at.hex), Manifest, "manifest")
        config = load(self.catalog.read_blob(manifest.config.hex), ConfigRootFs, "configuration")
        diff_ids = tuple(Descriptor(digest=one, size=0).hex for one in config.rootfs.diff_ids)
        if len(diff_ids) != len(manifest.layers):
            raise BrokenImage(f"image {name}: {len(manifest.layers)} layers, but {len(diff_ids)} diff ids")
        names = await layers.unpack(manifest.layers, diff_ids, self._is_here)
        if names is None:
            raise BrokenImage(f"image {name}: some of its layers did not come", cure="pull it again")
        file = ImageFile(
            id=manifest.config.hex,
            manifest=manifest_at.hex,
            media_type=manifest_at.media_type,
            source_digest=source_digest,
            platform="/".join(filter(None, (config.os, config.architecture, config.variant))),
            created=config.created,
            added=time.time(),
            size_bytes=sum(layer.size for layer in manifest.layers),
            diff_ids=diff_ids,
            layers=self._visible(names),
        )
        self.catalog.write_image(file)
        self.catalog.write_name(name, file.id)
        image = self._open(file)
        assert image is not None
        return image

    async def _is_here(self, digest: str) -> bool:
        await trio.lowlevel.checkpoint()
        return os.path.exists(self.blob(digest))

    def _visible(self, names: tuple[str, ...]) -> tuple[str, ...]:
        for number in range(len(names) - 1, 0, -1):
            if self.layers.hides_all_below(names[number]):
                return names[number:]
        return names

    async def import_rootfs(
        self,
        source: str | int,
        name: str,
        *,
        sandbox: OpenSandbox,
        config: dict[str, Any] | None = None,
        report: Report = lambda progress: None,
    ) -> Image:
        """A root filesystem as an image of one layer: a directory, a tar file (may be compressed), or its descriptor.

        Raises: ReferenceError, BrokenImage, StoreError, SupervisorError.
        """
        name = local_name(name)
        async with self._adding(sandbox):
            report(Progress(name, "importing"))
            with claim(f"{self.root}/tmp") as path:
                try:
                    layer, diff_id = await write_layer(source, path, await sandbox())
                    os.rename(path, self.blob(layer.hex))
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(path)
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            configuration = {
                "created": created,
                "architecture": architecture(),
                "os": "linux",
                "config": config or {},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
                "history": [{"created": created, "created_by": "ctnr image import"}],
            }
            own = self.catalog.write_blob(msgspec.json.encode(configuration), CONFIG)
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": own, "layers": [layer]}
            at = self.catalog.write_blob(msgspec.json.encode(manifest), MANIFEST)
            return await self._add(at, name, Layers(self.layers, self.catalog, sandbox, report), at.hex)

    # Names

    async def tag(self, text: str, name: str) -> None:
        """One more name. Raises: NotFound, ReferenceError, StoreError."""
        async with self._adding(None):
            self.catalog.write_name(local_name(name), self.get(text).id)

    async def untag(self, text: str) -> None:
        """Take a name away; the image stays. Raises: NotFound."""
        await trio.lowlevel.checkpoint()
        for name in local_names(text):
            if self.catalog.named(name) is not None:
                self.catalog.remove_name(name)
                return
        raise NotFound(f"no image has the name {text}", cure="ctnr images lists them")

    # Removing

    async def remove(
        self, text: str, *, force: bool = False, used: Iterable[str] = ()
    ) -> builtins.list[str]:
        """Take away a name, or with an id (or the last name) the image; `gc` then frees what nothing refers to.

        Returns what was removed, for people. Raises: NotFound, SupervisorError if it is used or has several names.
        """
        await trio.lowlevel.checkpoint()
        file = self._find_file(text)
        if file is None:
            self.get(text)
            raise AssertionError
        names = sorted(name for name, image_id in self.catalog.names().items() if image_id == file.id)
        by_name = next((name for name in local_names(text) if name in names), None)
        if by_name is not None and len(names) > 1:
            self.catalog.remove_name(by_name)
            return [f"untagged: {by_name}"]
        if file.id in set(used) and not force:
            raise SupervisorError(
                f"image {text} is used by a container or a bundle",
                cure="remove them first, or: ctnr image rm --force",
            )
        if by_name is None and len(names) > 1 and not force:
            raise SupervisorError(
                f"image {text} has {len(names)} names: {', '.join(names)}",
                cure="remove them one by one, or: ctnr image rm --force",
            )
        for name in names:
            self.catalog.remove_name(name)
        self.catalog.remove_image(file.id)
        return [*(f"untagged: {name}" for name in names), f"deleted: {file.id}"]

    async def gc(self, *, sandbox: OpenSandbox, used: Iterable[str], every: bool = False) -> dict[str, int]:
        """Drop images without a name (with `every` also named ones) that are not `used`, then blobs and layers of none.

        Waits until no pull is under way, in any process. Returns {"images", "layers", "blobs", "bytes"}.
        """
        used = set(used)
        dropped = {"images": 0, "layers": 0, "blobs": 0, "bytes": 0}
        self._make()
        async with file_lock(f"{self.root}/lock"):
            names = self.catalog.names()
            keep = used if every else used | set(names.values())
            for file in list(self.catalog.image_files()):
                if file.id not in keep:
                    for name in [name for name, image_id in names.items() if image_id == file.id]:
                        self.catalog.remove_name(name)
                    self.catalog.remove_image(file.id)
                    dropped["images"] += 1
            blobs, layers = self._referenced()
            for name in names_in(self.catalog.blob_dir):
                if name not in blobs:
                    dropped["bytes"] += os.stat(self.blob(name)).st_size
                    os.unlink(self.blob(name))
                    dropped["blobs"] += 1
            stale = [self.layers.path(name) for name in names_in(self.layers.root) if name not in layers]
            if stale:
                await (await sandbox()).remove_tree(*stale)
                dropped["layers"] += len(stale)
            await self._sweep(sandbox)
        return dropped

    def _referenced(self) -> tuple[set[str], set[str]]:
        blobs: set[str] = set()
        layers: set[str] = set()
        for file in self.catalog.image_files():
            blobs |= {file.id, file.manifest}
            layers |= {*file.layers, *file.diff_ids}
            with suppress(FileNotFoundError, BrokenImage):
                manifest = load(self.catalog.read_blob(file.manifest), Manifest, "manifest")
                blobs |= {layer.hex for layer in manifest.layers}
        return blobs, layers

    async def _sweep(self, sandbox: OpenSandbox) -> None:
        """Remove what processes left that died at work."""
        for directory in ("tmp", "images", "names", "blobs/sha256"):
            for path in dead_claims(f"{self.root}/{directory}"):
                if os.path.isdir(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(FileNotFoundError):
                        os.unlink(path)
                with suppress(FileNotFoundError):
                    os.unlink(path + SUFFIX)
        if dead_claims(self.layers.root):
            await self.layers.sweep(await sandbox())

    # Exporting

    async def export(self, text: str, destination: str) -> None:
        """Copy an image out by skopeo: oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, dir:DIR, docker://….

        Raises: NotFound, ReferenceError, TransferFailed, StoreError.
        """
        image = self.get(text)
        transport = destination.partition(":")[0]
        if transport not in DESTINATIONS or transport == destination:
            raise ReferenceError(
                f"destination {destination}: no transport",
                cure="oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE or dir:DIR",
            )
        if transport == "docker-archive" and destination.count(":") == 1 and image.names:
            destination += f":{image.names[0]}" if ":" not in image.names[0].split("/")[0] else ""
        digest = image.manifest_digest.removeprefix("sha256:")
        manifest = load(self.catalog.read_blob(digest), Manifest, "manifest")
        async with self._adding(None):
            with claim(f"{self.root}/tmp") as directory:
                os.mkdir(directory, 0o700)
                try:
                    # as dir:, which takes manifests of any format; skopeo's oci: leaves out Docker's
                    os.symlink(self.blob(digest), f"{directory}/manifest.json")
                    for one in {manifest.config.hex, *(layer.hex for layer in manifest.layers)}:
                        os.symlink(self.blob(one), f"{directory}/{one}")
                    await skopeo.Skopeo(("--insecure-policy",)).copy(
                        f"dir:{directory}", destination, told_as=f"{text} to {destination}"
                    )
                finally:
                    shutil.rmtree(directory, ignore_errors=True)

    # Files

    def _make(self) -> None:
        with self._clear_errors():
            for directory in ("tmp", "blobs/sha256"):
                os.makedirs(f"{self.root}/{directory}", 0o711, exist_ok=True)

    @asynccontextmanager
    async def _adding(self, sandbox: OpenSandbox | None) -> AsyncIterator[None]:
        """The store is there and writable, and nothing is collected meanwhile."""
        self._make()
        async with file_lock(f"{self.root}/lock", shared=True):
            if sandbox is not None:
                await self._sweep(sandbox)
            with self._clear_errors():
                yield

    def _clear_errors(self) -> _ClearErrors:
        return _ClearErrors(self.root)


class _ClearErrors:
    """What the kernel says about the store, as one line with a cure."""

    def __init__(self, root: str) -> None:
        self._root = root

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, OSError) and exc.errno in _NO_SPACE:
            raise StoreError(
                f"image store {self._root}: no space left on device",
                cure="ctnr image gc, or another --store-dir",
            ) from None
        if isinstance(exc, OSError) and exc.errno in _NO_WRITE:
            where = exc.filename or self._root
            raise StoreError(
                f"image store {self._root}: {where}: {exc.strerror}",
                cure="make it yours and writable, or use --store-dir",
            ) from None


def _is_for(its: str, wanted: str) -> bool:
    return its == wanted or (its.startswith(f"{wanted}/") and wanted.count("/") == 1)
