"""config.json as a whole: what is in it, and what is not."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from ctnr.bundles.build import RECURSIVE_RO, Facts, build_bundle, wishes_of
from ctnr.bundles.image import ImageConfig, ImageProcess
from ctnr.bundles.mounts import plan_mounts, unnamed_places, with_image_volumes
from ctnr.bundles.seccomp import BPF_ANNOTATION, SeccompProfiles
from ctnr.bundles.users import ResolvedUser
from ctnr.requests import Run
from supervisor.spec import Prepared

IMAGE = ImageConfig(
    config=ImageProcess(
        cmd=("sh",),
        env=("A=1",),
        labels={BPF_ANNOTATION: "allow everything", "org.opencontainers.image.title": "t"},
    ),
    architecture="amd64",
)
PROFILE = b'{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}'


@pytest.fixture
def build(tmp_path: Path) -> Any:
    profile = tmp_path / "profile.json"
    profile.write_bytes(PROFILE)
    realm: Any = SimpleNamespace(sandbox=SimpleNamespace(init_pid=os.getpid()))

    def run(
        *,
        rootless: bool = False,
        is_crun: bool = True,
        netns: str | None = "/n",
        uid: int = 0,
        **fields: Any,
    ) -> Any:
        request = Run(
            version="0", **{"seccomp": None if fields.get("privileged") else str(profile), **fields}
        )
        wishes = with_image_volumes(wishes_of(request), IMAGE.config.volumes or ())
        plan = plan_mounts(
            wishes, dict.fromkeys(unnamed_places(wishes), "f" * 64), volume_root=f"{tmp_path}/v", rootless=False,
            recursive_ro=RECURSIVE_RO,
        )  # fmt: skip
        facts = Facts(
            name="web", container_id="f" * 64, hostname="h", user=ResolvedUser(uid=uid), plan=plan,
            rootless=rootless, is_crun=is_crun,
        )  # fmt: skip
        prepared = Prepared(rootfs="/rootfs", directory="/d", netns=netns, attachments=(), realm=realm)
        built = build_bundle(IMAGE, request, facts, prepared, SeccompProfiles(None))
        return SimpleNamespace(files=built.files, **msgspec.json.decode(built.config))

    return run


def _mounts(built: Any) -> dict[str, Any]:
    found = {mount["destination"]: mount for mount in built.mounts}
    assert len(found) == len(built.mounts)
    return found


def test_safe_by_default(build: Any) -> None:
    built = build()
    assert "/proc/kcore" in built.linux["maskedPaths"]
    assert "/proc/sys" in built.linux["readonlyPaths"]
    assert built.linux["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "CAP_SYS_ADMIN" not in built.process["capabilities"]["bounding"]
    assert {n["type"] for n in built.linux["namespaces"]} == {"pid", "ipc", "uts", "mount", "network"}
    assert "ro" in _mounts(built)["/sys"]["options"]
    assert built.linux["sysctl"] == {"net.ipv4.ping_group_range": "0 0"}
    assert set(built.files) == {
        f"/d/{name}" for name in ("hosts", "hostname", "resolv.conf", "containerenv")
    }


def test_image_labels_give_no_orders_to_the_runtime(build: Any) -> None:
    annotations = build(is_crun=False).annotations
    assert BPF_ANNOTATION not in annotations
    assert annotations["org.opencontainers.image.title"] == "t"
    assert build().annotations.get(BPF_ANNOTATION) != "allow everything"
    assert build(annotations=("a=b",)).annotations["a"] == "b"


def test_privileged(build: Any) -> None:
    built = build(privileged=True, rootless=True)
    assert "seccomp" not in built.linux
    assert "maskedPaths" not in built.linux
    assert "rw" in _mounts(built)["/sys"]["options"]
    assert "CAP_SYS_ADMIN" in built.process["capabilities"]["effective"]


def test_host_network(build: Any) -> None:
    built = build(netns=None, rootless=True)
    assert "network" not in {n["type"] for n in built.linux["namespaces"]}
    assert _mounts(built)["/sys"]["type"] == "bind"
    assert "/sys/fs/cgroup" in built.linux["maskedPaths"]
    assert "sysctl" not in built.linux


def test_read_only(build: Any) -> None:
    built = build(read_only=True)
    assert built.root["readonly"] is True
    assert {_mounts(built)[path]["type"] for path in ("/run", "/tmp", "/var/tmp")} == {"tmpfs"}
    assert "ro" in _mounts(built)["/etc/hosts"]["options"]


def test_mount_order_and_precedence(build: Any, tmp_path: Path) -> None:
    built = build(volumes=(f"{tmp_path}:/etc/hosts", f"{tmp_path}:/a/b/c"), tmpfs=("/a", "/dev/shm:size=1m"))
    order = [mount["destination"] for mount in built.mounts]
    assert order.index("/a") < order.index("/a/b/c")
    assert order.index("/dev") < order.index("/dev/shm")
    assert _mounts(built)["/etc/hosts"]["source"] == str(tmp_path)
    assert "size=1m" in _mounts(built)["/dev/shm"]["options"]


def test_no_litter_in_a_directory_of_the_users(build: Any, tmp_path: Path) -> None:
    assert "/etc/hosts" not in _mounts(build(volumes=(f"{tmp_path}:/etc",)))


def test_other_user(build: Any) -> None:
    capabilities = build(uid=1000).process["capabilities"]
    assert capabilities["effective"] == capabilities["ambient"] == []
    assert capabilities["bounding"]
