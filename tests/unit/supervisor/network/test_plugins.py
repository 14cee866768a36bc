"""Plugins run for real, as programs; only the sandbox around them is left out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from netconf.conf import NetworkList
from netconf.request import AttachmentArgs
from netconf.result import Result, parse_result
from supervisor.errors import PluginError
from supervisor.network.plugins import (
    PluginBroken,
    PluginNotFound,
    PluginRunner,
    default_cni_path,
    find_plugin,
)
from tests.world.plugins import MODERN, NoopPlugin


@dataclass
class Done:
    status: int
    stdout: bytes
    stderr: bytes


class Direct:
    """Runs programs as children of the test, with the signature of Sandbox.run."""

    def __init__(self) -> None:
        self.busy: dict[str, int] = {}  # how often ETXTBSY is still to come

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | bytes | None = None,
    ) -> Done:
        if self.busy.get(argv[0], 0) > 0:
            self.busy[argv[0]] -= 1
            raise OSError(26, "text file busy")

        async def kill(process: trio.Process) -> None:
            process.kill()

        done = await trio.run_process(
            list(argv),
            env=env,
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            deliver_cancel=kill,
        )
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Done(status, done.stdout, done.stderr)


class Bench:
    """A plugin directory, a network over plugins in it, and what they were told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.direct = Direct()
        self.runner = PluginRunner(self.direct, lease_dir="/leases", deadline_seconds=20)
        self.args = AttachmentArgs(
            container_id="c1", ifname="cni0", netns="/proc/self/ns/net", cni_path=(str(directory),)
        )

    def plugin(self, name: str, **told: dict[str, Any]) -> Path:
        plugin = NoopPlugin(self.directory, name)
        plugin.tell(**told)
        return plugin.path

    def network(self, *plugins: dict[str, Any], version: str = "1.0.0", **more: Any) -> NetworkList:
        for plugin in plugins:
            if not (self.directory / plugin["type"]).exists():
                self.plugin(plugin["type"])
        config = {"cniVersion": version, "name": "net", "plugins": plugins} | more
        return NetworkList.from_bytes(json.dumps(config).encode(), "net.conflist")

    def calls(self, name: str) -> list[dict[str, Any]]:
        return NoopPlugin(self.directory, name).calls()

    def commands(self, name: str) -> list[str]:
        return NoopPlugin(self.directory, name).commands()

    def stdin(self, name: str, number: int = -1) -> Any:
        return NoopPlugin(self.directory, name).stdin(number)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def a_result(version: str = "1.0.0", **more: Any) -> Result:
    return parse_result(
        json.dumps({"cniVersion": version, "ips": [{"address": "10.9.0.2/24"}]} | more).encode()
    )


async def test_add_chains_results_byte_for_byte(bench: Bench) -> None:
    odd = '{"cniVersion":"1.0.0", "ips":[ {"address":"10.9.0.7/24"} ], "x-vendor": 12345678901234567890123}'
    bench.plugin("first", ADD={"stdout": odd + "\n", "stderr": "chatter"})
    network = bench.network({"type": "first"}, {"type": "second"}, {"type": "third"})
    result = await bench.runner.add_network(network, bench.args)
    assert "prevResult" not in bench.stdin("first")
    assert odd in bench.calls("second")[0]["stdin"]
    assert result.ips[0].address == "10.9.0.7/24"
    assert json.loads(bytes(result.raw))["x-vendor"] == 12345678901234567890123


async def test_plugin_gets_a_minimal_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_USER", "x")
    args = msgspec.structs.replace(bench.args, cni_args=(("K", "v"), ("IP", "10.9.0.9")))
    await bench.runner.add_network(bench.network({"type": "one"}), args)
    env = bench.calls("one")[0]["env"]
    env.pop("LC_CTYPE", None)  # Python's own
    assert "/usr/sbin" in env.pop("PATH").split(":")
    assert env == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "cni0",
        "CNI_ARGS": "K=v;IP=10.9.0.9",
        "CNI_PATH": str(bench.directory),
    }


async def test_capability_args_reach_those_that_want_them_at_add_and_del(bench: Bench) -> None:
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    args = msgspec.structs.replace(
        bench.args, capability_args={"portMappings": ports, "mac": "02:00:00:00:00:01"}
    )
    network = bench.network(
        {"type": "plain"}, {"type": "mapper", "capabilities": {"portMappings": True, "mac": False}}
    )
    result = await bench.runner.add_network(network, args)
    await bench.runner.del_network(network, args, result)
    for number in (0, 1):
        assert "runtimeConfig" not in bench.stdin("plain", number)
        assert bench.stdin("mapper", number)["runtimeConfig"] == {"portMappings": ports}
        assert "capabilities" not in bench.stdin("mapper", number)


