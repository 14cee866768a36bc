"""Networks that come and go while a container runs, and published ports, cancelled at every step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from netconf import NetworkList, load_builtin
from supervisor import open_supervisor
from supervisor.bundle import open_bundle
from supervisor.network.ports import parse_ports, reserve_ports
from tests.sweep.sweeping import sweep


@pytest.mark.parametrize("rootless", [False, True], ids=["plain", "userns"])
def test_connect_and_disconnect(bundle: Path, rootless: bool) -> None:
    spec = open_bundle(str(bundle), args=["sleep", "1000"], networks=[load_builtin("bridge")])
    spec = dataclasses.replace(spec, ports=parse_ports("8080:80"))

    async def story() -> None:
        async with open_supervisor() as supervisor, supervisor.run(spec, rootless=rootless) as container:
            await container.membership.connect(load_builtin("slirp"))
            await container.membership.disconnect("bridge")
            await container.membership.disconnect("slirp")
            await container.membership.connect(load_builtin("bridge"), mac="02:42:0a:02:00:09")

    assert sweep(story, stride=12) > 5


def test_ports_by_the_relay(bundle: Path) -> None:
    slirp = NetworkList.from_bytes(b'{"name": "quick", "type": "slirp", "portHandler": "relay"}', "sweep")
    spec = open_bundle(str(bundle), args=["sleep", "1000"], networks=[slirp], ports=parse_ports("8080:80"))

    async def story() -> None:
        async with open_supervisor() as supervisor, supervisor.run(spec, rootless=True) as container:
            carrier = container.attachments[0].slirp
            assert carrier is not None
            await carrier.publish(*parse_ports("8081:81"))
            await carrier.withdraw(*parse_ports("8080:80"))
        reserve_ports(parse_ports("8080-8081:80-81")).close()

    assert sweep(story, stride=6) > 5
