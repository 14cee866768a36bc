"""The plugin `slirp` as a CNI runtime runs it: environment, standard input, standard output, exit status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from supervisor.network import slirp_daemon
from tests.ns.network.conftest import pinned_netns

Ip = Callable[..., str]
ROOT = Path(__file__).parents[3]
CONF = {"cniVersion": "1.1.0", "name": "net", "type": "slirp", "mtu": 1500}
PROGRAM = [sys.executable, "-m", "supervisor.network.slirp_plugin"]


class Runner:
    """An independent CNI runtime, small."""

    def __init__(self, netns: str, wrap: tuple[str, ...] = ()) -> None:
        self.netns = netns
        self.wrap = wrap

    def run(self, command: str, conf: dict[str, Any] | bytes = CONF, **env: str) -> tuple[int, Any]:
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "ctnrtest",
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": "cni0",
            "CNI_PATH": "/nowhere",
            "PATH": os.environ["PATH"],
        } | env
        done = subprocess.run(
            [*self.wrap, *PROGRAM],
            input=conf if isinstance(conf, bytes) else json.dumps(conf).encode(),
            env={key: value for key, value in variables.items() if value},
            capture_output=True,
            cwd=ROOT,
            timeout=20,
            check=False,
        )
        assert done.stderr == b""
        assert (done.returncode == 0) or done.stdout
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    def good(self, command: str, conf: dict[str, Any] | bytes = CONF, **env: str) -> Any:
        status, reply = self.run(command, conf, **env)
        assert status == 0, reply
        return reply

    def bad(self, command: str, conf: dict[str, Any] | bytes = CONF, **env: str) -> dict[str, Any]:
        status, reply = self.run(command, conf, **env)
        assert status != 0
        assert set(reply) >= {"cniVersion", "code", "msg"}
        return dict(reply)


@pytest.fixture
def runner(netns: str) -> Iterator[Runner]:
    runner = Runner(netns)
    yield runner
    for ifname in ("cni0", "cni1"):
        runner.good("DEL", CNI_IFNAME=ifname)
    for directory in slirp_daemon._candidates():
        with suppress(FileNotFoundError):
            os.rmdir(directory)  # fails if a record or socket is left


def daemons() -> list[int]:
    """The plugin's slirp4netns processes; others on this machine are none of our business."""
    command = ["pgrep", "-f", "slirp4netns .*--api-socket=[^ ]*/ctnr-slirp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


def test_versions(runner: Runner) -> None:
    reply = runner.good("VERSION", {"cniVersion": "1.0.0"})
    assert reply["cniVersion"] == "1.0.0"
    assert reply["supportedVersions"][-1] == "1.1.0"


def test_add_check_del(runner: Runner, netns: str, ip: Ip) -> None:
    before = daemons()
    began = time.monotonic()
    result = runner.good("ADD")
    assert time.monotonic() - began < 5
    assert result["cniVersion"] == "1.1.0"
    assert result["ips"] == [{"address": "10.0.2.100/24", "gateway": "10.0.2.2", "interface": 0}]
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.0.2.2"}]
    assert result["dns"] == {"nameservers": ["10.0.2.3"]}
    assert result["interfaces"][0]["sandbox"] == netns
    assert result["interfaces"][0]["mac"] in ip(netns, "link", "show", "cni0")
    runner.good("CHECK", CONF | {"prevResult": result})
    assert "already" in runner.bad("ADD")["msg"]
    runner.good("DEL", CNI_NETNS="")
    assert "cni0" not in ip(netns, "link")
    assert daemons() == before
    runner.good("DEL")
    assert "no slirp4netns runs" in runner.bad("CHECK", CONF | {"prevResult": result})["msg"]


@pytest.mark.parametrize("version", ["0.1.0", "0.3.1", "0.4.0", "1.0.0"])
def test_results_of_old_versions(runner: Runner, version: str) -> None:
    result = runner.good("ADD", CONF | {"cniVersion": version})
    assert result["cniVersion"] == version
    if version == "0.1.0":
        assert result["ip4"]["ip"] == "10.0.2.100/24"
    else:
        assert result["ips"][0].get("version") == (None if version == "1.0.0" else "4")


def test_chained(runner: Runner, netns: str) -> None:
    previous = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": netns}],
        "ips": [{"address": "10.7.0.2/24", "interface": 0}],
        "dns": {"nameservers": ["192.0.2.53"]},
        "vendor": {"kept": True},
    }
    conf = CONF | {"dns": {"search": ["shop.example"], "nameservers": ["192.0.2.54"]}}
    result = runner.good("ADD", conf | {"prevResult": previous})
    assert [interface["name"] for interface in result["interfaces"]] == ["eth0", "cni0"]
    assert result["ips"][1]["interface"] == 1
    assert result["dns"]["nameservers"] == ["192.0.2.53", "10.0.2.3", "192.0.2.54"]
    assert result["dns"]["search"] == ["shop.example"]
    assert result["vendor"] == {"kept": True}
    runner.good("CHECK", conf | {"prevResult": result})