async def test_add_stops_at_the_first_error_and_tells_code_and_message(bench: Bench) -> None:
    reply = {"cniVersion": "1.0.0", "code": 7, "msg": "no such bridge", "details": "br9"}
    bench.plugin("bad", ADD={"status": 1, "stdout": json.dumps(reply)})
    network = bench.network({"type": "good"}, {"type": "bad"}, {"type": "never"})
    with pytest.raises(PluginError) as caught:
        await bench.runner.add_network(network, bench.args)
    error = caught.value
    assert (error.plugin, error.command, error.code, error.msg, error.details) == (
        "bad",
        "ADD",
        7,
        "no such bridge",
        "br9",
    )
    assert bench.calls("never") == []


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"status": 0, "stdout": ""}, "without a result"),
        ({"status": 0, "stdout": "", "stderr": "panic\x1b[2J at\nline 3"}, "panic?[2J at line 3"),
        ({"status": 0, "stdout": "Usage: nothing"}, "answered no CNI result"),
        ({"status": 0, "stdout": '{"cniVersion":"1.0.0","ips":[{"address":"ten"}]}'}, "ips[0].address"),
        ({"status": 0, "stdout": '{"code": 11, "msg": "later"}'}, "later"),
        ({"status": 2, "stdout": "", "stderr": "exec: no iptables"}, "exec: no iptables"),
        ({"status": 2, "stdout": "garbage"}, "garbage"),
        ({"status": 2, "stdout": ""}, "said nothing"),
        ({"signal": 9}, "killed by signal 9"),
    ],
)
async def test_bad_answers_are_explained(bench: Bench, told: dict[str, Any], words: str) -> None:
    bench.plugin("bad", ADD=told)
    with pytest.raises(PluginError) as caught:
        await bench.runner.add_network(bench.network({"type": "bad"}), bench.args)
    assert "network plugin bad failed at ADD" in caught.value.message
    assert words in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_plugin_that_hangs_is_killed_and_named(bench: Bench) -> None:
    bench.plugin("stuck", ADD={"sleep": 600})
    runner = PluginRunner(bench.direct, deadline_seconds=0.3)
    with trio.fail_after(10):
        with pytest.raises(PluginBroken, match=r"network plugin stuck failed at ADD: it hung.*after 0.3 s"):
            await runner.add_network(bench.network({"type": "stuck"}), bench.args)


async def test_missing_plugin_is_told_before_any_runs(bench: Bench) -> None:
    network = NetworkList.from_bytes(
        b'{"name":"n","plugins":[{"type":"here"},{"type":"bridge"}]}', "n.conflist"
    )
    bench.plugin("here")
    with pytest.raises(PluginNotFound) as caught:
        await bench.runner.add_network(network, bench.args)
    assert str(bench.directory) in caught.value.message
    assert caught.value.cure is not None
    assert "containernetworking-plugins" in caught.value.cure
    assert bench.calls("here") == []


async def test_missing_address_management_is_cured(bench: Bench) -> None:
    bench.plugin(
        "br", ADD={"status": 1, "stdout": '{"code":999,"msg":"failed to find plugin host-local in path"}'}
    )
    with pytest.raises(PluginError) as caught:
        await bench.runner.add_network(
            bench.network({"type": "br", "ipam": {"type": "host-local"}}), bench.args
        )
    assert "containernetworking-plugins" in str(caught.value.cure)


async def test_unusable_executables(bench: Bench) -> None:
    (bench.directory / "text").write_text("hello")
    with pytest.raises(PluginBroken, match="can't be executed") as caught:
        find_plugin("text", bench.args.cni_path)
    assert caught.value.cure == f"chmod +x {bench.directory / 'text'}"
    (bench.directory / "text").chmod(0o755)
    (bench.directory / "text").write_bytes(b"\x7fELF garbage")
    with pytest.raises(PluginBroken, match="exec format error"):
        await bench.runner.add_network(bench.network({"type": "text"}), bench.args)


async def test_text_busy_is_tried_again(bench: Bench) -> None:
    network = bench.network({"type": "fresh"})
    bench.direct.busy[str(bench.directory / "fresh")] = 3
    assert (await bench.runner.add_network(network, bench.args)).ips
    bench.direct.busy[str(bench.directory / "fresh")] = 100
    with pytest.raises(PluginBroken, match="text file busy"):
        await bench.runner.add_network(network, bench.args)


