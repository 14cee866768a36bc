"""Images from a registry to a container: policy, layers, names, the way out again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.world import images
from tests.world.people import Person
from tests.world.registry import Registry

INSECURE = "--image-policy=insecure"


def test_pulled_once_by_many(as_user: Person, registry: Registry, layered_image: Path) -> None:
    registry.push(layered_image, "library/many:1")
    before = len([one for one in registry.requests() if "/blobs/" in one])
    runs = [as_user.popen(["ctnr", "run", "--rm", INSECURE, "docker://many:1", "true"]) for _ in range(4)]
    for run in runs:
        with run:
            assert run.wait(60) == 0
    fetched = [one for one in registry.requests() if "/blobs/" in one][before:]
    assert len(fetched) - len(set(fetched)) <= 1, (
        "only the configuration is read a second time, beside the copy"
    )
    assert (
        as_user.ctnr("images", "--format", "{{.Repository}}:{{.Tag}}").ok.stdout
        == "docker.io/library/many:1\n"
    )


def test_what_layers_can_do(as_user: Person, registry: Registry, layered_image: Path) -> None:
    registry.push(layered_image, "library/layered:1")
    script = """
        cat /kept; ls /gone /folder /opaque /replaced 2>/dev/null | tr '\\n' ' '; echo
        stat -c '%a %u:%g %h %n' /setuid /owned /hard1 /hard2; id; pwd; echo "$GREETING"; readlink /link
    """
    done = as_user.ctnr(
        "run", "--rm", INSECURE, "docker://layered:1", "sh", "-c", script
    ).ok.stdout.splitlines()
    assert done[0] == "kept"
    assert done[1].split() == ["/folder:", "stays", "/opaque:", "new", "/replaced:", "inside"]
    assert done[2:6] == [
        "4755 0:0 1 /setuid",
        "644 1000:50 1 /owned",
        "644 0:0 2 /hard1",
        "644 0:0 2 /hard2",
    ]
    assert done[6] == "uid=1000(web) gid=1000(web) groups=50(staff),1000(web)"
    assert done[7:] == ["/work", "hello world", "/kept"]
    config = json.loads(as_user.ctnr("image", "cat-config", "layered:1").ok.stdout)
    assert config["config"]["StopSignal"] == "SIGINT"


def test_policies(as_user: Person, registry: Registry, layered_image: Path) -> None:
    registry.push(layered_image, "library/policed:1")
    rejecting = as_user.home / "reject.json"
    rejecting.write_text('{"default": [{"type": "reject"}]}')
    done = as_user.ctnr("run", "--rm", f"--image-policy={rejecting}", "docker://policed:1", "true")
    assert done.status == 125
    assert "the image policy rejects it" in done.stderr
    accepting = as_user.home / "accept.json"
    accepting.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    as_user.ctnr("pull", f"--image-policy={accepting}", "docker://policed:1").ok  # noqa: B018
    missing = as_user.ctnr("pull", "--image-policy=/no/such", "docker://policed:1")
    assert (missing.status, missing.stderr.count("\n")) == (125, 1)


def test_names_import_export_and_gc(as_user: Person, busybox_rootfs: Path) -> None:
    rootfs = as_user.home / "rootfs"
    shutil.copytree(busybox_rootfs, rootfs, symlinks=True)
    as_user.run(["true"])
    image = as_user.ctnr("image", "import", "-q", "./rootfs", "mine:1").ok.stdout.strip()
    again = as_user.ctnr("image", "import", "-q", "./rootfs", "mine:2").ok.stdout.strip()
    assert len(image) == len(again) == 64
    as_user.ctnr("image", "tag", "mine:1", "other").ok  # noqa: B018
    assert as_user.ctnr("run", "--rm", "other", "echo", "hi").ok.stdout == "hi\n"
    as_user.ctnr("image", "export", "mine:1", "oci-archive:out.tar").ok  # noqa: B018
    as_user.ctnr("image", "untag", "other").ok  # noqa: B018
    as_user.ctnr("rmi", "mine:1", "mine:2").ok  # noqa: B018
    as_user.ctnr("image", "gc").ok  # noqa: B018
    assert as_user.ctnr("images", "-q").ok.stdout == ""
    assert not list((as_user.store_dir / "layers").iterdir())
    as_user.ctnr("image", "import", "-q", INSECURE, "oci-archive:out.tar", "back").ok  # noqa: B018
    assert as_user.ctnr("run", "--rm", "back", "echo", "again").ok.stdout == "again\n"


def test_an_image_in_use_stays(as_user: Person, busybox_image: Path) -> None:
    image = as_user.ctnr("pull", "-q", INSECURE, f"oci:{busybox_image}").ok.stdout.strip()
    as_user.ctnr("image", "tag", image, "demo").ok  # noqa: B018
    as_user.ctnr("create", "--name=holder", "demo", "true").ok  # noqa: B018
    refused = as_user.ctnr("rmi", image)
    assert refused.status == 125
    as_user.ctnr("image", "gc", "--all").ok  # noqa: B018
    assert as_user.ctnr("images", "-q").ok.stdout
    as_user.ctnr("rm", "holder").ok  # noqa: B018
    as_user.ctnr("image", "gc", "--all").ok  # noqa: B018
    assert not as_user.ctnr("images", "-q").ok.stdout


def test_an_image_for_another_machine_is_told(as_user: Person, busybox_rootfs: Path) -> None:
    other = "s390x" if images.ARCHITECTURE != "s390x" else "amd64"
    base = [images.tar_folder(busybox_rootfs)]
    layout = images.write_image(as_user.home / "other", base, {"Env": ["PATH=/bin"]}, architecture=other)
    pulled = as_user.ctnr("pull", "-q", INSECURE, f"oci:{layout}")
    told = f"it is for linux/{other}, not for linux/{images.ARCHITECTURE}, as this machine is"
    assert pulled.ok.stderr == f"ctnr: warning: image oci:{layout}: {told}\n"
    as_user.ctnr("image", "tag", pulled.stdout.strip(), "strange").ok  # noqa: B018
    ran = as_user.ctnr("run", "--rm", "--network=none", "strange", "echo", "ran")
    assert (ran.ok.stdout, ran.stderr) == ("ran\n", f"ctnr: warning: image strange: {told}\n")
    for wish in (f"--platform=linux/{other}", f"--arch={other}"):
        assert as_user.ctnr("run", "--rm", "--network=none", wish, "strange", "true").ok.stderr == "", wish
    mine = images.write_image(as_user.home / "mine", base, {"Env": ["PATH=/bin"]})
    asked = as_user.ctnr("run", "--rm", "-q", INSECURE, f"--arch={other}", f"oci:{mine}", "true")
    assert asked.ok.stderr == (
        f"ctnr: warning: image oci:{mine}: it is for linux/{images.ARCHITECTURE}, not for linux/{other}\n"
    )
    assert "one of them" in as_user.ctnr("run", "--arch=arm", "--platform=linux/arm", "strange").stderr


def test_images_are_looked_through(as_user: Person, busybox_rootfs: Path) -> None:
    base = [images.tar_folder(busybox_rootfs)]
    for name, created, labels in (
        ("old", "2020-01-01T00:00:00Z", {"tier": "back"}),
        ("new", "2021-01-01T00:00:00.123456789Z", {"tier": "front", "a": "b"}),
    ):
        layout = images.write_image(
            as_user.home / name, base, {"Env": [name], "Labels": labels}, created=created
        )
        pulled = as_user.ctnr("pull", "-q", INSECURE, f"oci:{layout}").ok.stdout.strip()
        as_user.ctnr("image", "untag", f"oci:{layout}").ok  # noqa: B018
        as_user.ctnr("image", "tag", pulled, f"team/{name}:1").ok  # noqa: B018
    as_user.ctnr("image", "tag", "team/old:1", "team/old:2").ok  # noqa: B018
    as_user.ctnr("image", "import", "-q", "./new/blobs", "bare").ok  # noqa: B018
    as_user.ctnr("image", "untag", "bare").ok  # noqa: B018

    def shown(*words: str) -> list[str]:
        return as_user.ctnr("images", "--format={{.Repository}}:{{.Tag}}", *words).ok.stdout.split()

    old, new, bare = (
        ["localhost/team/old:1", "localhost/team/old:2"],
        ["localhost/team/new:1"],
        ["<none>:<none>"],
    )
    assert shown("-a") == shown() == [*bare, *new, *old]
    assert shown("--filter=dangling=true") == bare
    assert shown("--filter=reference=team/*:1") == [*new, *old[:1]] == shown("*/*:1")
    assert shown("--filter=label=tier") == [*new, *old]
    assert shown("--filter=label=tier", "-f", "label=a=b") == new
    assert shown("-f", "before=team/new:1") == old
    assert shown("-f", "since=team/old:2") == [*bare, *new]
    assert shown("-f", "until=2020-06-01T00:00:00Z") == old
    assert shown("--sort=created", "-f", "dangling=false") == [*new, *old]
    assert shown("--sort=tag", "*/*") == [*new, *old]
    listed = json.loads(as_user.ctnr("images", "--format=json", "team/old").ok.stdout)
    assert [(one["names"], one["labels"]) for one in listed] == [(old, {"tier": "back"})]
    assert as_user.ctnr("rmi", *as_user.ctnr("images", "-qaf", "label=tier=front").stdout.split()).ok
    assert shown() == [*bare, *old]
