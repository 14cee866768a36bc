"""Broken content and a broken host: one clear line, what cures it, and nothing left (the leak guard looks)."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest

from tests.cli.test_bad_input import INSECURE, hidden, refused
from tests.world import images
from tests.world.images import Entry, layer, write_image
from tests.world.machine import Machine
from tests.world.people import Person
from tests.world.registry import Registry


def test_content_that_changed_on_its_way(me: Person, machine: Machine, registry: Registry) -> None:
    """A flipped bit, and then a blob that is cut off, in the registry's own storage."""
    layout = write_image(me.home / "flipped", [layer([Entry(me.name, os.urandom(50_000))])], {"Cmd": ["sh"]})
    registry.push(layout, f"library/flipped:{me.name}")
    [digest] = layer_digests(layout)
    [blob] = [path for path in (machine.root / "registry").rglob("data") if path.parent.name == digest]
    whole = blob.read_bytes()
    for broken in (bytes([*whole[:1000], whole[1000] ^ 1, *whole[1001:]]), whole[:1000]):
        blob.write_bytes(broken)
        refused(me, "pull", INSECURE, f"docker://flipped:{me.name}", says="does not match its digest")
    blob.write_bytes(whole)
    me.ctnr("pull", INSECURE, f"docker://flipped:{me.name}").ok  # noqa: B018
    me.ctnr("rmi", f"flipped:{me.name}").ok  # noqa: B018


def layer_digests(layout: Path) -> list[str]:
    index = json.loads((layout / "index.json").read_bytes())
    manifest = (layout / "blobs/sha256" / index["manifests"][0]["digest"].partition(":")[2]).read_bytes()
    return [one["digest"].partition(":")[2] for one in json.loads(manifest)["layers"]]


def test_hostile_and_wrong_layers(me: Person, busybox_rootfs: Path) -> None:
    base = images.tar_folder(busybox_rootfs)
    climbing = [Entry("../../climbed", b"x")]
    by_link = [Entry("etc/out", link="/"), Entry("etc/out/climbed", b"x")]
    by_hard_link = [Entry("stolen", hardlink="../../../etc/passwd")]
    nothing_whiteout = [Entry(".wh...", b"")]
    for name, entries, says in (
        ("climbing", climbing, "leads out of the layer"),
        ("hard", by_hard_link, "layer"),
        ("whiteout", nothing_whiteout, "whiteout"),
    ):
        layout = write_image(me.home / name, [base, layer(entries)], {"Cmd": ["sh"]})
        refused(me, "run", "--rm", INSECURE, f"oci:{layout}", "true", says=says)
    layout = write_image(me.home / "by-link", [base, layer(by_link)], {"Cmd": ["sh"]})
    inside = me.ctnr("run", "--rm", INSECURE, f"oci:{layout}", "cat", "/climbed")
    assert inside.ok.stdout == "x", "a link is followed inside of the image"
    assert not Path("/climbed").exists()
    me.ctnr("rmi", f"oci:{layout}").ok  # noqa: B018
    assert me.ctnr("images", "--format", "{{.Name}}").ok.stdout.count("oci:") == 1


