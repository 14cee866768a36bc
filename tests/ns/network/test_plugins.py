"""The plugins that Debian ships, run in real sandboxes: addresses, leases, ports, and nothing left after DEL."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from netconf import AttachmentArgs, NetworkList, load_builtin
from supervisor.network.plugins import PluginBroken, PluginRunner
from supervisor.network.records import AttachmentRecord, Records
from supervisor.sandbox.process import Completed
from supervisor.sandbox.sandbox import Sandbox, open_sandbox
from tests.world.plugins import NoopPlugin

CNI_PATH = ("/usr/lib/cni",)
pytestmark = [
    pytest.mark.skipif(
        not os.access("/usr/lib/cni/bridge", os.X_OK), reason="needs containernetworking-plugins"
    ),
    pytest.mark.parametrize("rootless", [False, True], ids=["plain", "userns"]),
]


class World:
    """A sandbox with a netns for bridges and host ends, a runner of plugins there, and containers' netns."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.netns = f"{sandbox.run_dir}/world"
        self.leases = f"{sandbox.run_dir}/leases"
        environ = {"XTABLES_LOCKFILE": f"{sandbox.run_dir}/xtables.lock"}
        self.runner = PluginRunner(self, lease_dir=self.leases, environ=environ)

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: int | bytes | None = None
    ) -> Completed:
        """The plugins' way to run: in the netns for bridges."""
        return await self.sandbox.run(argv, env=env, stdin=stdin, netns=self.netns)

    async def new_container(self, name: str, **more: object) -> AttachmentArgs:
        netns = f"{self.sandbox.run_dir}/{name}"
        await self.sandbox.new_netns(netns)
        fields = {"container_id": name, "ifname": "cni0", "netns": netns, "cni_path": CNI_PATH} | more
        return AttachmentArgs(**fields)  # type: ignore[arg-type]

    async def show(self, *argv: str, netns: str | None = None) -> str:
        done = await self.sandbox.run(argv, netns=netns or self.netns)
        assert done.status == 0, done.last_line()
        return done.stdout.decode()


@asynccontextmanager
async def open_world(tmp_path: Path, *, rootless: bool) -> AsyncIterator[World]:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    async with open_sandbox(str(run_dir), rootless=rootless) as sandbox:
        world = World(sandbox)
        await sandbox.new_netns(world.netns)
        yield world


async def test_the_built_in_bridge(tmp_path: Path, rootless: bool) -> None:
    network = load_builtin("bridge")
    async with open_world(tmp_path, rootless=rootless) as world:
        links = await world.show("ip", "-br", "link")
        args = [await world.new_container(f"c{number}") for number in range(4)]
        results = {}

        async def add(one: AttachmentArgs) -> None:
            results[one.container_id] = await world.runner.add_network(network, one)

        async with trio.open_nursery() as nursery:
            for one in args:
                nursery.start_soon(add, one)
        addresses = {name: result.container_ips()[0].address for name, result in results.items()}
        assert sorted(addresses.values()) == [f"10.2.0.{number}/24" for number in (2, 3, 4, 5)]
        assert results["c0"].dns.nameservers == ("10.2.0.1",)
        assert addresses["c0"] in await world.show("ip", "addr", "show", "cni0", netns=args[0].netns)
        for other in ("10.2.0.1", addresses["c1"].partition("/")[0]):
            await world.show("busybox", "ping", "-c1", "-W2", other, netns=args[0].netns)
        assert await world.runner.check_network(network, args[0], results["c0"])
        for one in args:
            await world.runner.del_network(network, one, results[one.container_id])
            await world.runner.del_network(network, one, results[one.container_id])
        await world.show("ip", "link", "del", "ctnr-bridge")  # the plugin leaves it for the next one
        assert await world.show("ip", "-br", "link") == links
        assert "CNI-" not in await world.show("iptables-save")
        leases = await world.show("ls", f"{world.leases}/bridge")
        assert not [name for name in leases.split() if name[0].isdigit()]


async def test_the_built_in_default_publishes_a_port(tmp_path: Path, rootless: bool) -> None:
    network = load_builtin("default")
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    async with open_world(tmp_path, rootless=rootless) as world:
        args = await world.new_container("c1", capability_args={"portMappings": ports})
        result = await world.runner.add_network(network, args)
        address = result.container_ips()[0].address.partition("/")[0]
        assert f"--to-destination {address}:80" in await world.show("iptables-save", "-t", "nat")
        await world.runner.del_network(network, args, result)
        assert "8080" not in await world.show("iptables-save", "-t", "nat")


async def test_del_by_the_record_after_add_failed_half_way(tmp_path: Path, rootless: bool) -> None:
    config = json.loads(bytes(load_builtin("bridge").raw))
    config["plugins"].append({"type": "tuning", "sysctl": {"net.no.such.thing": "1"}})
    network = NetworkList.from_bytes(json.dumps(config).encode(), "broken.conflist")
    records = Records(str(tmp_path / "records"))
    async with open_world(tmp_path, rootless=rootless) as world:
        args = await world.new_container("c1")
        records.save(AttachmentRecord(network=network, args=args))
        with pytest.raises(Exception, match="network plugin tuning failed at ADD"):
            await world.runner.add_network(network, args)
        (record,) = records.list("c1")
        await world.runner.del_network(record.network, record.args, record.result)
        records.remove("c1", "cni0")
        assert "cni0" not in await world.show("ip", "-br", "link", netns=args.netns)
        assert "veth" not in await world.show("ip", "-br", "link")


async def test_a_plugin_that_hangs_takes_nobody_with_it(tmp_path: Path, rootless: bool) -> None:
    plugin = tmp_path / "stuck"
    plugin.write_text("#!/bin/sh\nsleep 1000 &\nsleep 1000\n")
    plugin.chmod(0o755)
    network = NetworkList.from_bytes(b'{"name": "n", "cniVersion": "1.0.0", "type": "stuck"}', "n.conf")
    async with open_world(tmp_path, rootless=rootless) as world:
        runner = PluginRunner(world, deadline_seconds=0.3)
        args = await world.new_container("c1", cni_path=(str(tmp_path),))
        with pytest.raises(PluginBroken, match="hung"):
            await runner.add_network(network, args)
        assert (await world.sandbox.run(["pgrep", "-x", "sleep"])).status == 1


async def test_a_plugin_that_is_just_being_installed_is_tried_again(tmp_path: Path, rootless: bool) -> None:
    """The kernel does not run a file that somebody writes (ETXTBSY)."""
    plugin = NoopPlugin(tmp_path / "plugins", "fresh", "/usr/bin/python3")
    network = NetworkList.from_bytes(b'{"name": "n", "cniVersion": "1.0.0", "type": "fresh"}', "n.conf")
    async with open_world(tmp_path, rootless=rootless) as world:
        args = await world.new_container("c1", cni_path=(str(plugin.path.parent),))
        writing = os.open(plugin.path, os.O_WRONLY)

        async def finish() -> None:
            await trio.sleep(0.1)
            os.close(writing)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish)
            began = trio.current_time()
            assert (await world.runner.add_network(network, args)).ips
            assert trio.current_time() - began >= 0.1
        assert plugin.commands() == ["ADD"]
