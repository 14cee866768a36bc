"""What is in images, what their containers see of it, and the commands about images and bundles."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

from tests.world import images
from tests.world.images import Entry, layer, write_image
from tests.world.people import Person

INSECURE = "--image-policy=insecure"


def test_attributes_rights_and_folders_of_an_image(me: Person, layered_image: Path) -> None:
    me.ctnr("pull", "-q", INSECURE, f"oci:{layered_image}").ok  # noqa: B018
    run = ["run", "-d", "--name=attributes", "-u", "0", f"oci:{layered_image}", "sleep", "1000"]
    me.ctnr(*run).ok  # noqa: B018
    try:
        [upper] = [path for path in me.store_dir.glob("layers/**/xattr") if path.is_file()]
        assert os.getxattr(upper, "user.ctnr") == b"yes"
        script = "echo y > /data/file; stat -c %a /tmp; find / -xdev -name '.wh.*'"
        assert me.ctnr("exec", "attributes", "sh", "-c", script).ok.stdout == "1777\n"
    finally:
        me.ctnr("rm", "-f", "attributes").ok  # noqa: B018
        me.ctnr("rmi", f"oci:{layered_image}").ok  # noqa: B018


def test_setuid_programs_gain_unless_told_not_to(me: Person, busybox_rootfs: Path) -> None:
    setuid = Entry("bin/busybox-setuid", images.BUSYBOX.read_bytes(), mode=0o4755)
    open_root = Entry("etc/passwd", b"root::0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n")
    base = images.tar_folder(busybox_rootfs)
    image = f"oci:{write_image(me.home / 'setuid', [base, layer([setuid, open_root])], {'User': 'web'})}"
    me.ctnr("pull", "-q", INSECURE, image).ok  # noqa: B018
    command = ["/bin/busybox-setuid", "su", "-c", "id -u"]
    assert me.ctnr("run", "--rm", image, *command).ok.stdout == "0\n"
    assert me.ctnr("run", "--rm", "--no-new-privileges", image, *command).status == 1
    me.ctnr("rmi", image).ok  # noqa: B018


def test_lists_and_what_stands_in_an_image(me: Person, layered_image: Path) -> None:
    pulled = me.ctnr("pull", INSECURE, f"oci:{layered_image}").ok
    assert pulled.stdout.count("\n") == 1
    assert "done" in pulled.stderr, "plain lines where there is no terminal"
    name = f"oci:{layered_image}"
    me.ctnr("image", "tag", name, "listed:7").ok  # noqa: B018
    table = me.ctnr("image", "list").ok.stdout.splitlines()
    assert table[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert any(line.split()[:2] == ["localhost/listed", "7"] for line in table)
    known = json.loads(me.ctnr("images", "--format", "json").ok.stdout)
    [layered] = [image for image in known if "localhost/listed:7" in image["names"]]
    assert (layered["layers"], sorted(layered["names"])) == (4, ["localhost/listed:7", name])
    assert me.ctnr("images", "-q", "listed").ok.stdout == layered["id"][:12] + "\n"
    config = json.loads(me.ctnr("image", "cat-config", "listed:7").ok.stdout)
    assert config == json.loads(me.ctnr("image", "inspect", layered["id"][:12]).ok.stdout)[0]
    assert config["config"]["User"] == "web"
    me.ctnr("image", "untag", "listed:7").ok  # noqa: B018
    for command in (
        ["cat-config", "listed:7"],
        ["rm", "listed:7"],
        ["tag", "listed:7", "x"],
        ["untag", "listed:7"],
    ):
        done = me.ctnr("image", *command)
        assert (done.status, done.stderr.count("\n")) == (125, 1)
    me.ctnr("rmi", name).ok  # noqa: B018
    assert me.ctnr("image", "gc").ok.stdout == "Total reclaimed space: 0 B\n", (
        "rmi has taken its layers, too"
    )
    assert name not in me.ctnr("images", "--format", "{{.Name}}").ok.stdout


def test_exports_are_images_for_others(me: Person) -> None:
    copies = (
        "oci:exported",
        "dir:exported-dir",
        "oci-archive:exported.tar",
        "docker-archive:exported-docker.tar",
    )
    for copy in copies:
        me.ctnr("image", "export", "demo", copy).ok  # noqa: B018
    assert (me.home / "exported/oci-layout").exists()
    assert (me.home / "exported-dir/manifest.json").exists()
    with tarfile.open(me.home / "exported-docker.tar") as archive:
        assert "manifest.json" in archive.getnames()
    for copy in copies:
        image = me.ctnr("pull", "-q", INSECURE, copy).ok.stdout.strip()
        assert me.ctnr("run", "--rm", image, "echo", copy).ok.stdout == copy + "\n"
    unknown = me.ctnr("image", "export", "demo", "nowhere:x")
    assert (unknown.status, "not a destination" in unknown.stderr) == (125, True)


def test_a_root_filesystem_from_stdin(me: Person) -> None:
    root = layer([Entry("hello", images.BUSYBOX.read_bytes(), mode=0o755)])
    flags = ["-q", "--entrypoint", '["/hello", "echo"]', "--cmd", '["from", "stdin"]', "--env", "A=1"]
    me.ctnr("image", "import", *flags, "-", "piped", stdin=root).ok  # noqa: B018
    nothing = me.ctnr("image", "import", "-", "void", stdin=b"")
    assert (nothing.status, "empty" in nothing.stderr) == (125, True)
    config = json.loads(me.ctnr("image", "cat-config", "piped").ok.stdout)["config"]
    assert (config["Entrypoint"], config["Cmd"], config["Env"]) == (
        ["/hello", "echo"],
        ["from", "stdin"],
        ["A=1"],
    )
    me.ctnr("rmi", "piped").ok  # noqa: B018


def test_bundles_have_commands_of_their_own(me: Person) -> None:
    assert "needs a name" in me.ctnr("bundle", "create", "demo").stderr
    me.ctnr("bundle", "create", "-b", "kit", "demo").ok  # noqa: B018
    listed = json.loads(me.ctnr("bundle", "list", "--format", "json").ok.stdout)
    assert [(one["name"], one["image"], one["running"]) for one in listed] == [("kit", "demo", False)]
    me.ctnr("bundle", "run", "kit", "touch", "/mine").ok  # noqa: B018
    assert me.ctnr("bundle", "run", "--rm", "kit", "ls", "/mine").ok.stdout == "/mine\n"
    me.ctnr("run", "-d", "-b", "kit", "demo", "sleep", "1000").ok  # noqa: B018
    busy = me.ctnr("run", "--rm", "--name=second", "-b", "kit", "demo", "true")
    assert (busy.status, busy.stderr.count("\n")) == (125, 1)
    assert "kit" in busy.stderr
    kept = me.ctnr("bundle", "delete", "kit")
    assert (kept.status, kept.stderr.count("\n")) == (125, 1)
    me.ctnr("bundle", "gc").ok  # noqa: B018
    assert me.ctnr("bundle", "list", "-q").ok.stdout == "kit\n"
    me.ctnr("bundle", "delete", "-f", "kit").ok  # noqa: B018
    assert me.ctnr("ps", "-a", "-q").ok.stdout == ""
    for command in (["run", "kit"], ["delete", "kit"]):
        done = me.ctnr("bundle", *command)
        assert (done.status, done.stderr.count("\n")) == (125, 1)