async def test_del_tries_every_plugin_in_reverse_with_the_final_result(bench: Bench) -> None:
    network = bench.network({"type": "a"}, {"type": "b"}, {"type": "gone"}, {"type": "c"})
    for name in ("a", "c"):
        bench.plugin(name, DEL={"status": 1, "stdout": json.dumps({"code": 5, "msg": name})})
    (bench.directory / "gone").unlink()
    result = a_result(marked="yes")
    with pytest.raises(ExceptionGroup) as caught:
        await bench.runner.del_network(network, bench.args, result)
    assert [error.plugin for error in caught.value.exceptions if isinstance(error, PluginError)] == [
        "c",
        "gone",
        "a",
    ]
    for name in ("a", "b", "c"):
        assert bench.stdin(name)["prevResult"] == json.loads(bytes(result.raw))


async def test_del_without_a_result_after_a_failed_add(bench: Bench) -> None:
    network = bench.network({"type": "a"}, {"type": "missing"}, version="1.1.0")
    (bench.directory / "missing").unlink()
    with pytest.raises(ExceptionGroup):
        await bench.runner.del_network(network, msgspec.structs.replace(bench.args, netns=""), None)
    assert "prevResult" not in bench.stdin("a")
    assert bench.stdin("a")["cniVersion"] == "1.0.0"  # agreed with the plugin that is there
    assert bench.calls("a")[-1]["env"]["CNI_NETNS"] == ""


async def test_del_of_0_3_1_has_no_result(bench: Bench) -> None:
    network = bench.network({"type": "a"}, version="0.3.1")
    result = await bench.runner.add_network(network, bench.args)
    assert result.cni_version == "0.3.1"
    await bench.runner.del_network(network, bench.args, result)
    assert "prevResult" not in bench.stdin("a")


async def test_check(bench: Bench) -> None:
    network = bench.network({"type": "a"}, {"type": "b"})
    assert await bench.runner.check_network(network, bench.args, a_result())
    assert bench.commands("a") == bench.commands("b") == ["CHECK"]
    assert bench.stdin("b")["prevResult"]["ips"]
    bench.plugin("a", CHECK={"status": 1, "stdout": '{"code": 100, "msg": "veth is gone"}'})
    with pytest.raises(PluginError, match="veth is gone"):
        await bench.runner.check_network(network, bench.args, a_result())
    assert bench.commands("b") == ["CHECK"]


async def test_check_is_not_asked_where_it_may_not_be(bench: Bench) -> None:
    switched_off = bench.network({"type": "a"}, disableCheck="true")
    assert not await bench.runner.check_network(switched_off, bench.args, a_result())
    assert not await bench.runner.check_network(
        bench.network({"type": "a"}), bench.args, a_result("0.3.1", ips=[])
    )
    assert bench.calls("a") == []


