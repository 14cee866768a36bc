"""What is in a store: images by name, by id or by digest. Looking needs no lock and changes nothing."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from ctnr.images.catalog import Catalog, ImageFile
from ctnr.images.layers import LayerStore
from ctnr.images.manifest import BrokenImage, ConfigLabels, Manifest, load
from ctnr.images.reference import local_names
from netconf.decode import UNREADABLE
from supervisor.errors import NotFound

PREFIX_MIN = 4


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is there. `layer_paths` are directories, bottom first; `platform` is OS/ARCHITECTURE[/VARIANT]."""

    id: str
    platform: str
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
    labels: dict[str, str]


class StoreView:
    """The images of the store at `root`, and its files: `catalog` and `layers`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.catalog = Catalog(root)
        self.layers = LayerStore(f"{root}/layers")

    def find(self, text: str) -> Image | None:
        """By name as people write it, by id or prefix of an id, or by digest."""
        file = self.find_file(text)
        return None if file is None else self._open(file)

    def get(self, text: str) -> Image:
        """As `find`. Raises: NotFound."""
        image = self.find(text)
        if image is None:
            raise _not_found(text)
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
                labels=self._labels(file.id),
            )
            for file in self.catalog.image_files()
        ]
        return sorted(rows, key=lambda row: row.added, reverse=True)

    def _labels(self, image_id: str) -> dict[str, str]:
        """Of its configuration; none where that can't be read."""
        try:
            with open(self.blob(image_id), "rb") as opened:
                config = msgspec.json.decode(opened.read(), type=ConfigLabels).config
        except (OSError, *UNREADABLE):
            return {}
        return (config.labels or {}) if config is not None else {}

    def blob(self, digest: str) -> str:
        return self.catalog.blob(digest)

    def parts(self, file: ImageFile) -> tuple[set[str], set[str]]:
        """The names of an image's blobs, and of its layers; some may not be there."""
        blobs = {file.id, file.manifest}
        with suppress(FileNotFoundError, BrokenImage):
            manifest = load(self.catalog.read_blob(file.manifest), Manifest, "manifest")
            blobs |= {layer.hex for layer in manifest.layers}
        return blobs, {*file.layers, *file.diff_ids}

    def get_file(self, text: str) -> ImageFile:
        """As `find_file`. Raises: NotFound."""
        file = self.find_file(text)
        if file is None:
            raise _not_found(text)
        return file

    def find_file(self, text: str) -> ImageFile | None:
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
            platform=file.platform,
            names=tuple(sorted(name for name, one in self.catalog.names().items() if one == file.id)),
            manifest_digest=f"sha256:{file.manifest}",
            config_bytes=config,
            layer_paths=tuple(self.layers.path(one) for one in file.layers),
        )


def _not_found(text: str) -> NotFound:
    return NotFound(
        f"image {text} is not in the store",
        cure=f"ctnr images lists what is there, ctnr pull {text} fetches it",
    )
