"""Images made on the spot: OCI layouts written layer by layer, from busybox and from debootstrap."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.world.machine import Machine

Compression = Literal["gzip", "zstd", "none"]

BUSYBOX = Path("/bin/busybox")
DEBIAN_CACHE = Path("/var/cache/ctnr-tests")

_MEDIA = "application/vnd.oci.image"
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
ARCHITECTURE = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)


@dataclass(frozen=True)
class Entry:
    """One member of a layer. `link` is a symbolic link's target, `hardlink` another member's path."""

    path: str
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    folder: bool = False
    link: str | None = None
    hardlink: str | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def folder(path: str, mode: int = 0o755, **more: Any) -> Entry:
    return Entry(path, mode=mode, folder=True, **more)


def whiteout(path: str) -> Entry:
    """Takes away what the layers below have at `path`."""
    parent, _, name = path.rpartition("/")
    return Entry(f"{parent}/.wh.{name}" if parent else f".wh.{name}")


def opaque(path: str) -> Entry:
    """Takes away all that the layers below have in the folder `path`."""
    return Entry(f"{path}/.wh..wh..opq")


def layer(entries: Iterable[Entry]) -> bytes:
    """The tar of one layer, the same bytes every time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            tar.addfile(_member(entry), io.BytesIO(entry.data))
    return out.getvalue()


def write_image(
    layout: Path,
    layers: Sequence[bytes | Path],
    config: Mapping[str, Any] | None = None,
    *,
    compression: Compression = "gzip",
    architecture: str = ARCHITECTURE,
    tag: str = "latest",
    created: str = "2024-01-01T00:00:00Z",
) -> Path:
    """Write (or add to) the OCI layout in the folder `layout`; `config` is the image's "config" object (Cmd, Env, …).

    Layers are tars, uncompressed, as bytes or as files. An architecture that is already there under the same tag is
    joined to it as a multi-arch index.
    """
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    diff_ids, descriptors = [], []
    for tar in layers:
        data = tar.read_bytes() if isinstance(tar, Path) else tar
        diff_ids.append(_digest(data))
        suffix = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[compression]
        descriptors.append(_blob(layout, _compress(data, compression), f"{_MEDIA}.layer.v1.tar{suffix}"))
    image = {
        "created": created, "architecture": architecture, "os": "linux", "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": created, "created_by": f"layer {n}"} for n in range(len(layers))],
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": _blob(layout, _json(image), f"{_MEDIA}.config.v1+json"), "layers": descriptors,
    }  # fmt: skip
    described = _blob(layout, _json(manifest), f"{_MEDIA}.manifest.v1+json")
    described["platform"] = {"architecture": architecture, "os": "linux"}
    _enter(layout, described, tag)
    return layout