async def test_gc_and_status_of_1_1(bench: Bench) -> None:
    bench.plugin("a", VERSION=MODERN, GC={"status": 1, "stdout": '{"code": 100, "msg": "stuck"}'})
    bench.plugin("b", VERSION=MODERN, STATUS={"status": 1, "stdout": '{"code": 50, "msg": "pool is empty"}'})
    network = bench.network({"type": "a"}, {"type": "b"}, version="1.1.0")
    with pytest.raises(ExceptionGroup) as caught:
        await bench.runner.gc_network(network, [("c1", "cni0")], bench.args.cni_path)
    assert [str(error) for error in caught.value.exceptions] == [
        "network plugin a failed at GC: stuck (CNI error code 100)"
    ]
    assert bench.stdin("b")["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "cni0"}]
    env = bench.calls("b")[-1]["env"]
    assert {name for name in env if name.startswith("CNI_")} == {"CNI_COMMAND", "CNI_PATH"}
    with pytest.raises(ExceptionGroup) as caught:
        await bench.runner.status_network(network, bench.args.cni_path)
    assert [error.code for error in caught.value.exceptions if isinstance(error, PluginError)] == [50]
    switched_off = bench.network({"type": "a"}, version="1.1.0", disableGC=True)
    assert not await bench.runner.gc_network(switched_off, [], bench.args.cni_path)


async def test_a_1_1_network_degrades_to_what_its_plugins_speak(bench: Bench) -> None:
    bench.plugin("new", VERSION=MODERN)
    network = bench.network({"type": "new"}, {"type": "old"}, version="1.1.0")
    result = await bench.runner.add_network(network, bench.args)
    assert (
        result.cni_version == bench.stdin("new")["cniVersion"] == bench.stdin("old")["cniVersion"] == "1.0.0"
    )
    assert not await bench.runner.gc_network(network, [], bench.args.cni_path)
    assert not await bench.runner.status_network(network, bench.args.cni_path)
    assert bench.commands("old") == ["VERSION", "ADD"]  # asked once


async def test_version_is_asked_again_when_the_executable_changes(bench: Bench) -> None:
    network = bench.network({"type": "a"}, version="1.1.0")
    await bench.runner.add_network(network, bench.args)
    path = bench.plugin("a", VERSION=MODERN)
    os.utime(path, ns=(1, 1))
    assert (await bench.runner.add_network(network, bench.args)).cni_version == "1.1.0"
    assert await bench.runner.version_network(network, bench.args.cni_path) == {
        "a": ("0.4.0", "1.0.0", "1.1.0")
    }


async def test_no_common_version(bench: Bench) -> None:
    bench.plugin("old", VERSION={"status": 1, "stdout": '{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}'})
    with pytest.raises(PluginError, match=r"speaks CNI 0\.1\.0.*wants 1\.1\.0") as caught:
        await bench.runner.add_network(bench.network({"type": "old"}, version="1.1.0"), bench.args)
    assert "net.conflist" in str(caught.value.cure)


async def test_results_of_another_version_are_converted(bench: Bench) -> None:
    bench.plugin(
        "old", ADD={"stdout": '{"cniVersion":"0.2.0","ip4":{"ip":"10.9.0.3/24","gateway":"10.9.0.1"}}'}
    )
    result = await bench.runner.add_network(bench.network({"type": "old"}, {"type": "next"}), bench.args)
    assert bench.stdin("next")["prevResult"]["ips"] == [{"address": "10.9.0.3/24", "gateway": "10.9.0.1"}]
    assert result.cni_version == "1.0.0"


async def test_lease_directory_is_given_to_host_local(bench: Bench) -> None:
    network = bench.network(
        {"type": "a", "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}},
        {"type": "b", "ipam": {"type": "host-local", "dataDir": "/mine"}},
        {"type": "c", "ipam": {"type": "static"}},
        {"type": "tuning", "mtu": 1400},
    )
    await bench.runner.add_network(network, bench.args)
    assert bench.stdin("a")["ipam"] == {"type": "host-local", "subnet": "10.9.0.0/24", "dataDir": "/leases"}
    assert bench.stdin("b")["ipam"]["dataDir"] == "/mine"
    assert "dataDir" not in bench.stdin("c")["ipam"]
    assert bench.stdin("tuning")["dataDir"] == "/leases/.tuning"


async def test_one_operation_at_a_time_for_a_container(bench: Bench) -> None:
    bench.plugin("slow", ADD={"sleep": 0.5})
    network = bench.network({"type": "slow"})
    ended: list[str] = []

    async def add(container_id: str) -> None:
        args = msgspec.structs.replace(bench.args, container_id=container_id)
        await bench.runner.add_network(network, args)
        ended.append(container_id)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for container_id in ("c1", "c1", "c2"):
            nursery.start_soon(add, container_id)
    assert trio.current_time() - start >= 1
    assert ended[-1] == "c1", "nobody else waited for it"


def test_default_cni_path() -> None:
    assert default_cni_path({"CNI_PATH": "/a::/b"}) == ("/a", "/b")
    assert "/usr/lib/cni" in default_cni_path({})


REAL = "/usr/lib/cni"


@pytest.mark.skipif(
    not os.access(f"{REAL}/host-local", os.X_OK), reason="containernetworking-plugins is not installed"
)
async def test_real_address_management_keeps_leases_in_our_directory(tmp_path: Path) -> None:
    """host-local run as if it were a network's plugin: it needs no network namespace and no privileges."""
    config = {
        "cniVersion": "1.1.0",
        "name": "leases",
        "plugins": [{"type": "host-local", "ipam": {"type": "host-local", "subnet": "10.77.0.0/29"}}],
    }
    network = NetworkList.from_bytes(json.dumps(config).encode(), "x")
    runner = PluginRunner(Direct(), lease_dir=str(tmp_path))
    args = AttachmentArgs(container_id="c1", ifname="cni0", netns="/proc/self/ns/net", cni_path=(REAL,))
    assert "1.0.0" in (await runner.version_network(network, args.cni_path))["host-local"]
    result = await runner.add_network(network, args)
    assert [ip.address for ip in result.container_ips()] == ["10.77.0.2/29"]
    assert (tmp_path / "leases" / "10.77.0.2").exists()
    assert await runner.check_network(network, args, result)
    await runner.del_network(network, args, result)
    await runner.del_network(network, args, result)
    assert not (tmp_path / "leases" / "10.77.0.2").exists()
