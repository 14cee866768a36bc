"""From a request to a container that can be started: its faults are told, then image, name, bundle and record."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

import msgspec

from ctnr import requests
from ctnr.bundles.build import wishes_of
from ctnr.bundles.health import check_health
from ctnr.bundles.log_options import check_log_options
from ctnr.bundles.mounts import check_places, with_image_volumes
from ctnr.bundles.names import check_names
from ctnr.bundles.namespaces import check_namespaces
from ctnr.bundles.resources import build_limits
from ctnr.bundles.store import Bundle, new_file
from ctnr.dependencies import parse_dependency
from ctnr.images.guard import holding
from ctnr.images.progress import Progress, Report
from ctnr.images.store import warn_of_platform
from ctnr.images.view import Image
from ctnr.ports import choose_ports
from ctnr.records import Record
from supervisor.errors import NotFound, SupervisorError
from supervisor.readiness import parse_ready
from supervisor.restart import Restart, RestartPolicy, parse_restart_policy

if TYPE_CHECKING:
    from ctnr.engine import Engine


async def create(engine: Engine, request: requests.Run, report: Report) -> Record:
    """Image, bundle and record of a container; nothing runs yet. Raises: SupervisorError, OSError."""
    _check(engine, request)
    async with holding(engine.images):  # a gc must not take the image before the record tells of it
        image = await _image_of(engine, request, report)
        process = engine.assembly.config(image).config
        _warn(request, image, report)
        await _make_room(engine, request)
        record = engine.records.new(
            request.name or request.bundle,
            image=request.image or (image.names[0] if image.names else image.id),
            image_id=image.id,
            command=(*(request.entrypoint if request.entrypoint is not None else process.entrypoint or ()),
                     *(request.args or process.cmd or ())),
            bundle=request.bundle or "",
            request=request,
        )  # fmt: skip
    try:
        bundle = engine.bundles.open(record.bundle)
        try:
            await _fill(engine, bundle, image, request)
            engine.volumes.provide(bundle, with_image_volumes(wishes_of(request), process.volumes or ()))
        finally:
            bundle.close()
    except BaseException:
        engine.records.remove(record)
        if record.bundle == record.id:  # nothing has run in it
            shutil.rmtree(f"{engine.bundles.root}/{record.bundle}", ignore_errors=True)
        raise
    engine.tell("create", record)
    return record


def _check(engine: Engine, request: requests.Run) -> None:
    """What is wrong is told before an image is fetched. Raises: SupervisorError, NetconfError."""
    build_limits(request.limits)
    rootless = request.rootless or not engine.supervisor.privileged
    choose_ports(request, engine.networks_of(request), rootless=rootless)
    check_names(request.name, request.hostname)
    check_log_options(request)
    check_namespaces(request)
    check_health(request.health)
    check_places(wishes_of(request))
    if request.ready is not None:
        parse_ready(request.ready)
    for text in request.depends_on:
        parse_dependency(text)
    check_restart(request, request.restart)


def _warn(request: requests.Run, image: Image, report: Report) -> None:
    """What is probably not meant, and is done all the same."""
    if request.platform is None:  # else it was chosen so, or the pull has told
        warn_of_platform(image, request.image or request.bundle or image.id, None, report)
    if request.networks == ("host",) and (given := _ports_wished(request)):
        what = f"{given} is left out, for the host's network has every port of the program"
        report(Progress("--network=host", what, warning=True))


def _ports_wished(request: requests.Run) -> str:
    return " ".join([*(f"-p {one}" for one in request.publish), *(["-P"] if request.publish_all else [])])


async def _make_room(engine: Engine, request: requests.Run) -> None:
    """The same command can be typed again: what has the name and has ended is waited for (its clean-up goes on when
    its client has its status), and forgotten if a bundle gave the name. What it wrote stays in the bundle."""
    name = request.name or request.bundle
    last = engine.records.named(name) if name else None
    if last is None:
        return
    container = engine.live(last)
    if request.replace and container is not None:
        engine.unwant(last)
        container.cancel()
        await container.wait_gone()
    elif container is not None and container.has_ended:
        await container.wait_gone()
    if request.replace:
        if engine.records.named(last.name) is last:  # --rm has not removed it
            await engine.remove(last, volumes=last.request.remove)
        return
    ended = engine.live(last) is None and not engine.bundles.is_busy(last.bundle)
    if ended and last.bundle == request.bundle == name:
        engine.forget(last)


async def _image_of(engine: Engine, request: requests.Run, report: Report) -> Image:
    if request.image is not None:
        return await engine.pull(
            request.image, policy=request.image_policy, mode=request.pull, platform=request.platform,
            environ=request.environ, report=report,
        )  # fmt: skip
    file = engine.bundles.all().get(request.bundle or "")
    if file is None:
        raise NotFound(
            f"no image is given, and no bundle has the name {request.bundle}",
            cure="ctnr bundle list, or ctnr run -b NAME IMAGE makes one",
        )
    return engine.images.get(file.image_id)


async def _fill(engine: Engine, bundle: Bundle, image: Image, request: requests.Run) -> None:
    """A named bundle is used as it is, unless --update is given and image or configuration have changed."""
    shape = {
        "image": image.id,
        "user": request.user,
        "entrypoint": request.entrypoint,
        "env": request.env,
    }
    configuration = hashlib.sha256(msgspec.json.encode(shape)).hexdigest()
    file = bundle.file
    if file is not None and file.image_id != image.id and not request.update:
        raise SupervisorError(
            f"bundle {bundle.name} was made from another image ({file.image})",
            cure="add --update to make it anew",
        )
    if file is not None and (not request.update or file.configuration == configuration):
        return
    if file is not None:
        await engine.volumes.drop(bundle, sandbox=engine.sandbox)
        await engine.bundles.empty(bundle, await engine.sandbox(request.rootless))
    named = request.bundle is not None
    bundle.save(new_file(image.id, request.image or image.id, configuration, named=named))


def check_restart(request: requests.Run, text: str) -> RestartPolicy:
    """The policy that the text tells, for that container. Raises: SupervisorError."""
    policy = parse_restart_policy(text)
    if policy.when is not Restart.NO and request.remove:
        raise SupervisorError(
            f"--rm and --restart={text}: what is to be started again can't be removed",
            cure="leave out one of the two",
        )
    return policy