def test_dns_by_capability_takes_the_place_of_the_configurations(runner: Runner) -> None:
    conf = CONF | {"dns": {"nameservers": ["192.0.2.54"], "search": ["shop.example"]}}
    given = {"servers": ["192.0.2.55"], "options": ["ndots:2"]}
    result = runner.good("ADD", conf | {"runtimeConfig": {"dns": given}})
    assert result["dns"] == {
        "nameservers": ["10.0.2.3", "192.0.2.55"], "search": ["shop.example"], "options": ["ndots:2"],
    }  # fmt: skip


def test_ports_and_mac(runner: Runner, netns: str, ip: Ip) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    mapping = {"hostPort": port, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}
    conf = CONF | {"runtimeConfig": {"portMappings": [mapping], "mac": "02:00:00:00:00:99"}}
    result = runner.good("ADD", conf)
    assert result["interfaces"][0]["mac"] == "02:00:00:00:00:99"
    runner.good("CHECK", conf | {"prevResult": result})
    serve = "import socket; s=socket.create_server(('',80)); c,_=s.accept(); c.sendall(b'hello')"
    server = subprocess.Popen(["nsenter", f"--net={netns}", sys.executable, "-I", "-S", "-c", serve])
    try:
        end = time.monotonic() + 5
        answer = b""
        while not answer and time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
                answer = sock.recv(9)
        assert answer == b"hello"
    finally:
        server.kill()
        server.wait()
    runner.good("DEL", conf)
    with socket.create_server(("127.0.0.1", port)):
        reply = runner.bad("ADD", conf)
    assert "in use on this host" in reply["msg"]
    assert daemons() == []


def test_gc_ends_what_is_not_listed_and_of_this_network_only(runner: Runner, tmp_path: Path) -> None:
    runner.good("ADD")
    with pinned_netns(tmp_path / "other") as other:
        env = {"CNI_NETNS": other, "CNI_CONTAINERID": "c2"}
        runner.good("ADD", CONF | {"name": "other"}, **env)
        valid = [{"containerID": "ctnrtest", "ifname": "cni0"}]
        runner.good("GC", CONF | {"cni.dev/valid-attachments": valid})
        assert len(daemons()) == 2
        runner.good("GC", CONF | {"cni.dev/valid-attachments": []})
        assert len(daemons()) == 1
        runner.good("GC", CONF | {"name": "other", "cni.dev/valid-attachments": []})
        assert daemons() == []
    assert runner.bad("GC")["code"] == 7


def test_status(runner: Runner) -> None:
    runner.good("STATUS")
    reply = runner.bad("STATUS", PATH="/nowhere")
    assert (reply["code"], reply["msg"]) == (50, "slirp4netns is not installed")
    assert "apt-get install" in reply["details"]


@pytest.mark.parametrize(
    ("code", "command", "conf", "env"),
    [
        (6, "ADD", b"{", {}),
        (6, "ADD", b"[]", {}),
        (1, "ADD", CONF | {"cniVersion": "9.9.9"}, {}),
        (1, "CHECK", CONF | {"cniVersion": "0.3.1"}, {}),
        (7, "ADD", CONF | {"name": "../x"}, {}),
        (7, "ADD", {"cniVersion": "1.1.0"}, {}),
        (7, "ADD", CONF | {"mtu": 10}, {}),
        (2, "ADD", CONF | {"mut": 1500}, {}),
        (7, "ADD", CONF | {"runtimeConfig": {"portMappings": [{"hostPort": 0}]}}, {}),
        (7, "ADD", CONF | {"runtimeConfig": {"mac": "x"}}, {}),
        (7, "CHECK", CONF, {}),
        (4, "ADD", CONF, {"CNI_IFNAME": "a/b"}),
        (4, "ADD", CONF, {"CNI_CONTAINERID": ""}),
        (4, "ADD", CONF, {"CNI_NETNS": "/etc/passwd"}),
        (4, "ADD", CONF, {"CNI_NETNS": "/proc/self/ns/net"}),
        (4, "ADD", CONF, {"CNI_NETNS": "relative"}),
        (3, "ADD", CONF, {"CNI_NETNS": "/run/netns/ctnrtest-none"}),
        (4, "JUMP", CONF, {}),
        (100, "ADD", CONF, {"PATH": "/nowhere"}),
        (100, "ADD", CONF, {"CNI_IFNAME": "lo"}),
    ],
)
def test_errors(runner: Runner, code: int, command: str, conf: Any, env: dict[str, str]) -> None:
    assert runner.bad(command, conf, **env)["code"] == code
    assert daemons() == []


