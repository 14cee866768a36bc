"""Images, and the bundles that containers are made of."""

from __future__ import annotations

from typing import Any

import msgspec

from ctnr import housekeeping, requests
from ctnr.engine import Engine
from ctnr.images.export import export_image
from ctnr.progress import reporting
from supervisor.sandbox.descriptors import close_all
from supervisor.service.server import Connection


async def pull(engine: Engine, request: requests.Pull, connection: Connection) -> Any:
    async with reporting(connection, bars=request.progress) as report:
        image = await engine.pull(
            request.image, policy=request.image_policy, mode=request.pull, platform=request.platform,
            environ=request.environ, report=report,
        )  # fmt: skip
    return {"id": image.id, "names": list(image.names)}


async def images(engine: Engine, request: requests.Images, connection: Connection) -> Any:
    return engine.images.list()


async def image_import(engine: Engine, request: requests.ImageImport, connection: Connection) -> Any:
    descriptors = connection.take_descriptors()
    try:
        async with reporting(connection, bars=False) as report:
            image = await housekeeping.import_image(
                engine, request, descriptors[0] if descriptors else None, report
            )
    finally:
        close_all(descriptors)
    return {"id": image.id, "names": list(image.names)}


async def image_export(engine: Engine, request: requests.ImageExport, connection: Connection) -> Any:
    await export_image(engine.images, request.image, request.destination)
    return None


async def image_tag(engine: Engine, request: requests.ImageTag, connection: Connection) -> Any:
    await engine.images.tag(request.image, request.name)
    return None


async def image_untag(engine: Engine, request: requests.ImageUntag, connection: Connection) -> Any:
    await engine.images.untag(request.name)
    return None


async def image_remove(engine: Engine, request: requests.ImageRemove, connection: Connection) -> Any:
    return await housekeeping.remove_images(engine, request)


async def image_gc(engine: Engine, request: requests.ImageGc, connection: Connection) -> Any:
    return await housekeeping.collect_images(engine, request)


async def image_fsck(engine: Engine, request: requests.ImageFsck, connection: Connection) -> Any:
    return await housekeeping.check_images(engine, request)


async def image_config(engine: Engine, request: requests.ImageConfig, connection: Connection) -> Any:
    return msgspec.Raw(engine.image(request.image).config_bytes)


async def bundle_list(engine: Engine, request: requests.BundleList, connection: Connection) -> Any:
    return engine.bundles.list()


async def bundle_delete(engine: Engine, request: requests.BundleDelete, connection: Connection) -> Any:
    return await housekeeping.delete_bundles(engine, request)


async def bundle_gc(engine: Engine, request: requests.BundleGc, connection: Connection) -> Any:
    return await housekeeping.collect_bundles(engine)


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Pull: pull,
    requests.Images: images,
    requests.ImageImport: image_import,
    requests.ImageExport: image_export,
    requests.ImageTag: image_tag,
    requests.ImageUntag: image_untag,
    requests.ImageRemove: image_remove,
    requests.ImageGc: image_gc,
    requests.ImageFsck: image_fsck,
    requests.ImageConfig: image_config,
    requests.BundleList: bundle_list,
    requests.BundleDelete: bundle_delete,
    requests.BundleGc: bundle_gc,
}