def busybox_rootfs(target: Path) -> Path:
    """A root filesystem of one static busybox with all its commands, and the users root, daemon and `web` (1000)."""
    for name in ("bin", "dev", "etc", "home/web", "proc", "root", "run", "sys", "tmp", "usr/bin", "var"):
        (target / name).mkdir(parents=True, exist_ok=True)
    (target / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, target / "bin/busybox")
    for command in subprocess.run(
        [BUSYBOX, "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if command != "busybox":
            (target / "bin" / command).symlink_to("busybox")
    (target / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nweb:x:1000:1000:web:/home/web:/bin/sh\n"
    )
    (target / "etc/group").write_text("root:x:0:\ndaemon:x:1:\nweb:x:1000:\nstaff:x:50:web\n")
    if os.geteuid() == 0:
        os.chown(target / "home/web", 1000, 1000)
    return target


def layered_image(layout: Path, base: bytes, *, compression: Compression = "gzip") -> Path:
    """Four layers that use all that layers can do, over busybox; its user is `web`, by name.

    /kept stays · /gone and /folder/old are white-outed · /opaque holds only `new` · /setuid is 4755 · /hard1 and /hard2
    are one file · /xattr has user.ctnr=yes · /replaced was a file and is a folder · /owned belongs to 1000:50.
    """
    first = layer([
        Entry("kept", b"kept\n"), Entry("gone", b"gone\n"),
        folder("folder"), Entry("folder/old", b"old\n"), Entry("folder/stays", b"stays\n"),
        folder("opaque"), Entry("opaque/old", b"old\n"), folder("opaque/deep"), Entry("opaque/deep/old", b"old\n"),
        Entry("replaced", b"a file\n"),
    ])  # fmt: skip
    second = layer([
        whiteout("gone"), whiteout("folder/old"), opaque("opaque"), folder("opaque"), Entry("opaque/new", b"new\n"),
        Entry("setuid", b"#!/bin/sh\n", mode=0o4755), Entry("hard1", b"hard\n"), Entry("hard2", hardlink="hard1"),
        Entry("xattr", b"x\n", xattrs={"user.ctnr": b"yes"}),
        folder("replaced"), Entry("replaced/inside", b"inside\n"),
    ])  # fmt: skip
    third = layer(
        [
            Entry("owned", b"o\n", uid=1000, gid=50),
            Entry("link", link="/kept"),
            folder("work", uid=1000, gid=1000),
        ]
    )
    config = {
        "Cmd": ["id"], "Env": ["PATH=/bin:/usr/bin", "GREETING=hello world"], "User": "web", "WorkingDir": "/work",
        "Volumes": {"/data": {}}, "ExposedPorts": {"8080/tcp": {}}, "StopSignal": "SIGINT",
        "Labels": {"kind": "layered"},
    }  # fmt: skip
    return write_image(layout, [base, first, second, third], config, compression=compression)


def redis_image(layout: Path, base: bytes) -> Path:
    """A Redis over busybox: Debian's program, which redis-tools has under another name, and its libraries."""
    program = Path("/usr/bin/redis-check-rdb")  # what it does is decided by the name it is called by
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = [Path(path) for path in re.findall(r"(/\S+) \(0x", told)]
    files = [Entry("usr/bin/redis-server", program.read_bytes(), mode=0o755)]
    files += [Entry(str(path)[1:], path.read_bytes(), mode=0o755) for path in libraries]
    config = {"Cmd": ["redis-server", "--protected-mode", "no"], "Env": ["PATH=/bin:/usr/bin"]}
    return write_image(layout, [base, layer([*files, folder("data")])], {**config, "WorkingDir": "/data"})


def debian_image(layout: Path, machine: Machine) -> Path:
    """Debian's minimal system in three layers: the system, a change to it, and documentation taken away."""
    base = _debootstrap(machine)
    second = layer([Entry("etc/motd", b"a small Debian\n"), folder("srv/data", uid=33, gid=33)])
    third = layer([opaque("usr/share/doc"), whiteout("etc/issue.net")])
    config = {"Cmd": ["bash"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    return write_image(layout, [base, second, third], config)


def tar_folder(source: Path) -> bytes:
    """A folder's content as one uncompressed layer, sorted, without its own times; xattrs aside."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(source.rglob("*")):
            info = tar.gettarinfo(str(path), arcname=str(path.relative_to(source)))
            info.mtime = 0
            info.uname = info.gname = ""
            if path.is_symlink() or not stat.S_ISREG(path.lstat().st_mode):
                tar.addfile(info)
            else:
                with path.open("rb") as file:
                    tar.addfile(info, file)
    return out.getvalue()


def _debootstrap(machine: Machine) -> Path:
    """debootstrap's result as a tar, made once per machine from the mirror that apt itself uses."""
    mirror, suite = _apt_mirror()
    cached = DEBIAN_CACHE / f"{suite}-{ARCHITECTURE}.tar"
    if not cached.exists():
        work = machine.root / "debootstrap"
        part = cached.with_suffix(".part")
        try:
            machine.outside(["mkdir", "-p", str(DEBIAN_CACHE)])
            machine.outside(["debootstrap", "--variant=minbase", suite, str(work), mirror])
            shutil.rmtree(work / "var/cache/apt/archives", ignore_errors=True)
            machine.outside(
                ["tar", "-C", str(work), "--numeric-owner", "--one-file-system", "-cf", str(part), "."]
            )
            part.rename(cached)  # whole or not at all: the next run takes what it finds
        finally:
            part.unlink(missing_ok=True)
            shutil.rmtree(work, ignore_errors=True)
    return cached


def _apt_mirror() -> tuple[str, str]:
    """The first archive of apt's own configuration that has the running release: (URI, suite).

    Raises: AssertionError if apt names none.
    """
    release = dict(re.findall(r"^(\w+)=\"?(.*?)\"?$", Path("/etc/os-release").read_text(), re.MULTILINE))
    suite = release.get("VERSION_CODENAME", "")
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for line in targets.splitlines():
        uri, of_release, component = line.split()
        if of_release == suite and component == "main":
            return uri, suite
    raise AssertionError(f"apt's sources name no archive with the suite {suite!r}; debootstrap needs one")


def _member(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path)
    info.mode, info.uid, info.gid, info.size = entry.mode, entry.uid, entry.gid, len(entry.data)
    if entry.folder:
        info.type = tarfile.DIRTYPE
    elif entry.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
    elif entry.hardlink is not None:
        info.type, info.linkname = tarfile.LNKTYPE, entry.hardlink
    info.pax_headers = {f"SCHILY.xattr.{name}": value.decode() for name, value in entry.xattrs.items()}
    return info


def _compress(data: bytes, how: Compression) -> bytes:
    if how == "gzip":
        return gzip.compress(data, compresslevel=1, mtime=0)
    if how == "zstd":
        import zstandard  # only the few tests that ask for it

        return zstandard.ZstdCompressor(level=1).compress(data)
    return data


def _blob(layout: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = _digest(data)
    (layout / "blobs/sha256" / digest.partition(":")[2]).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _enter(layout: Path, manifest: dict[str, Any], tag: str) -> None:
    """Name `manifest` in index.json; a second architecture under one tag makes a nested index of both."""
    path = layout / "index.json"
    index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
    if path.exists():
        index = json.loads(path.read_bytes())
    named = {"org.opencontainers.image.ref.name": tag}
    same = [one for one in index["manifests"] if one.get("annotations") == named]
    others = [one for one in index["manifests"] if one.get("annotations") != named]
    if same:
        platforms = [{key: value for key, value in same[0].items() if key != "annotations"}]
        if same[0]["mediaType"].endswith("index.v1+json"):
            inner = layout / "blobs/sha256" / same[0]["digest"].partition(":")[2]
            platforms = json.loads(inner.read_bytes())["manifests"]
        both = {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.index.v1+json",
            "manifests": [*platforms, manifest],
        }
        manifest = _blob(layout, _json(both), f"{_MEDIA}.index.v1+json")
    index["manifests"] = [*others, {**manifest, "annotations": named}]
    path.write_bytes(_json(index))


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
