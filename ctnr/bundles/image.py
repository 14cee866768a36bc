"""The part of an image's configuration that shapes a container (OCI image-spec 1.0, config.md)."""

from __future__ import annotations

import msgspec

from ctnr.bundles.errors import BundleError
from netconf.decode import UNREADABLE


class ImageHealth(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Docker's HEALTHCHECK. Times are nanoseconds, 0 is the default; OCI's specification does not know it."""

    test: tuple[str, ...] | None = None  # NONE, or CMD and words, or CMD-SHELL and a line
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class ImageProcess(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The object `config` of an image configuration. Lists and maps may be null there."""

    user: str | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, msgspec.Raw] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    exposed_ports: dict[str, msgspec.Raw] | None = None
    healthcheck: ImageHealth | None = None
    shell: tuple[str, ...] | None = None


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An image configuration, without its layers."""

    config: ImageProcess = ImageProcess()
    os: str = "linux"
    architecture: str = ""
    author: str | None = None
    created: str | None = None


_nullable = msgspec.json.Decoder(ImageConfig)


def load_image_config(data: bytes) -> ImageConfig:
    """The typed view of the configuration blob `data`, other fields ignored.

    Raises: BundleError if it is no image configuration.
    """
    try:
        return _nullable.decode(data)
    except msgspec.ValidationError:
        pass  # `"config": null` is legal, and rare: take the slow way only then
    except UNREADABLE as error:
        raise BundleError(f"image configuration: {error}", cure="pull the image again") from error
    try:
        loose = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        return _nullable.decode(msgspec.json.encode({k: v for k, v in loose.items() if bytes(v) != b"null"}))
    except UNREADABLE as error:
        raise BundleError(f"image configuration: {error}", cure="pull the image again") from error
