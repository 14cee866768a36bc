"""Index, manifest and configuration of an image (OCI image-spec 1.1) as Structs; unknown fields are left alone."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from netconf.decode import UNREADABLE
from supervisor.errors import SupervisorError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX_TYPES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

T = TypeVar("T")

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class BrokenImage(SupervisorError):
    """An image that is not what the specification, or its own digests, say."""


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A reference to a blob."""

    media_type: str = ""
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None

    @property
    def hex(self) -> str:
        """The digest without its algorithm, checked: it becomes a file name. Raises: BrokenImage."""
        if not _DIGEST.fullmatch(self.digest):
            raise BrokenImage(f"image: {self.digest[:80]!r} is not a sha256 digest")
        return self.digest[7:]


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int = 2
    manifests: tuple[Descriptor, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int = 2
    media_type: str = MANIFEST
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class ConfigRootFs(msgspec.Struct, frozen=True, kw_only=True):
    """What the store needs of a configuration; `ctnr.bundles.image` has the rest."""

    rootfs: RootFs
    created: str | None = None
    os: str = "linux"
    architecture: str = ""
    variant: str = ""


class Labelled(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    labels: dict[str, str] | None = None


class ConfigLabels(msgspec.Struct, frozen=True, kw_only=True):
    """What a listing needs of a configuration."""

    config: Labelled | None = None


def load(data: bytes, kind: type[T], what: str) -> T:
    """Decode one of the above. Raises: BrokenImage that names `what`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as exc:
        raise BrokenImage(
            f"image: its {what} is broken: {exc}", cure="the image was made wrongly: ask who built it"
        ) from None
