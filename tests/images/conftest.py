"""A store, a sandbox to unpack in, and layers as hostile as one likes."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctnr.images.progress import Progress
from ctnr.images.store import ImageStore
from ctnr.images.view import Image
from supervisor.sandbox.sandbox import Sandbox, open_sandbox
from tests.world import images


class Bench:
    """A store under test. `told` is what pulls have reported."""

    def __init__(self, root: Path, sandbox: Sandbox) -> None:
        self.root = root
        self.store = ImageStore(str(root))
        self.told: list[Progress] = []
        self._sandbox = sandbox

    async def sandbox(self) -> Sandbox:
        return self._sandbox

    async def pull(self, text: str, **options: Any) -> Image:
        options = {"policy": "insecure", **options}
        return await self.store.pull(text, sandbox=self.sandbox, report=self.told.append, **options)

    def left(self) -> list[str]:
        """What is unfinished in the store: nothing, after whatever has happened."""
        found = [path for path in self.root.rglob("*") if path.name.startswith(".new-")]
        return sorted(str(path.relative_to(self.root)) for path in [*found, *self.root.glob("tmp/*")])


OpenBench = Callable[..., Any]


@pytest.fixture
def open_bench(tmp_path: Path) -> OpenBench:
    """`async with open_bench() as bench`; the store is the same each time."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    tmp_path.chmod(0o755)

    @asynccontextmanager
    async def bench(*, rootless: bool = False, root: Path | None = None) -> AsyncIterator[Bench]:
        async with open_sandbox(str(run_dir), rootless=rootless) as sandbox:
            yield Bench(root or tmp_path / "store", sandbox)

    return bench


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """An archive member as it comes; nothing is checked."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def write_layout(tmp_path: Path) -> Callable[..., str]:
    """Writes layers as an OCI layout and gives its reference."""
    made = 0

    def write(*layers: bytes, **options: Any) -> str:
        nonlocal made
        made += 1
        return f"oci:{images.write_image(tmp_path / f'layout{made}', layers, **options)}:latest"

    return write


def change(reference: str, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Edit manifest and configuration of a layout, and make the digests on the way to them right again."""
    layout = Path(reference.split(":")[1])
    blobs = layout / "blobs/sha256"
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    edit(manifest, config)
    manifest["config"].update(_put(blobs, config))
    index["manifests"][0].update(_put(blobs, manifest))
    (layout / "index.json").write_text(json.dumps(index))


def write_docker(folder: Path, layers: Sequence[bytes], config: dict[str, Any]) -> Path:
    """The same image in Docker's format, as a dir: that skopeo reads; `config` is its whole configuration."""
    folder.mkdir()
    blobs = [
        _file(folder, images._compress(data, "gzip")) for data in layers
    ]  # one way to compress is enough
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
    whole = {
        "architecture": images.ARCHITECTURE,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    media = "application/vnd.docker"
    described = _file(folder, json.dumps({**whole, **config}).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{media}.distribution.manifest.v2+json",
        "config": {"mediaType": f"{media}.container.image.v1+json", **described},
        "layers": [{"mediaType": f"{media}.image.rootfs.diff.tar.gzip", **one} for one in blobs],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    return folder


def _put(blobs: Path, value: dict[str, Any]) -> dict[str, Any]:
    return _file(blobs, json.dumps(value).encode())


def _file(folder: Path, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (folder / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}
