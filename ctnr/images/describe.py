"""An image as its source describes it, read beside the copy: layers can then be unpacked while others still come, and
an image in Docker's format keeps its own manifest and configuration (with HEALTHCHECK, SHELL, ONBUILD, which the
conversion to OCI drops), and so the id and digest that docker and podman show.

Nothing here has passed the policy. What a description says is used only where the copy, which has, says the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from ctnr.images.manifest import (
    DOCKER_MANIFEST,
    INDEX_TYPES,
    BrokenImage,
    ConfigRootFs,
    Descriptor,
    Index,
    Manifest,
    load,
)  # fmt: skip
from ctnr.images.skopeo import Skopeo, TransferFailed
from netconf.decode import UNREADABLE


class _Probe(msgspec.Struct, rename="camel"):
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True)
class Description:
    """`digest` (hex) is that of what the reference names: the manifest, or the index that it was chosen from."""

    digest: str
    manifest_bytes: bytes
    manifest: Manifest
    config_bytes: bytes
    diff_ids: tuple[str, ...]

    @property
    def is_docker(self) -> bool:
        return self.manifest.media_type == DOCKER_MANIFEST


async def describe(skopeo: Skopeo, source: str, platform: tuple[str, str, str]) -> Description | None:
    """None if the source can't say, for whatever reason: the copy then tells, or has to do without.

    `platform` is (os, architecture, variant or "").
    """
    try:
        raw = await skopeo.inspect(source)
        manifest_bytes = raw
        probe = msgspec.json.decode(raw, type=_Probe)
        if probe.media_type in INDEX_TYPES or bytes(probe.manifests):
            child = _choose(load(raw, Index, "index"), platform)
            if child is None or not source.startswith("docker://"):
                return None  # other transports can't name one image of an index
            source = f"{_without_tag(source)}@{child.digest}"
            manifest_bytes = await skopeo.inspect(source)
            if hashlib.sha256(manifest_bytes).hexdigest() != child.hex:
                return None
        manifest = load(manifest_bytes, Manifest, "manifest")
        config_bytes = await skopeo.inspect(source, "--config")
        config = load(config_bytes, ConfigRootFs, "configuration")
        if hashlib.sha256(config_bytes).hexdigest() != manifest.config.hex:
            return None  # the tag has moved between the two questions
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            return None
        diff_ids = tuple(Descriptor(digest=one, size=0).hex for one in config.rootfs.diff_ids)
        return Description(hashlib.sha256(raw).hexdigest(), manifest_bytes, manifest, config_bytes, diff_ids)
    except (TransferFailed, BrokenImage, *UNREADABLE):
        return None


def _choose(index: Index, platform: tuple[str, str, str]) -> Descriptor | None:
    system, architecture, variant = platform
    for one in index.manifests:
        its = one.platform
        fits = its is not None and (its.os, its.architecture) == (system, architecture)
        if fits and its is not None and variant in ("", its.variant):
            return one
    return None


def _without_tag(source: str) -> str:
    base = source.partition("@")[0]
    head, _, last = base.rpartition("/")
    return f"{head}/{last.partition(':')[0]}"
