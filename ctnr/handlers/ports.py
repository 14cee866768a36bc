"""Published ports of a container that runs."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from ctnr import requests
from ctnr.engine import Engine
from supervisor.container import Container
from supervisor.errors import AttachmentError, NotFound
from supervisor.network.ports import PortMapping, parse_all_ports, reserve_ports
from supervisor.service.server import Connection


async def port_list(engine: Engine, request: requests.PortList, connection: Connection) -> Any:
    container = engine.running(engine.records.get(request.container))
    return [msgspec.to_builtins(port) for one in container.attachments for port in one.ports]


async def port_add(engine: Engine, request: requests.PortAdd, connection: Connection) -> Any:
    """Publish more ports of a container that runs: all of them, or none."""
    slirp = _publisher(engine.running(engine.records.get(request.container)))
    published: list[PortMapping] = []
    try:
        with reserve_ports(parse_all_ports(request.specs)) as reservation:
            for mapping in reservation.mappings:
                reservation.make_way(mapping)
                await slirp.publish(mapping)
                published.append(mapping)
    except BaseException:
        with trio.CancelScope(shield=True):
            for mapping in published:
                await slirp.withdraw(mapping)
        raise
    return [msgspec.to_builtins(mapping) for mapping in published]


async def port_remove(engine: Engine, request: requests.PortRemove, connection: Connection) -> Any:
    """Withdraw ports; one without a host port stands for all that lead to the container's."""
    container = engine.running(engine.records.get(request.container))
    slirp = _publisher(container)
    found: list[PortMapping] = []
    for wanted in parse_all_ports(request.specs):
        fitting = [one for one in slirp.published if _fits(one, wanted)]
        if not fitting:
            raise NotFound(
                f"container {container.name} does not publish {wanted}", cure=f"ctnr port {container.name}"
            )
        found += fitting
    for mapping in dict.fromkeys(found):
        await slirp.withdraw(mapping)
    return [msgspec.to_builtins(mapping) for mapping in dict.fromkeys(found)]


def _publisher(container: Container) -> Any:
    slirp = next((one.slirp for one in container.attachments if one.slirp is not None), None)
    if slirp is None:
        raise AttachmentError(
            f"container {container.name}: its ports can't be changed while it runs",
            cure="that works on slirp networks: ctnr net connect slirp "
            f"{container.name}, or start it anew with -p",
        )
    return slirp


def _fits(mapping: PortMapping, wanted: PortMapping) -> bool:
    return (
        (mapping.container_port, mapping.protocol) == (wanted.container_port, wanted.protocol)
        and wanted.host_port in (0, mapping.host_port)
        and wanted.host_ip in ("", mapping.host_ip)
    )


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.PortList: port_list,
    requests.PortAdd: port_add,
    requests.PortRemove: port_remove,
}
