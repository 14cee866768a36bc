"""An image out of the store, copied by skopeo."""

from __future__ import annotations

import os
import shutil

from ctnr.images.guard import adding
from ctnr.images.locks import claim
from ctnr.images.manifest import Manifest, load
from ctnr.images.reference import ReferenceError
from ctnr.images.skopeo import Skopeo
from ctnr.images.view import StoreView

DESTINATIONS = ("oci", "oci-archive", "docker-archive", "dir", "docker")


async def export_image(store: StoreView, text: str, destination: str) -> None:
    """Copy an image out by skopeo: oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, dir:DIR, docker://….

    Raises: NotFound, ReferenceError, TransferFailed, StoreError.
    """
    image = store.get(text)
    transport = destination.partition(":")[0]
    if transport not in DESTINATIONS or transport == destination:
        raise ReferenceError(
            f"destination {destination}: no transport",
            cure="oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE or dir:DIR",
        )
    if transport == "docker-archive" and destination.count(":") == 1 and image.names:
        destination += f":{image.names[0]}" if ":" not in image.names[0].split("/")[0] else ""
    digest = image.manifest_digest.removeprefix("sha256:")
    manifest = load(store.catalog.read_blob(digest), Manifest, "manifest")
    async with adding(store, None):
        with claim(f"{store.root}/tmp") as directory:
            os.mkdir(directory, 0o700)
            try:
                # as dir:, which takes manifests of any format; skopeo's oci: leaves out Docker's
                os.symlink(store.blob(digest), f"{directory}/manifest.json")
                for one in {manifest.config.hex, *(layer.hex for layer in manifest.layers)}:
                    os.symlink(store.blob(one), f"{directory}/{one}")
                await Skopeo(("--insecure-policy",)).copy(
                    f"dir:{directory}", destination, told_as=f"{text} to {destination}"
                )
            finally:
                shutil.rmtree(directory, ignore_errors=True)