def plugin(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_plugins_that_fail(me: Person) -> None:
    told = '{"cniVersion":"0.4.0","code":111,"msg":"out of cheese","details":"redo from start"}'
    only_add = "cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0"
    programs, configs = me.home / "plugins", me.home / "failing.d"
    plugin(programs, "cheese", f"{only_add}; echo '{told}'; exit 1")
    plugin(programs, "mute", f"{only_add}; echo 'it broke' >&2; exit 3")
    plugin(programs, "babble", f"{only_add}; echo 'no json'")
    configs.mkdir()
    for name in ("cheese", "mute", "babble"):
        conf = {"cniVersion": "0.4.0", "name": name, "type": name}
        (configs / f"{name}.conf").write_text(json.dumps(conf))
    env = {"NETCONFPATH": str(configs), "CNI_PATH": f"{programs}:/usr/lib/cni"}
    for network, says in (
        ("cheese", "cheese failed at ADD: out of cheese: redo from start (CNI error code 111)"),
        ("mute", "mute failed at ADD: it ended with status 3: it broke"),
        ("babble", "babble"),
        ("slirp,cheese", "CNI error code 111"),
    ):
        refused(me, "run", "--rm", f"--network={network}", "demo", "true", says=says, env=env)
    told_at_once = refused(
        me, "run", f"--network={network}", "demo", "true", says="cheese", env={**env, "CNI_PATH": ""}
    )
    assert "put it into one of them" in told_at_once
    assert me.ctnr("ps", "-a", "-q").ok.stdout == ""


def test_a_file_where_a_folder_is_meant(me: Person) -> None:
    (me.home / "file").write_text("x")
    refused(me, "run", "--rm", "-w", "/etc/passwd", "demo", "true", says="not a directory in the image")
    refused(
        me, "image", "export", "demo", f"oci:{me.home}/file/x", says=f"image demo to oci:{me.home}/file/x"
    )
    refused(me, "image", "import", f"{me.home}/file", "x", says="layer")
    refused(me, "image", "import", f"{me.home}/nowhere", "x", says="no such file or directory")
    refused(me, "--store-dir", f"{me.home}/file", "images", says="choose another store")
    me.ctnr("--store-dir", f"{me.home}/file", "supervisor", "stop")
    refused(me, "images", says="not a directory", env={"CTNR_RUNTIME_DIR": f"{me.home}/file"})


def test_without_the_service_nothing_stays(me: Person) -> None:
    refused(me, "--no-service", "run", "-d", "demo", "true", says="nothing would keep it running")
    refused(me, "--no-service", "start", "x", says="nothing would keep it running")


def test_tracebacks_are_for_those_who_ask(me: Person) -> None:
    command = ["run", "--rm", "-u", "nobody-here", "demo", "true"]
    assert "Traceback" not in me.ctnr(*command).stderr
    done = me.ctnr("--debug", *command)
    assert done.status == 125
    assert done.stderr.startswith("ctnr: user 'nobody-here'")
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("programs", [("crun", "runc"), ("newuidmap",)])
def test_nothing_to_run_containers_with(
    as_user: Person, busybox_image: Path, programs: tuple[str, ...]
) -> None:
    if as_user.uid == 0 and programs == ("newuidmap",):
        pytest.skip("root needs none")
    pulled = as_user.ctnr("pull", "-q", INSECURE, f"oci:{busybox_image}").ok.stdout.strip()
    as_user.ctnr("supervisor", "stop").ok  # noqa: B018
    with contextlib.ExitStack() as covered:
        for program in programs:
            covered.enter_context(hidden(program))
        told = refused(as_user, "run", pulled, "true", says=f"{programs[0]} is not installed")
        assert "sudo apt-get install" in told
        assert as_user.ctnr("ps", "-a", "-q").ok.stdout == ""
        told_by_info = as_user.ctnr("info").ok.stdout
        assert f"no  {programs[0]}" in told_by_info
        assert "cure: sudo apt-get install" in told_by_info
    assert as_user.ctnr("run", "--rm", pulled, "echo", "cured").ok.stdout == "cured\n", "without a restart"


def test_a_read_only_store(as_user: Person, busybox_image: Path) -> None:
    pulled = as_user.ctnr("pull", "-q", INSECURE, f"oci:{busybox_image}").ok.stdout.strip()
    as_user.ctnr("supervisor", "stop").ok  # noqa: B018
    store = as_user.store_dir
    os.system(f"mount --bind {store} {store} && mount -o remount,bind,ro {store}")
    try:
        refused(as_user, "run", "--rm", pulled, "true", says="Read-only file system")
        refused(as_user, "pull", INSECURE, f"oci:{busybox_image}", says="--store-dir")
        assert as_user.ctnr("images", "-q").ok.stdout.strip() == pulled[:12]
        as_user.ctnr("supervisor", "stop").ok  # noqa: B018
    finally:
        os.system(f"umount -l {store}")
    assert as_user.ctnr("run", "--rm", pulled, "echo", "again").ok.stdout == "again\n"


def test_a_disk_that_fills_under_a_container(as_user: Person, busybox_image: Path) -> None:
    """What the container writes is its own failure; afterwards everything can be cleaned up."""
    store = as_user.home / "narrow"
    store.mkdir()
    os.system(f"mount -t tmpfs -o size=8m,uid={as_user.uid},mode=700 tmpfs {store}")
    here = ("--store-dir", str(store))
    try:
        pulled = as_user.ctnr(*here, "pull", "-q", INSECURE, f"oci:{busybox_image}").ok.stdout.strip()
        done = as_user.ctnr(
            *here, "run", "--name=hog", pulled, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=20"
        )
        assert (done.status, "No space left" in done.stderr) == (1, True)
        full = as_user.ctnr(*here, "run", "--rm", pulled, "true")
        assert full.status == 125
        assert full.stderr.startswith("ctnr: ")
        assert full.stderr.count("\n") == 1
        as_user.ctnr(*here, "rm", "hog").ok  # noqa: B018
        assert as_user.ctnr(*here, "run", "--rm", pulled, "echo", "room").ok.stdout == "room\n"
        as_user.ctnr(*here, "supervisor", "stop").ok  # noqa: B018
    finally:
        os.system(f"umount -l {store}")
