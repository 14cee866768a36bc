"""Networks by plugins: addresses, peers, and nothing left in any network namespace, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio

from netconf import NetworkList, load_builtin
from supervisor import open_supervisor
from supervisor.errors import PluginError
from supervisor.network import uplink
from supervisor.network.journal import JOURNAL_DIR, LEASE_DIR
from supervisor.network.netlink import Link, Netlink
from supervisor.sandbox.sandbox import PACKAGES
from supervisor.spec import State
from tests.ns.supervisor.helpers import KINDS, Outlet, said_by, spec
from tests.world.plugins import NoopPlugin


@KINDS
@pytest.mark.parametrize(("network", "address"), [("bridge", "10.2.0.2/24"), ("default", "10.3.0.2/24")])
async def test_addresses_by_host_local(bundle: Path, rootless: bool, network: str, address: str) -> None:
    status, said = await said_by(bundle, ["ip", "addr"], rootless=rootless, networks=[load_builtin(network)])
    assert status == 0
    assert f"inet {address}" in said
    assert "cni0@" in said


@KINDS
async def test_two_networks_become_cni0_and_cni1(bundle: Path, rootless: bool) -> None:
    networks = [load_builtin("slirp"), load_builtin("bridge")]
    _, said = await said_by(bundle, ["ip", "-o", "-4", "addr"], rootless=rootless, networks=networks)
    found = {line.split()[1]: line.split()[3] for line in said.splitlines()}
    assert {"lo": "127.0.0.1/8", "cni0": "10.0.2.100/24", "cni1": "10.2.0.2/24"} == found


@KINDS
async def test_slirps_socket_lies_in_the_sandbox(bundle: Path, rootless: bool, tmp_path: Path) -> None:
    """Bound from beside it, by a short path, and in slirp4netns's own sandbox."""
    long = tmp_path / ("long" * 20)
    long.mkdir()
    async with open_supervisor(str(long)) as supervisor:
        sleeper = spec(bundle, ["sleep", "1000"], networks=[load_builtin("slirp")])
        async with supervisor.run(sleeper, rootless=rootless) as container:
            slirp = container.attachments[0].slirp
            assert slirp is not None
            assert slirp.sandboxed
            assert await slirp.forwards() == []
            sandbox = (await supervisor.realm(rootless=rootless)).sandbox
            assert f"{container.id[:12]}-cni0.sock" in os.listdir(sandbox.outer_path(sandbox.run_dir))
            assert [str(file) for file in long.rglob("*.sock")] == []
        assert [
            name for name in os.listdir(sandbox.outer_path(sandbox.run_dir)) if name.endswith(".sock")
        ] == []


@KINDS
async def test_containers_on_a_bridge_reach_each_other(bundle: Path, rootless: bool) -> None:
    async with open_supervisor() as supervisor:
        bridge = [load_builtin("bridge")]
        serve = spec(bundle, ["nc", "-l", "-p", "8080", "-e", "echo", "hello"], networks=bridge)
        async with supervisor.run(serve, rootless=rootless) as server:
            outlet = Outlet()
            address = server.attachments[0].addresses[0]
            ask = ["sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9; do nc {address} 8080 && exit; sleep 0.1; done"]
            client = spec(bundle, ask, networks=bridge, stdio=outlet.stdio)
            async with supervisor.run(client, rootless=rootless) as container:
                with trio.fail_after(10):
                    await container.wait()
            assert "hello\n" in outlet.close().decode()


@KINDS
async def test_leases_for_three_times_the_subnets_size(bundle: Path, rootless: bool) -> None:
    """16 addresses, 13 of them for containers; of 48 in a row some end by themselves, some are killed, some at once."""
    conf = {"cniVersion": "0.4.0", "name": "tiny", "plugins": [{
        "type": "bridge", "bridge": "ctnr-tiny", "ipam": {"type": "host-local", "subnet": "10.9.9.0/28"}}]}  # fmt: skip
    network = NetworkList.from_bytes(json.dumps(conf).encode(), "test")
    async with open_supervisor() as supervisor:
        for number in range(48):
            short = spec(bundle, ["sleep", "1000"] if number % 3 else ["true"], networks=[network])
            if number % 3 == 2:
                with trio.move_on_after(number / 500):  # somewhere on its way up
                    async with supervisor.run(short, rootless=rootless):
                        await trio.sleep_forever()
                continue
            async with supervisor.run(short, rootless=rootless) as container:
                if number % 3 == 1:
                    await container.signal(signal.SIGKILL)
                await container.wait()
        assert not (await supervisor.realm(rootless=rootless)).networks.plugins.records.list()