def test_a_dead_or_foreign_process_is_noticed_and_not_killed(runner: Runner) -> None:
    result = runner.good("ADD")
    store = slirp_daemon.Store()
    found = store.read("net", "ctnrtest", "cni0")
    assert found is not None
    path, record = found
    assert oct(os.stat(os.path.dirname(path)).st_mode & 0o777) == "0o700"
    os.kill(record.pid, signal.SIGKILL)
    assert slirp_daemon.wait_for(lambda: not slirp_daemon.is_running(record), 5)
    assert "no slirp4netns runs" in runner.bad("CHECK", CONF | {"prevResult": result})["msg"]
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        record.pid = bystander.pid  # the pid was given to somebody else
        store.write(path, record)
        runner.good("DEL")
        assert bystander.poll() is None
        record.start, record.boot = slirp_daemon.start_time(bystander.pid), "another boot"
        store.write(path, record)
        runner.good("DEL")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_add_killed_half_way_leaves_nothing_that_del_does_not_end(
    runner: Runner, netns: str, ip: Ip
) -> None:
    """SIGKILL at moments all over an ADD, then DEL."""
    began = time.monotonic()
    runner.good("ADD")
    usual = time.monotonic() - began
    runner.good("DEL")
    for number in range(12):
        env = os.environ | {
            "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "ctnrtest", "CNI_NETNS": netns, "CNI_IFNAME": "cni0",
        }  # fmt: skip
        process = subprocess.Popen(
            PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env, cwd=ROOT
        )
        timer = threading.Timer(usual * (0.4 + 0.6 * number / 12), process.kill)
        timer.start()
        process.communicate(json.dumps(CONF).encode())
        timer.cancel()
        timer.join()
        runner.good("DEL")
        assert daemons() == []
        assert "cni0" not in ip(netns, "link")


def test_as_an_unprivileged_user(tmp_path: Path) -> None:
    """From outside of the user namespace that owns the netns, and from inside of it."""
    user = ("setpriv", "--reuid=ctnrdev", "--regid=ctnrdev", "--init-groups")
    holder = subprocess.Popen(
        [*user, "unshare", "-Urnm", "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/",
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        inside = (*user, "nsenter", f"--user=/proc/{holder.pid}/ns/user", "--preserve-credentials")
        for wrap in (user, inside):
            runner = Runner(f"/proc/{holder.pid}/ns/net", wrap)
            result = runner.good("ADD")
            runner.good("CHECK", CONF | {"prevResult": result})
            runner.good("DEL")
            assert daemons() == []
    finally:
        holder.kill()
        holder.communicate()
        for directory in Path("/tmp").glob("ctnr-slirp-*"):
            directory.rmdir()


@pytest.fixture(scope="module")
def libcni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime over the reference library, which nerdctl, containerd and podman 4 use as well."""
    folder = tmp_path_factory.mktemp("libcni")
    source = Path(__file__).with_name("libcni_runner.go")
    env = os.environ | {
        "GOPATH": "/usr/share/gocode",
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
        "GOCACHE": str(ROOT / "build/go"),
    }
    subprocess.run(["go", "build", "-o", folder / "runner", source], check=True, env=env)
    return folder / "runner"


@pytest.mark.skipif(
    not shutil.which("go") or not Path("/usr/share/gocode/src/github.com/containernetworking/cni").exists(),
    reason="needs golang-go and golang-github-appc-cni-dev",
)
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_under_the_reference_library(
    libcni: Path, netns: str, runner: Runner, tmp_path: Path, ip: Ip, version: str
) -> None:
    program = tmp_path / "bin/slirp"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncd {ROOT} && exec {' '.join(PROGRAM)}\n")
    program.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    tuning = {"type": "tuning", "mtu": 1400, "dataDir": str(tmp_path / "tuning")}
    slirp = {"type": "slirp", "mtu": 1500, "capabilities": {"portMappings": True, "mac": True, "dns": True}}
    conf = {"cniVersion": version, "name": "net", "plugins": [slirp, tuning]}
    (tmp_path / "net.conflist").write_text(json.dumps(conf))
    given = {
        "portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}],
        "mac": "02:00:00:00:00:11", "dns": {"searches": ["shop.example"]}, "bandwidth": {"ingressRate": 1},
    }  # fmt: skip
    env = {
        "NETCONFPATH": str(tmp_path), "CNI_PATH": f"{program.parent}:/usr/lib/cni",
        "CNI_CACHE": str(tmp_path / "cache"), "CNI_IFNAME": "cni0", "CNI_ARGS": "IgnoreUnknown=1;K8S=x",
        "CAP_ARGS": json.dumps(given), "PATH": os.environ["PATH"],
    }  # fmt: skip

    def call(command: str) -> subprocess.CompletedProcess[str]:
        words = [libcni, command, "net", netns, "ctnrtest"]
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, check=False)

    added = call("add")
    assert added.returncode == 0, added.stderr
    result = json.loads(added.stdout)
    assert result["ips"][0]["address"] == "10.0.2.100/24"
    assert result["dns"] == {"nameservers": ["10.0.2.3"], "search": ["shop.example"]}
    assert "02:00:00:00:00:11" in ip(netns, "link", "show", "cni0")
    assert "mtu 1400" in ip(netns, "link", "show", "cni0")
    again = call("add")
    assert (again.returncode, "has cni0 of network net already" in again.stderr) == (1, True)
    if version != "0.3.1":
        assert call("check").returncode == 0
        os.kill(daemons()[0], signal.SIGKILL)
        while daemons():  # it dies in steps, its interface first
            time.sleep(0.01)
        assert "no slirp4netns runs" in call("check").stderr
    for _ in range(2):
        assert call("del").returncode == 0
    assert daemons() == []
