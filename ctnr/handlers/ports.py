"""Published ports of a container that runs."""

from __future__ import annotations

from typing import Any

import msgspec

from ctnr import requests
from ctnr.describe import describe_port, describe_ports
from ctnr.engine import Engine
from supervisor.network.ports import parse_all_ports
from supervisor.service.server import Connection


async def port_list(engine: Engine, request: requests.PortList, connection: Connection) -> Any:
    return describe_ports(engine.running(engine.records.get(request.container)))


async def port_add(engine: Engine, request: requests.PortAdd, connection: Connection) -> Any:
    """Publish more ports of a container that runs: all of them, or none."""
    container = engine.running(engine.records.get(request.container))
    added = await container.membership.publish(parse_all_ports(request.specs))
    return [describe_port(*one) for one in added]


async def port_remove(engine: Engine, request: requests.PortRemove, connection: Connection) -> Any:
    """Withdraw ports; one without a host port stands for all that lead to the container's."""
    container = engine.running(engine.records.get(request.container))
    gone = await container.membership.withdraw(parse_all_ports(request.specs))
    return [describe_port(*one) for one in gone]


TABLE: dict[type[msgspec.Struct], Any] = {
    requests.PortList: port_list,
    requests.PortAdd: port_add,
    requests.PortRemove: port_remove,
}
