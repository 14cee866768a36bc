"""An image out of the store, copied by skopeo."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from ctnr.images.guard import adding, remove_dead
from ctnr.images.locks import claim
from ctnr.images.manifest import Manifest, load
from ctnr.images.reference import ReferenceError
from ctnr.images.skopeo import Skopeo, TransferFailed
from ctnr.images.view import StoreView

DESTINATIONS = ("oci", "oci-archive", "docker-archive", "dir", "docker")


async def export_image(store: StoreView, text: str, destination: str) -> None:
    """Copy an image out by skopeo: oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, dir:DIR, docker://….

    An archive that is there already is replaced, at the very end.

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
        with claim(f"{store.root}/tmp") as directory, _whole_file(destination) as target:
            os.mkdir(directory, 0o700)
            try:
                # as dir:, which takes manifests of any format; skopeo's oci: leaves out Docker's
                os.symlink(store.blob(digest), f"{directory}/manifest.json")
                for one in {manifest.config.hex, *(layer.hex for layer in manifest.layers)}:
                    os.symlink(store.blob(one), f"{directory}/{one}")
                await (
                    Skopeo(("--insecure-policy",))
                    .working_in(directory)
                    .copy(f"dir:{directory}", target, told_as=f"{text} to {destination}")
                )
            finally:
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _whole_file(destination: str) -> Iterator[str]:
    """Where skopeo shall write: for archives a file beside, which takes the place when it is whole.

    Raises: TransferFailed.
    """
    transport, _, rest = destination.partition(":")
    path, colon, name = rest.partition(":")
    if not transport.endswith("-archive") or (os.path.exists(path) and not os.path.isfile(path)):
        yield destination
        return
    path = os.path.realpath(path)
    with ExitStack() as stack:
        try:
            remove_dead(os.path.dirname(path))
            temporary = stack.enter_context(claim(os.path.dirname(path)))
        except OSError as exc:
            raise TransferFailed(
                f"{destination}: {os.path.dirname(path)}: {exc.strerror}",
                cure="give a file that you may write",
            ) from None
        stack.callback(_remove, temporary)
        yield f"{transport}:{temporary}{colon}{name}"
        os.rename(temporary, path)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
