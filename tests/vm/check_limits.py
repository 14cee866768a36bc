"""Limits of people who have just logged in, on cgroup v2 alone: root's, and a user's by systemd's delegation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.vm.login import Login

EATS_50_MB = "exec dd if=/dev/zero of=/dev/null bs=50M count=1"
RUN = ("run", "--rm", "--network=none")


def test_info(me: Login) -> None:
    found = json.loads(me.ctnr("info", "--format=json").ok.stdout)
    assert found["facts"]["cgroups"]["version"] == "v2"
    assert {"memory", "cpu", "pids"} <= set(found["facts"]["cgroups"]["usable"])


def test_limits_are_the_kernels(me: Login) -> None:
    flags = "-m 64m --memory-swap 96m --memory-reservation 32m --cpus 0.5 -c 512 --pids-limit 20"
    me.ctnr("run", "-d", "--name=tight", "--network=none", *flags.split(), "demo", "sleep", "1000").ok  # noqa: B018
    group = me.cgroup("tight")
    expected = {
        "memory.max": f"{64 << 20}",
        "memory.swap.max": f"{32 << 20}",
        "memory.low": f"{32 << 20}",
        "cpu.max": "50000 100000",
        "cpu.weight": "20",
        "pids.max": "20",
    }
    assert {name: (group / name).read_text().strip() for name in expected} == expected
    service = json.loads(me.ctnr("supervisor", "status", "--format=json").ok.stdout)["pid"]
    place = Path(f"/proc/{service}/cgroup").read_text()
    if not me.is_root:
        assert "/user@1000.service/app.slice/ctnr-" in place
    me.ctnr("update", "--pids-limit=11", "-m", "128m", "tight").ok  # noqa: B018
    assert (group / "pids.max").read_text() == "11\n"
    assert (group / "memory.max").read_text() == f"{128 << 20}\n"
    assert "tight" in me.ctnr("stats", "--no-stream", "--format={{.Name}} {{.MemUsage}}", "tight").ok.stdout
    me.ctnr("rm", "-f", "tight").ok  # noqa: B018
    assert not group.exists()


def test_out_of_memory(me: Login) -> None:
    me.ctnr("run", "-d", "--name=eater", "--network=none", "-m", "32m", "demo", "sh", "-c", EATS_50_MB).ok  # noqa: B018
    assert me.ctnr("wait", "eater").ok.stdout == "137\n"
    told = me.ctnr("inspect", "--format={{.State.OOMKilled}} {{.State.ExitCode}}", "eater").ok.stdout
    assert told == "true 137\n"
    me.ctnr("rm", "eater").ok  # noqa: B018


def test_a_fork_bomb(me: Login) -> None:
    bomb = "for i in $(seq 40); do sleep 60 & done; wait"  # more than runtime and limit have room for, however slow
    assert "can't fork" in me.ctnr(*RUN, "--pids-limit=5", "demo", "sh", "-c", bomb).stderr


def test_half_a_processor(me: Login) -> None:
    line = ["run", "-d", "--name=busy", "--network=none", "--cpus=0.2", "demo", "sh", "-c"]
    me.ctnr(*line, "while :; do :; done").ok  # noqa: B018
    group = me.cgroup("busy")

    def count(word: str) -> int:
        return int(dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())[word])

    periods, used = count("nr_periods"), count("usage_usec")
    me.run("sleep", "5").ok  # noqa: B018
    assert count("nr_throttled") > 0
    assert count("usage_usec") - used <= 20_000 * (count("nr_periods") - periods + 3)
    me.ctnr("rm", "-f", "busy").ok  # noqa: B018


def test_processors_of_its_own(me: Login) -> None:
    done = me.ctnr(*RUN, "--cpuset-cpus=1", "demo", "grep", "Cpus_allowed_list", "/proc/self/status")
    if me.is_root:
        assert done.ok.stdout.split()[1] == "1"
    else:  # systemd hands cpuset on to users only where the administrator says so
        assert "the controller cpuset is not delegated to this user" in done.stderr
        assert "systemctl edit user@.service" in done.stderr


def test_pause(me: Login) -> None:
    """Also of a container that was there before the service went to a scope."""
    me.ctnr("supervisor", "stop", "--force")
    me.ctnr("run", "-d", "--name=early", "--network=none", "demo", "sleep", "1000").ok  # noqa: B018
    me.ctnr("pause", "early").ok  # noqa: B018
    assert (me.cgroup("early") / "cgroup.events").read_text().endswith("frozen 1\n")
    assert me.ctnr(*RUN, "-m", "64m", "demo", "echo", "limited").ok.stdout == "limited\n"
    me.ctnr("unpause", "early").ok  # noqa: B018
    me.ctnr("rm", "-f", "early").ok  # noqa: B018


@pytest.mark.parametrize("access", ["r", "w"])
def test_devices(me: Login, access: str) -> None:
    script = {"r": "echo x > /dev/d", "w": "head -c1 /dev/d"}[access]
    done = me.ctnr(*RUN, f"--device=/dev/net/tun:/dev/d:{access}", "demo", "sh", "-c", script)
    assert (
        "Operation not permitted" if me.is_root else "takes a device cgroup, which is real root's"
    ) in done.stderr


def test_runc(me: Login) -> None:
    me.ctnr("supervisor", "stop", "--force")
    runc = ("env", "CTNR_RUNTIME=runc", "ctnr")
    assert me.run(*runc, *RUN, "-m", "32m", "demo", "sh", "-c", EATS_50_MB).status == 137
    me.run(*runc, "run", "-d", "--name=two", "--network=none", "--pids-limit=9", "demo", "sleep", "1000").ok  # noqa: B018
    me.ctnr("pause", "two").ok  # noqa: B018
    assert me.ctnr("inspect", "--format={{.State.Status}}", "two").ok.stdout == "paused\n"
    me.ctnr("unpause", "two").ok  # noqa: B018
    me.ctnr("rm", "-f", "two").ok  # noqa: B018
    me.ctnr("supervisor", "stop", "--force")
