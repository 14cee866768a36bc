"""The host and the service."""

from __future__ import annotations

from typing import Any

import msgspec

from ctnr import requests
from ctnr.disk_usage import measure
from ctnr.engine import Engine
from ctnr.info import describe_host
from ctnr.order import stop_all
from supervisor.errors import WrongState
from supervisor.service.server import Connection


async def info(engine: Engine, request: requests.Info, connection: Connection) -> Any:
    return await describe_host(engine.supervisor, engine.store_dir)


async def disk_usage(engine: Engine, request: requests.DiskUsage, connection: Connection) -> Any:
    return await measure(engine)


async def service_status(engine: Engine, request: requests.ServiceStatus, connection: Connection) -> Any:
    return engine.service_status()


async def service_start(engine: Engine, request: requests.ServiceStart, connection: Connection) -> Any:
    await engine.settled.wait()
    return engine.service_status()


async def service_stop(engine: Engine, request: requests.ServiceStop, connection: Connection) -> Any:
    running = list(engine.supervisor.containers.values())
    if running and not request.force:
        names = ", ".join(sorted(container.name for container in running))
        raise WrongState(
            f"containers are running: {names}", cure="stop them, or: ctnr supervisor stop --force"
        )
    await stop_all(engine)
    assert engine.server is not None
    engine.server.stop_after_answer = True
    return None


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.Info: info,
    requests.DiskUsage: disk_usage,
    requests.ServiceStatus: service_status,
    requests.ServiceStart: service_start,
    requests.ServiceStop: service_stop,
}
