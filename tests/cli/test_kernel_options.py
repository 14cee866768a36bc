"""Options that the kernel sees to: ulimit, sysctl, shm-size, device, oom-score-adj, group-add, no-new-privileges."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctnr.bundles.capabilities import effective_capabilities
from tests.world.people import Person, Result

ROOT_MAY_RAISE = "CAP_SYS_RESOURCE" in effective_capabilities()  # in some sandboxes root may not
OWN_OOM_SCORE = Path("/proc/self/oom_score_adj").read_text().strip()


def run(me: Person, *words: str, network: str = "none") -> Result:
    """`words` are options, then `--` and the script."""
    at = words.index("--")
    return me.ctnr("run", "--rm", f"--network={network}", *words[:at], "demo", "sh", "-c", words[at + 1])


def refused(me: Person, *options: str, network: str = "none") -> str:
    done = run(me, *options, "--", "true", network=network)
    assert done.status == 125
    assert done.stderr.count("\n") == 1
    assert ";" in done.stderr  # a cure follows
    return done.stderr


def test_ulimit(me: Person) -> None:
    script = "ulimit -n; ulimit -Hn; ulimit -c"
    done = run(me, "--ulimit", "nofile=100:200", "--ulimit", "core=0", "--", script).ok
    assert done.stdout.split() == ["100", "200", "0"]
    for wrong in ("files=1", "nofile", "nofile=9:8", "nofile=x"):
        assert "ulimit" in refused(me, "--ulimit", wrong)


def test_exec_has_the_same_limits(me: Person, names: list[str]) -> None:
    options = ["--ulimit=nofile=100:200", "--group-add=777"]
    me.ctnr("run", "-d", "--name=held", "--network=none", *options, "demo", "sleep", "1000").ok  # noqa: B018
    names.append("held")
    script = "ulimit -n; ulimit -Hn; id -G"
    lines = me.ctnr("exec", "held", "sh", "-c", script).ok.stdout.splitlines()
    assert lines[:2] == ["100", "200"]
    assert "777" in lines[2].split()


def test_only_real_root_raises_its_limits(me: Person) -> None:
    if me.uid or not ROOT_MAY_RAISE:
        assert "hard limit" in refused(me, "--ulimit", "nofile=5000000:5000000")
    else:
        assert run(me, "--ulimit", "nproc=5000000:5000000", "--", "ulimit -u").ok.stdout == "5000000\n"


def test_sysctl(me: Person) -> None:
    options = [
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--sysctl",
        "kernel.msgmax=9000",
        "--sysctl=net/ipv4/tcp_syncookies=0",
    ]
    files = ("net/ipv4/ip_forward", "kernel/msgmax", "net/ipv4/tcp_syncookies", "net/ipv4/ping_group_range")
    script = "; ".join(f"cat /proc/sys/{file}" for file in files)
    assert run(me, *options, "--", script).ok.stdout.split() == ["1", "9000", "0", "0", "0"]
    assert "whole machine's" in refused(me, "--sysctl", "kernel.pid_max=9")
    assert "the network is shared" in refused(me, "--sysctl", "net.ipv4.ip_forward=1", network="host")
    assert "not NAME=VALUE" in refused(me, "--sysctl", "net.ipv4.ip_forward")


def test_a_sysctl_that_the_kernel_refuses(me: Person) -> None:
    for wrong in ("net.ipv4.none_such=1", "net.ipv4.ip_forward=many"):
        done = run(me, "--sysctl", wrong, "--", "true")
        assert done.status == 125
        assert wrong.partition("=")[0].rpartition(".")[2] in done.stderr


def test_shm_size(me: Person) -> None:
    size = "stat -f -c '%s %b' /dev/shm"
    for options, wanted in ((["--shm-size=8m"], 8 << 20), ([], 64 << 20)):
        block, blocks = map(int, run(me, *options, "--", size).ok.stdout.split())
        assert block * blocks == wanted
    assert run(me, "--shm-size=1m", "--", "dd if=/dev/zero of=/dev/shm/f bs=1M count=2").status != 0


def test_device(me: Person) -> None:
    script = "stat -c '%F %t:%T' /dev/mine; echo x > /dev/mine && cat /dev/mine"
    assert run(me, "--device=/dev/null:/dev/mine", "--", script).ok.stdout == "character special file 1:3\n"
    assert run(me, "--device=/dev/net/tun", "--", "stat -c %t:%T /dev/net/tun").ok.stdout == "a:c8\n"
    assert run(me, "--", "ls /dev/net").status != 0
    assert "No such file" in refused(me, "--device=/dev/none-such")
    assert "not a device" in refused(me, "--device=/etc/passwd")


def test_oom_score_adj(me: Person) -> None:
    script = "cat /proc/self/oom_score_adj"
    assert run(me, "--oom-score-adj=700", "--", script).ok.stdout == "700\n"
    assert run(me, "--", script).ok.stdout.strip() == OWN_OOM_SCORE
    # lowering takes a capability on the host: who lacks it keeps what there is
    wanted = OWN_OOM_SCORE if me.uid or not ROOT_MAY_RAISE else "-900"
    assert run(me, "--oom-score-adj=-900", "--", script).ok.stdout.strip() == wanted
    assert "out of range" in refused(me, "--oom-score-adj=1001")


def test_group_add(me: Person) -> None:
    groups = run(
        me, "-u", "5:6", "--group-add=777", "--group-add=9", "--", "id -u; id -g; id -G"
    ).ok.stdout.split()
    assert groups[:2] == ["5", "6"]
    assert {"6", "777", "9"} <= set(groups[2:])
    assert "not in /etc/group" in refused(me, "--group-add=none-such")
    if me.uid:
        assert "not mapped" in refused(me, "--group-add=3000000")


@pytest.mark.parametrize(
    "option", ["--security-opt=no-new-privileges", "--security-opt=no-new-privileges:true"]
)
def test_no_new_privileges(me: Person, names: list[str], option: str) -> None:
    me.ctnr("run", "-d", "--name=meek", "--network=none", option, "demo", "sleep", "1000").ok  # noqa: B018
    names.append("meek")
    first = Path(
        f"/proc/{me.ctnr('inspect', 'meek', '--format', '{{.State.Pid}}').ok.stdout.strip()}/status"
    ).read_text()
    for status in (first, me.ctnr("exec", "meek", "cat", "/proc/self/status").ok.stdout):
        assert "NoNewPrivs:\t1\n" in status
    assert (
        "NoNewPrivs:\t0\n"
        in run(me, "--security-opt=no-new-privileges:false", "--", "cat /proc/self/status").ok.stdout
    )
    assert "not known here" in refused(me, "--security-opt=none-such")
