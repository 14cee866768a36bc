"""`ctnr run` in the foreground: streams, statuses, and every option seen from inside."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.world.internet import Internet
from tests.world.people import Person


def test_streams_and_status(me: Person) -> None:
    done = me.ctnr("run", "--rm", "demo", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (3, "out\n", "err\n") == (done.status, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
        (["no-such"], 127),
        (["/etc"], 126),
        (["/no/such"], 127),
    ],
)
def test_statuses(me: Person, command: list[str], status: int) -> None:
    done = me.ctnr("run", "--rm", "--network=none", "demo", *command)
    assert status == done.status
    assert ("ctnr: " in done.stderr) == (status in (126, 127))
    assert done.stderr.count("\n") <= 1


def test_stdin_only_with_i(me: Person) -> None:
    assert me.ctnr("run", "--rm", "-i", "demo", "cat", stdin="hello").ok.stdout == "hello"
    assert me.ctnr("run", "--rm", "demo", "cat", stdin="hello").ok.stdout == ""


def test_large_output_comes_whole(me: Person) -> None:
    done = me.ctnr("run", "--rm", "--network=none", "demo", "sh", "-c", "yes 0123456789 | head -n 300000")
    assert len(done.ok.stdout) == 300000 * 11


def test_environment_user_and_directory(me: Person) -> None:
    script = 'echo "$A|$B|$HOSTNAME|$HOME|$(pwd)|$(id -u):$(id -g)|$container"'
    flags = ["-e", "A=1", "-e", "B", "--hostname=box", "-w", "/tmp", "-u", "7:8"]
    done = me.ctnr("run", "--rm", *flags, "demo", "sh", "-c", script, env={"B": "from outside"})
    assert done.ok.stdout == "1|from outside|box|/|/tmp|7:8|ctnr\n"


def test_files_of_the_network(me: Person) -> None:
    flags = [
        "--dns=192.0.2.7",
        "--dns-search=example.org",
        "--hosts-entry=db=10.0.0.7",
        "--add-host=x:10.0.0.8",
    ]
    script = "cat /etc/resolv.conf /etc/hosts /etc/hostname"
    text = me.ctnr(
        "run", "--rm", "--network=slirp", "--hostname=box", *flags, "demo", "sh", "-c", script
    ).ok.stdout
    assert "nameserver 192.0.2.7\n" in text
    assert "search example.org\n" in text
    assert "10.0.0.7\tdb" in text
    assert "10.0.0.8\tx" in text
    assert "10.0.2.100\tbox" in text
    assert text.endswith("box\n")


def test_volumes(me: Person) -> None:
    shared = me.home / "shared"
    shared.mkdir(exist_ok=True)
    os.chown(shared, me.uid, me.uid)
    (shared / "from-outside").write_text("hi\n")
    script = "cat /data/from-outside; echo inside > /data/from-inside"
    assert me.ctnr("run", "--rm", "-v", f"{shared}:/data", "demo", "sh", "-c", script).ok.stdout == "hi\n"
    assert (shared / "from-inside").read_text() == "inside\n"
    assert (shared / "from-inside").stat().st_uid == me.uid, "root inside is the caller outside"
    read_only = me.ctnr("run", "--rm", "-v", "./shared:/data:ro", "demo", "touch", "/data/x")
    assert read_only.status == 1
    assert "Read-only" in read_only.stderr
    for target in ("/file", "/etc/passwd", "/made/file"):
        one = me.ctnr("run", "--rm", "-v", f"{shared}/from-outside:{target}:ro", "demo", "cat", target)
        assert (one.ok.stdout, one.stderr) == ("hi\n", ""), f"a file, at {target}"
    missing = me.ctnr("run", "--rm", "-v", f"{me.home}/nowhere:/data", "demo", "true")
    assert missing.status == 125
    assert "does not exist" in missing.stderr


def test_named_volumes_keep_and_take_the_images_content(me: Person) -> None:
    one = me.ctnr(
        "run",
        "--rm",
        "-v",
        "bin-copy:/bin",
        "demo",
        "/bin/sh",
        "-c",
        "ls /bin | head -1; touch /bin/zz-mine",
    )
    assert one.ok.stdout
    two = me.ctnr("run", "--rm", "-v", "bin-copy:/bin", "demo", "/bin/sh", "-c", "ls /bin | tail -1")
    assert two.ok.stdout == "zz-mine\n"


def test_tmpfs_and_read_only(me: Person) -> None:
    script = "touch /x 2>/dev/null && echo writable; touch /scratch/x /tmp/x && mount | grep -c ' /scratch .*tmpfs'"
    done = me.ctnr("run", "--rm", "--read-only", "--tmpfs", "/scratch:size=1m", "demo", "sh", "-c", script)
    assert done.ok.stdout == "1\n"


def test_safe_by_default_and_not_with_privileged(me: Person) -> None:
    script = "grep -E 'CapEff|Seccomp:' /proc/self/status; cat /proc/kcore >/dev/null 2>&1; ls /sys/firmware | wc -l"
    text = me.ctnr("run", "--rm", "demo", "sh", "-c", script).ok.stdout
    assert "CapEff:\t00000000800405fb\n" in text
    assert "Seccomp:\t2\n" in text
    assert text.endswith("\n0\n")
    text = me.ctnr("run", "--rm", "--privileged", "demo", "sh", "-c", script).ok.stdout
    assert "Seccomp:\t0\n" in text
    assert "CapEff:\t00000000800405fb" not in text
    dropped = me.ctnr(
        "run", "--rm", "--cap-drop=all", "--cap-add=chown", "demo", "grep", "CapEff", "/proc/self/status"
    )
    assert dropped.ok.stdout == "CapEff:\t0000000000000001\n"


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("none", {"lo"}),
        ("slirp", {"lo", "cni0"}),
        ("bridge", {"lo", "cni0"}),
        ("slirp,bridge", {"lo", "cni0", "cni1"}),
    ],
)
def test_networks(me: Person, network: str, expected: set[str]) -> None:
    text = me.ctnr("run", "--rm", f"--network={network}", "demo", "ip", "-o", "link").ok.stdout
    assert expected == {line.split(":")[1].strip().partition("@")[0] for line in text.splitlines()}


def test_the_hosts_own_network(me: Person) -> None:
    inside = me.ctnr(
        "run", "--rm", "--network=host", "demo", "readlink", "/proc/self/ns/net"
    ).ok.stdout.strip()
    assert inside == os.readlink("/proc/self/ns/net")


def test_the_seeds_addresses_and_the_internet(me: Person, internet: Internet) -> None:
    script = "ip addr show cni0; wget --spider http://example.org"
    done = me.ctnr("run", "--rm", "--network=slirp", "demo", "sh", "-c", script).ok
    assert "inet 10.0.2.100/24 brd 10.0.2.255 scope global cni0" in done.stdout
    assert "<BROADCAST,UP,LOWER_UP> mtu 1500" in done.stdout
    assert "Connecting to example.org (192.0.2.80:80)" in done.stderr + done.stdout


def test_entrypoint_labels_and_env_file(me: Person) -> None:
    file = me.home / "vars"
    file.write_text("# comment\nX=1 2\nY=\n")
    done = me.ctnr("run", "--rm", f"--env-file={file}", "--entrypoint", "echo", "demo", "said")
    assert done.ok.stdout == "said\n"
    assert (
        me.ctnr("run", "--rm", f"--env-file={file}", "demo", "sh", "-c", 'echo "$X|$Y|"').ok.stdout
        == "1 2||\n"
    )


def test_an_environment_longer_than_a_message(me: Person) -> None:
    """config.json of half a megabyte; net.core.wmem_default, which a message has to fit in, is mostly 208 KiB."""
    file = me.home / "long"
    file.write_text("".join(f"LONG_{number}={'x' * 1000}\n" for number in range(500)))
    run = ("run", "--rm", "--network=none", f"--env-file={file}", "demo", "sh", "-c")
    assert me.ctnr(*run, "env | grep -c ^LONG_").ok.stdout == "500\n"


def test_rm_leaves_nothing_and_without_it_the_container_is_kept(me: Person) -> None:
    before = me.ctnr("ps", "-a", "-q").ok.stdout
    me.ctnr("run", "--rm", "demo", "touch", "/x").ok  # noqa: B018
    assert before == me.ctnr("ps", "-a", "-q").ok.stdout
    me.ctnr("run", "--name=kept", "demo", "sh", "-c", "exit 4")
    assert "Exited (4)" in me.ctnr("ps", "-a", "--filter", "name=kept").ok.stdout
    me.ctnr("rm", "kept").ok  # noqa: B018
    assert before == me.ctnr("ps", "-a", "-q").ok.stdout


def test_signals_reach_the_program(me: Person) -> None:
    script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    with me.popen(["ctnr", "run", "--rm", "--network=none", "demo", "sh", "-c", script]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"got\n"
        assert process.wait(10) == 9


def test_a_killed_client_takes_its_container_along(me: Person) -> None:
    with me.popen(["ctnr", "run", "--name=orphan", "demo", "sh", "-c", "echo ready; sleep 1000"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    deadline = time.monotonic() + 5
    while "orphan" in me.ctnr("ps").ok.stdout:
        assert time.monotonic() < deadline, "its container still runs"
    me.ctnr("rm", "-f", "orphan")


def test_bundles_by_name(me: Person) -> None:
    me.ctnr("run", "-b", "work", "demo", "touch", "/mine").ok  # noqa: B018
    me.ctnr("rm", "work").ok  # noqa: B018
    assert me.ctnr("run", "--rm", "-b", "work", "demo", "ls", "/mine").ok.stdout == "/mine\n"
    anew = me.ctnr("run", "--rm", "-b", "work", "--update", "-e", "NEW=1", "demo", "ls", "/mine")
    assert anew.status == 1, "the configuration has changed, so --update makes it anew"
    assert "work" in me.ctnr("bundle", "list").ok.stdout
    me.ctnr("bundle", "delete", "work").ok  # noqa: B018
    assert "work" not in me.ctnr("bundle", "list").ok.stdout


def test_without_the_service(me: Person, tmp_path: Path) -> None:
    own = {"CTNR_RUNTIME_DIR": str(me.home / "alone")}
    (me.home / "alone").mkdir(mode=0o700, exist_ok=True)
    os.chown(me.home / "alone", me.uid, me.uid)
    done = me.ctnr(
        "--no-service", "run", "--rm", "--network=slirp", "demo", "sh", "-c", "ip addr; exit 5", env=own
    )
    assert done.status == 5
    assert "10.0.2.100" in done.stdout
    assert "running" not in me.ctnr("supervisor", "status", env=own).stdout.replace("not running", "")
