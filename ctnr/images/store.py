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
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec
import trio

from ctnr.images import skopeo
from ctnr.images.catalog import ImageFile, settle
from ctnr.images.guard import adding, collecting
from ctnr.images.locks import SUFFIX, claim, file_lock
from ctnr.images.manifest import CONFIG, MANIFEST, BrokenImage, ConfigRootFs, Descriptor, Manifest, load
from ctnr.images.progress import Progress, Report
from ctnr.images.pull import Layers, OpenSandbox, Pull, architecture, parse_platform, platform_options
from ctnr.images.reference import Reference, local_name, local_names, parse_reference
from ctnr.images.rootfs import write_layer
from ctnr.images.view import Image, StoreView
from supervisor.errors import NotFound, SupervisorError

MODES = ("missing", "always", "newer", "never")


class ImageStore(StoreView):
    """One store. Every method leaves it valid, wherever it is interrupted."""

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
        own_lock = file_lock(f"{self.root}/locks/{key[:32]}{SUFFIX}", transient=True)
        async with adding(self, sandbox), own_lock as has_waited:
            # whoever had the lock has pulled the same, by the same rules, after we were asked
            is_done = has_waited and self.catalog.named_at(reference.name) >= asked_at
            if is_done and (image := self._find_for(reference.name, platform)) is not None:
                return image
            may_keep_docker = not rules.wants_signatures
            image = await self._pull(
                reference, tool, platform, sandbox, report, may_keep_docker=may_keep_docker
            )
        warn_of_platform(image, text, platform, report)
        return image

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
            os.makedirs(work := f"{directory}/work", 0o700)
            try:
                tool = tool.working_in(work)
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
        file = self.find_file(text)
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
            layers=self.layers.visible(names),
        )
        await settle(self.root)
        self.catalog.write_image(file)
        self.catalog.write_name(name, file.id)
        image = self._open(file)
        assert image is not None
        return image

    async def _is_here(self, digest: str) -> bool:
        await trio.lowlevel.checkpoint()
        return os.path.exists(self.blob(digest))

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
        async with adding(self, sandbox):
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
        async with adding(self, None):
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
        self, text: str, *, force: bool = False, used: Callable[[], Iterable[str]] = tuple
    ) -> builtins.list[str]:
        """Take away a name, or with an id (or the last name) the image; `gc` then frees what nothing refers to.

        Waits until no container is being made of an image, nor a pull under way; then `used` is asked.
        Returns what was removed, for people. Raises: NotFound, StoreError, SupervisorError if it is used or has several
        names.
        """
        self.get_file(text)  # before it is waited for
        async with collecting(self):
            return self._remove(text, force=force, used=used)

    def _remove(self, text: str, *, force: bool, used: Callable[[], Iterable[str]]) -> builtins.list[str]:
        file = self.get_file(text)
        names = sorted(name for name, image_id in self.catalog.names().items() if image_id == file.id)
        by_name = next((name for name in local_names(text) if name in names), None)
        if by_name is not None and len(names) > 1:
            self.catalog.remove_name(by_name)
            return [f"untagged: {by_name}"]
        if file.id in set(used()) and not force:
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


def warn_of_platform(image: Image, name: str, wanted: str | None, report: Report) -> None:
    """Of an image that is for another platform than the one that is `wanted`, by default this machine's."""
    system, machine, variant = parse_platform(wanted)
    its = (*image.platform.split("/"), "")
    if len(its) > 2 and (its[:2] != (system, machine) or (variant and its[2] not in ("", variant))):
        expected = wanted or f"{system}/{machine}, as this machine is"
        what = f"it is for {image.platform}, not for {expected}"
        report(Progress(f"image {name}", what, warning=True))


def _is_for(its: str, wanted: str) -> bool:
    return its == wanted or (its.startswith(f"{wanted}/") and wanted.count("/") == 1)
