"""What is in the stores and what may go: images and bundles, and the containers that need them."""

from __future__ import annotations

from typing import Any

from ctnr import requests
from ctnr.engine import Engine
from ctnr.images.fsck import Verdict, check_store, repair_store
from ctnr.images.garbage import Dropped, collect_garbage
from ctnr.images.progress import Report
from ctnr.images.view import Image
from supervisor.errors import SupervisorError
from supervisor.sandbox.sandbox import Sandbox


async def import_image(
    engine: Engine, request: requests.ImageImport, descriptor: int | None, report: Report
) -> Image:
    """Raises: as ImageStore.import_rootfs."""
    source = request.source if request.source is not None else descriptor
    if source is None:
        raise SupervisorError("nothing to import", cure="give a directory, a tar file, or - for stdin")
    config: dict[str, Any] = {"Env": list(request.env) or None, "Cmd": list(request.cmd) or None}
    config |= {
        "Entrypoint": list(request.entrypoint) or None,
        "WorkingDir": request.workdir,
        "User": request.user,
    }
    config["Labels"] = dict(label.partition("=")[::2] for label in request.labels) or None
    return await engine.images.import_rootfs(
        source, request.name, sandbox=engine.sandbox, report=report,
        config={key: value for key, value in config.items() if value is not None},
    )  # fmt: skip


def used_images(engine: Engine) -> set[str]:
    """Ids of images that a container or bundle was made from, those of other services on this store too."""
    of_records = {record.image_id for record in engine.records.everybody()}
    return of_records | {file.image_id for file in engine.bundles.all().values()}


async def remove_images(engine: Engine, request: requests.ImageRemove) -> list[str]:
    told: list[str] = []
    for text in request.images:
        told += await engine.images.remove(text, force=request.force, used=lambda: used_images(engine))
    await collect_garbage(
        engine.images,
        sandbox=engine.sandbox,
        used=lambda: {*used_images(engine), *(row.id for row in engine.images.list())},
    )
    return told


async def collect_images(engine: Engine, request: requests.ImageGc) -> Dropped:
    return await collect_garbage(
        engine.images, sandbox=engine.sandbox, used=lambda: used_images(engine), every=request.all,
        among=request.among,
    )  # fmt: skip


async def check_images(engine: Engine, request: requests.ImageFsck) -> Verdict:
    if not request.repair:
        return await check_store(engine.images, sandbox=engine.sandbox, quick=request.quick)
    return await repair_store(
        engine.images, sandbox=engine.sandbox, quick=request.quick,
        used=lambda: used_images(engine), busy=lambda: busy_images(engine),
    )  # fmt: skip


def busy_images(engine: Engine) -> set[str]:
    """Ids of images whose containers run, those of other services on this store too."""
    return {file.image_id for name, file in engine.bundles.all().items() if engine.bundles.is_busy(name)}


async def delete_bundles(engine: Engine, request: requests.BundleDelete) -> list[str]:
    sandbox = await engine.sandbox()
    for name in request.names:
        users = [record for record in engine.records.all() if record.bundle == name]
        for record in users:
            container = engine.live(record)
            if container is not None and request.force:
                container.cancel()
                await container.wait_gone()
        await _delete(engine, name, sandbox)
        for record in users:
            engine.records.remove(record)
    return list(request.names)


async def collect_bundles(engine: Engine) -> dict[str, Any]:
    """Remove bundles of containers that nobody knows any more: {"bundles": [NAME, …], "bytes": N}."""
    uppers = {name: engine.bundles.upper(name) for name in stale_bundles(engine)}
    sizes = await engine.tree_sizes(list(uppers.values()))
    removed = []
    for name in uppers:
        if not engine.bundles.is_busy(name):
            await _delete(engine, name, await engine.sandbox())
            removed.append(name)
    return {"bundles": removed, "bytes": sum(sizes[uppers[name]] for name in removed)}


def stale_bundles(engine: Engine) -> list[str]:
    """Those that have no name and no container."""
    found = engine.bundles.all()
    known = engine.records.bundles()  # after them: a container's record is there before its bundle
    return [name for name, file in found.items() if not file.named and name not in known]


async def _delete(engine: Engine, name: str, sandbox: Sandbox) -> None:
    bundle = engine.bundles.get(name)
    try:
        await engine.volumes.drop(bundle, sandbox=engine.sandbox)
        await engine.bundles.remove(bundle, sandbox)
    finally:
        bundle.close()