async def test_a_bridge_is_not_removed_under_an_add(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's bridge goes with its last container; the next one may just be coming, and has seen it still there."""
    delete = Netlink.delete

    async def delete_late(self: Netlink, link: Link) -> None:
        if link.name == "ctnr-bridge":
            removing.set()
            await trio.sleep(0.3)
        await delete(self, link)

    monkeypatch.setattr(Netlink, "delete", delete_late)
    removing = trio.Event()
    bridge = [load_builtin("bridge")]

    async def run_one() -> None:
        async with supervisor.run(spec(bundle, ["true"], networks=bridge)) as container:
            assert await container.wait() == 0

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(run_one)
        await removing.wait()
        async with supervisor.run(spec(bundle, ["sleep", "1000"], networks=bridge)) as container:
            await trio.sleep(0.5)
            await container.membership.check(container.attachments[0])


@KINDS
async def test_an_exhausted_subnet(bundle: Path, rootless: bool) -> None:
    conf = {"cniVersion": "1.0.0", "name": "tiny", "plugins": [{
        "type": "bridge", "bridge": "ctnr-tiny", "ipam": {"type": "host-local", "subnet": "10.9.9.0/29"}}]}  # fmt: skip
    network = NetworkList.from_bytes(json.dumps(conf).encode(), "test")
    async with open_supervisor() as supervisor:
        made = [
            await supervisor.start(
                spec(bundle, ["sleep", "1000"], name=f"c{number}", networks=[network]), rootless=rootless
            )
            for number in range(5)
        ]
        with pytest.raises(
            PluginError, match=r"no IP addresses available in range set: 10\.9\.9\.1"
        ) as caught:
            await supervisor.start(spec(bundle, ["true"], networks=[network]), rootless=rootless)
        assert "net create" in str(caught.value.cure)
        assert all(one.state == State.RUNNING for one in made)
        await made[2].stop(0)
        async with supervisor.run(
            spec(bundle, ["true"], networks=[network]), rootless=rootless
        ) as container:
            assert made[2].name not in {one.name for one in supervisor.containers.values()}
            assert await container.wait() == 0


async def test_what_a_plugin_says_reaches_the_caller(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "broken"
    plugin.write_text(
        '#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\necho \'{"code": 107, "msg": "no luck today"}\'; exit 1\n'
    )
    plugin.chmod(0o755)
    monkeypatch.setenv("CNI_PATH", str(tmp_path))
    network = NetworkList.from_bytes(b'{"cniVersion": "0.4.0", "name": "n", "type": "broken"}', "test")
    async with open_supervisor() as supervisor:
        with pytest.raises(PluginError, match="no luck today") as caught:
            async with supervisor.run(spec(bundle, ["true"], networks=[network])):
                pass
    assert (107, "broken", "ADD") == (caught.value.code, caught.value.plugin, caught.value.command)


@KINDS
async def test_a_plugin_that_hangs_fails_its_container_alone(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rootless: bool
) -> None:
    stuck = NoopPlugin(tmp_path / "plugins", "stuck")
    stuck.tell(ADD={"sleep": 600})
    monkeypatch.setenv("CNI_PATH", f"{stuck.path.parent}:/usr/lib/cni")
    network = NetworkList.from_bytes(b'{"cniVersion": "1.0.0", "name": "n", "type": "stuck"}', "test")
    async with open_supervisor() as supervisor:
        runner = (await supervisor.realm(rootless=rootless)).networks.plugins.runner
        beside = spec(bundle, ["sleep", "1000"], name="beside", networks=[load_builtin("bridge")])
        other = await supervisor.start(beside, rootless=rootless)
        runner.deadline_seconds = 0.5
        with pytest.raises(PluginError, match=r"stuck failed at ADD: it hung: it was killed after 0\.5 s"):
            await supervisor.start(spec(bundle, ["true"], networks=[network]), rootless=rootless)
        assert stuck.commands() == ["ADD", "DEL"]
        assert other.state == State.RUNNING
        await other.membership.check(other.attachments[0])
        assert [other] == list(supervisor.containers.values())


def nat_rules() -> str:
    return subprocess.run(["iptables", "-t", "nat", "-S"], capture_output=True, text=True, check=True).stdout


async def test_a_crash_in_privileged_mode_is_swept_at_the_next_start(bundle: Path) -> None:
    program = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {PACKAGES!r})
        import trio
        from netconf import load_builtin
        from supervisor import open_supervisor
        from supervisor.bundle import open_bundle
        from supervisor.network.ports import parse_ports
        async def main():
            async with open_supervisor() as supervisor:
                networks = [load_builtin("bridge"), load_builtin("default")]
                spec = open_bundle(
                    {str(bundle)!r}, args=["sleep", "1000"], networks=networks, ports=parse_ports("8080:80"))
                async with supervisor.run(spec) as container:
                    await container.membership.publish(parse_ports("8081-8082:81-82"))
                    await container.membership.withdraw(parse_ports("8081:81"))
                    print("up", flush=True)
                    await trio.sleep_forever()
        trio.run(main)
    """)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(  # noqa: ASYNC220
        command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(bundle.parent)}
    ) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != b"up\n":
            assert line, "it died before it was up"
        process.send_signal(signal.SIGKILL)
    rules = nat_rules()
    assert "10.2.0.2" in rules, "privileged, a crash does leave something"
    assert ("10.2.0.2:80" in rules, "10.2.0.2:82" in rules, "10.2.0.2:81" in rules) == (True, True, False)
    async with open_supervisor() as supervisor, supervisor.run(spec(bundle, ["true"])) as container:
        await container.wait()
    rules = nat_rules()
    assert "10.2.0.2" not in rules
    assert "10.3.0.2" not in rules
    assert "CNI-DN-" not in rules
    assert not os.path.exists(JOURNAL_DIR)
    assert not os.path.exists(LEASE_DIR)


async def test_behind_the_uplink_the_host_itself_is_out_of_reach(bundle: Path) -> None:
    """Its loopback is at the gateway for slirp4netns: the host listens there, and nobody may come."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    tries = "; ".join(
        f"nc -w 3 {address} {port} </dev/null && echo came"
        for address in (uplink.OPTIONS.gateway, uplink.OPTIONS.nameserver)
    )
    script = f"{tries}; echo done"
    try:
        _, said = await said_by(
            bundle, ["sh", "-c", script], rootless=True, networks=[load_builtin("bridge")]
        )
    finally:
        for listener in listeners:
            await listener.aclose()
    assert "done" in said
    assert "came" not in said
