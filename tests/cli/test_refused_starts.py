"""What the kernel or the runtime would refuse: one line of ours on stderr, though the program's own stderr is the same.

With both OCI runtimes: they word it differently, and call a container started before its program is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.machine import Machine
from tests.world.people import Person, Result

FOREIGN = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\xf7\0\x01\0\0\0" + bytes(100)  # for eBPF
LOADER = b"/lib64/ld-linux-x86-64.so.2"

PROGRAMS = {
    "garbage": b"\x01\x02 garbage\n",
    "text": b"echo no interpreter\n",
    "empty": b"",
    "foreign": FOREIGN,
    "orphan": b"#!/no/such/interpreter\n",
    "nested": b"#! /opt/orphan -x\n",
    "odd": b"#!/opt\n",
    "good": b"#!/bin/sh\necho good\n",
    "again": b"#!/opt/good\n",
    "moved": b"#!/vol/sh\necho moved\n",
}


@pytest.fixture(
    scope="module", params=[("root", "crun"), ("user", "crun"), ("root", "runc"), ("user", "runc")]
)
def me(request: pytest.FixtureRequest, machine: Machine, busybox_rootfs: Path) -> Iterator[Person]:
    """Somebody whose image `demo` has PROGRAMS in /opt, and whose ~/volume has them as well."""
    name, runtime = request.param
    with contextlib.closing(Person(machine, name)) as person:
        person.env["CTNR_RUNTIME"] = runtime
        root, volume = person.home / "root", person.home / "volume"
        shutil.copytree(busybox_rootfs, root, symlinks=True)
        (root / "opt").mkdir(exist_ok=True)
        for program, content in PROGRAMS.items():
            (root / "opt" / program).write_bytes(content)
            (root / "opt" / program).chmod(0o755)
        (root / "opt/noexec").write_bytes(PROGRAMS["good"])
        (root / "opt/byroot").write_bytes(PROGRAMS["good"])
        (root / "opt/byroot").chmod(0o700)
        os.chown(root / "opt/byroot", person.uid, person.uid)  # root of the image
        loaded = Path("/bin/ls").read_bytes()
        if LOADER in loaded:
            (root / "opt/noloader").write_bytes(loaded.replace(LOADER, LOADER.replace(b"ld-", b"xx-")))
            (root / "opt/noloader").chmod(0o755)
        (root / "opt/loop").symlink_to("loop")
        (root / "opt/nowhere").symlink_to("/no/where")
        shutil.copytree(root / "opt", volume, symlinks=True)
        shutil.copy(busybox_rootfs / "bin/busybox", volume / "sh")
        (person.home / "file").write_text("x")
        (person.home / "broken").symlink_to("/no/where")
        person.ctnr("image", "import", "-q", str(root), "demo").ok  # noqa: B018
        yield person


def one_line(done: Result, status: int, says: str) -> None:
    assert done.status == status, done
    assert (done.stderr[:6], done.stderr.count("\n"), done.stdout) == ("ctnr: ", 1, ""), done
    assert says in done.stderr, done


def refused(me: Person, program: str, status: int, says: str, *options: str) -> None:
    run = ("run", "--rm", "--network=none", f"-v={me.home}/volume:/vol")
    one_line(me.ctnr(*run, *options, "demo", program), status, says)


def refused_everywhere(me: Person, program: str, status: int, says: str) -> None:
    """By run, run -d, start and exec alike; and no container is left of it."""
    run = ("--network=none", f"-v={me.home}/volume:/vol")
    one_line(me.ctnr("run", "--rm", *run, "demo", program), status, says)
    one_line(me.ctnr("run", "-d", *run, "demo", program), status, says)
    me.ctnr("create", "--name=made", *run, "demo", program).ok  # noqa: B018
    one_line(me.ctnr("start", "-a", "made"), status, says)
    me.ctnr("rm", "made").ok  # noqa: B018
    me.ctnr("run", "-d", "--name=up", *run, "demo", "sleep", "1000").ok  # noqa: B018
    one_line(me.ctnr("exec", "up", program), status, says)
    me.ctnr("rm", "-f", "up").ok  # noqa: B018
    assert me.ctnr("ps", "-a", "-q").ok.stdout == ""


def test_files_that_are_no_programs(me: Person) -> None:
    refused_everywhere(me, "/opt/garbage", 126, "exec format error")
    for program in ("/opt/text", "/opt/empty", "/opt/foreign", "/vol/garbage", "/vol/foreign"):
        refused(me, program, 126, "exec format error")
    for program in ("/opt/noexec", "/opt", "/vol/noexec", "/vol"):
        refused(me, program, 126, "can't be executed")
    for program in ("/opt/none", "/vol/none", "none"):
        refused(me, program, 127, "not found in the container")


def test_programs_without_what_executes_them(me: Person) -> None:
    refused_everywhere(me, "/vol/orphan", 127, "/no/such/interpreter, is not in the container")
    refused(me, "/opt/orphan", 127, "/no/such/interpreter, is not in the container")
    refused(me, "/opt/nested", 127, "is not in the container")
    refused(me, "/opt/odd", 126, "permission denied for its interpreter /opt")
    if (me.home / "volume/noloader").exists():
        refused(me, "/opt/noloader", 127, "xx-linux-x86-64.so.2, is not in the container")
        refused(me, "/vol/noloader", 127, "xx-linux-x86-64.so.2, is not in the container")


def test_programs_that_work_are_not_refused(me: Person) -> None:
    run = ("run", "--rm", "--network=none", f"-v={me.home}/volume:/vol")
    for program in ("/opt/good", "/opt/again", "/vol/good", "/vol/again"):
        assert me.ctnr(*run, "demo", program).ok.stdout == "good\n"
    for program in ("/opt/moved", "/vol/moved"):  # its interpreter is in a volume
        assert me.ctnr(*run, "demo", program).ok.stdout == "moved\n"
    assert me.ctnr(*run, "-u", "1000", "demo", "/opt/good").ok.stdout == "good\n"


def test_programs_that_their_user_may_not_execute(me: Person) -> None:
    refused(me, "/opt/byroot", 126, "can't be executed", "-u", "1000:1000")
    assert me.ctnr("run", "--rm", "--network=none", "demo", "/opt/byroot").ok.stdout == "good\n"


def test_a_volume_without_programs(me: Person) -> None:
    noexec = f"-v={me.home}/volume:/tools:noexec"
    one_line(me.ctnr("run", "--rm", "--network=none", noexec, "demo", "/tools/good"), 126, "mounted noexec")


def test_mounts_that_can_not_be_made(me: Person) -> None:
    directory, file = f"{me.home}/volume", f"{me.home}/file"
    below = (f"-v={directory}:/v:ro", f"-v={file}:/f")
    for options, says in (
        ((f"-v={me.home}/none:/x",), "does not exist on the host"),
        ((f"-v={me.home}/broken:/x",), "is a link that leads nowhere"),
        ((f"-v={directory}:/opt/text",), "it is a file in the image"),
        ((f"-v={file}:/opt",), "it is a directory in the image"),
        ((f"-v={directory}:/opt/text/x",), "something above it is a file in the image"),
        ((f"-v={file}:/opt/text/x",), "something above it is a file in the image"),
        ((f"-v={directory}:/opt/loop",), "a link in the image leads nowhere"),
        ((f"-v={directory}:/opt/nowhere/x",), "a link in the image leads nowhere"),
        (("-v=/opt/text",), "it is a file in the image"),
        (("-v=named:/opt/text/x",), "something above it is a file"),
        ((*below, f"-v={directory}:/v/none"), "which is read-only; make it in"),
        ((*below, f"-v={file}:/v/none"), "which is read-only"),
        ((*below, "--tmpfs=/v/none"), "which is read-only"),
        ((*below, f"-v={directory}:/v/text"), "it is a file in the mount at /v"),
        ((*below, f"-v={directory}:/f/x"), "something above it is a file in the mount at /f"),
        ((f"-v={directory}:/sys/none",), "nothing can be made in it"),
        (("--tmpfs=/proc/none",), "mount at /proc/none"),
        ((f"-v={directory}:/dev/null",), "it is a file in every container"),
        (("--tmpfs=/opt/text",), "it is a file in the image"),
        (("--tmpfs=/x:size=much",), "size can't be 'much'"),
        (("--tmpfs=/x:mpol=nope",), "the kernel does not take mpol=nope"),
        (("--tmpfs=/x:uid=99999999999",), "the kernel does not take uid=99999999999"),
        (("--device=/dev/none",), "No such file or directory"),
        (("--device=/dev/null:/opt/text/x",), "something above it is a file"),
        (("--device=/dev/null:/opt",), "it is a directory in the image"),
        (("--network=slirp", "--sysctl=net.ipv4.nope=1"), "sysctl net.ipv4.nope=1"),
        (("--network=slirp", "--sysctl=net.ipv4.ip_forward=abc"), "Invalid argument"),
    ):  # fmt: skip
        net = () if "--network=slirp" in options else ("--network=none",)
        one_line(me.ctnr("run", "--rm", *net, *options, "demo", "true"), 125, says)
    assert me.ctnr("ps", "-a", "-q").ok.stdout == ""
    assert os.listdir(me.store_dir / "bundles") == []


def test_mounts_that_can_be_made(me: Person) -> None:
    directory, file = f"{me.home}/volume", f"{me.home}/file"
    for options in (
        (f"-v={directory}:/new/place", f"-v={file}:/new/file", "--tmpfs=/new/tmp"),
        ("--read-only", f"-v={directory}:/new/place", f"-v={file}:/new/file", "--tmpfs=/new/tmp"),
        ("--tmpfs=/t", f"-v={directory}:/t/new", f"-v={file}:/t/file"),
        (f"-v={file}:/opt/text", f"-v={directory}:/opt/x:ro", f"-v={file}:/opt/x/text"),
        (f"-v={file}:/proc/uptime", "--tmpfs=/x:uid=1,gid=1,size=1m"),
        ("--sysctl=net.ipv4.ip_forward=1", "--sysctl=kernel.shmmni=100"),
    ):
        me.ctnr("run", "--rm", "--network=none", *options, "demo", "true").ok  # noqa: B018
