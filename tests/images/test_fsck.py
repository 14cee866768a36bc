"""A store that is damaged in every way: the damage is found, and mended as far as that goes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from ctnr.images.fsck import Verdict, check_store, repair_store
from ctnr.images.view import Image
from tests.images.conftest import Bench, OpenBench, member, tar
from tests.world.images import Entry, folder, layer, opaque, whiteout

WriteLayout = Callable[..., str]


class Whole:
    """A store with two images that share a layer; `reference` names the one that tests damage."""

    def __init__(self, bench: Bench, reference: str, image: Image, other: Image) -> None:
        self.bench, self.reference, self.image, self.other = bench, reference, image, other
        self.used: set[str] = set()
        self.busy: set[str] = set()

    @property
    def top(self) -> Path:
        return Path(self.image.layer_paths[-1])

    async def check(self, *, quick: bool = False) -> Verdict:
        return await check_store(self.bench.store, sandbox=self.bench.sandbox, quick=quick)

    async def repair(self) -> list[tuple[str, str | None]]:
        verdict = await repair_store(
            self.bench.store, sandbox=self.bench.sandbox, used=lambda: self.used, busy=lambda: self.busy
        )
        return [(one.what, one.done) for one in verdict.findings]

    async def told(self) -> list[str]:
        return [one.what for one in (await self.check()).findings]

    def blob(self, number: int) -> Path:
        """The file of a layer of the damaged image."""
        manifest = Path(self.bench.store.blob(self.image.manifest_digest.removeprefix("sha256:")))
        return Path(self.bench.store.blob(json.loads(manifest.read_bytes())["layers"][number]["digest"][7:]))


@pytest.fixture
async def whole(open_bench: OpenBench, write_layout: WriteLayout) -> AsyncIterator[Whole]:
    base = layer(
        [folder("d", 0o750, uid=3), Entry("d/tool", b"tool", mode=0o4755), Entry("gone"), Entry("kept")]
    )
    top = layer([
        Entry("new/file", b"new" * 1000, uid=1000, xattrs={"user.x": b"1"}), Entry("new/twin", hardlink="new/file"),
        Entry("link", link="/kept"), whiteout("gone"), opaque("d"), Entry("d/other"), Entry("low", hardlink="kept"),
    ])  # fmt: skip
    async with open_bench() as bench:
        reference = write_layout(base, top)
        image = await bench.pull(reference)
        other = await bench.pull(write_layout(base, layer([Entry("else")])))
        whole = Whole(bench, reference, image, other)
        yield whole
        assert [] == bench.left()


async def test_nothing_is_found_where_nothing_is_wrong(whole: Whole, layered_image: Path) -> None:
    await whole.bench.pull(f"oci:{layered_image}:latest")
    verdict = await whole.check()
    assert (3, 7, ()) == (verdict.images, verdict.layers, verdict.findings)
    assert [] == await whole.repair()
    assert whole.image == whole.bench.store.find(whole.reference)


DAMAGE = {
    "content": (lambda top: (top / "new/file").write_bytes(b"old" * 1000), "new/file: "),
    "time": (lambda top: os.utime(top / "new/file", ns=(0, 5)), "new/file: time differs"),
    "size": (lambda top: os.truncate(top / "new/file", 10), "new/file: size differs"),
    "mode": (lambda top: (top / "new").chmod(0o700), "new: mode differs"),
    "owner": (lambda top: os.chown(top / "link", 7, 0, follow_symlinks=False), "link: owner differs"),
    "xattr": (lambda top: os.removexattr(top / "new/file", "user.x"), "new/file: attributes differ"),
    "opaque": (lambda top: os.removexattr(top / "d", "user.overlay.opaque"), "d: attributes differ"),
    "whiteout": (lambda top: (top / "gone").unlink(), "gone: not there"),
    "more": (lambda top: (top / "planted").write_text("x"), "planted: does not belong there"),
    "kind": (lambda top: ((top / "d/other").unlink(), (top / "d/other").mkdir()), "d/other: of another kind"),
    "target": (lambda top: ((top / "link").unlink(), (top / "link").symlink_to("/etc")), "link: target differs"),
    "hard links": (
        lambda top: (
            shutil.copy2(top / "new/twin", top / "new/copy"), (top / "new/copy").rename(top / "new/twin"),
            os.chown(top / "new/twin", 1000, 0),
        ),
        "new/file: hard links differ",
    ),
}  # fmt: skip


async def test_a_damaged_layer_is_unpacked_again(whole: Whole) -> None:
    for damage, told in DAMAGE.values():
        damage(whole.top)
        [finding] = await whole.told()
        assert finding.startswith(f"layer {whole.top.name[:12]}: {told}")
        assert [(finding, "unpacked again")] == await whole.repair()
        assert [] == await whole.told()
    assert whole.image == whole.bench.store.find(whole.reference)


@pytest.mark.parametrize("rootless", [False, True])
async def test_device_nodes_stay_in_a_repaired_layer(
    open_bench: OpenBench, write_layout: WriteLayout, rootless: bool
) -> None:
    """A layer that root has unpacked is repaired where nobody can make nodes; others than the archive's don't stay."""
    nodes = {"dev/null": (1, 3, 0o666, 0), "dev/odd": (1, 5, 0o640, 7), "replaced": (1, 9, 0o600, 0)}
    reference = write_layout(tar(
        member("dev", type=tarfile.DIRTYPE, mode=0o755),
        *(member(name, type=tarfile.CHRTYPE, devmajor=major, devminor=minor, mode=mode, uid=uid)
          for name, (major, minor, mode, uid) in nodes.items()),
        member("replaced", b"by a file"), member("file", b"content"),
    ))  # fmt: skip
    async with open_bench() as bench:
        top = Path((await bench.pull(reference)).layer_paths[0])
    (top / "file").write_bytes(b"damaged")
    (top / "dev/odd").chmod(0o666)
    async with open_bench(rootless=rootless) as bench:
        verdict = await repair_store(bench.store, sandbox=bench.sandbox, used=set, busy=set)
        assert ["unpacked again"] == [one.done for one in verdict.findings]
        assert () == (await check_store(bench.store, sandbox=bench.sandbox)).findings
        assert [] == bench.left()
    null = (top / "dev/null").lstat()
    assert (stat.S_IFCHR | 0o666, os.makedev(1, 3)) == (null.st_mode, null.st_rdev)
    assert (b"content", b"by a file") == ((top / "file").read_bytes(), (top / "replaced").read_bytes())
    assert (top / "dev/odd").exists() is not rootless  # it was changed: only where it can be made anew


async def test_a_quick_look_leaves_out_what_is_in_layers(whole: Whole) -> None:
    (whole.top / "new/file").write_text("changed")
    assert () == (await whole.check(quick=True)).findings
    whole.blob(0).unlink()
    assert 2 == len((await whole.check(quick=True)).findings), "both images have it"


async def test_what_a_running_container_uses_is_left(whole: Whole) -> None:
    (whole.top / "new/file").write_text("changed")
    inode = whole.top.stat().st_ino
    whole.busy = {whole.image.id}
    [(what, done)] = await whole.repair()
    assert what.endswith("left, for a container runs on it")
    assert done is None
    assert inode == whole.top.stat().st_ino
    whole.busy = {whole.other.id}
    [(_, done)] = await whole.repair()
    assert "unpacked again" == done
    shutil.rmtree(whole.image.layer_paths[0])
    whole.blob(0).unlink()
    whole.busy = {whole.image.id, whole.other.id}
    findings = await whole.repair()
    assert 2 == len(findings)
    assert all("left, for its container runs" in what and done is None for what, done in findings), findings
    assert 2 == len(whole.bench.store.list())


async def test_lost_layers_are_unpacked_again(whole: Whole) -> None:
    for path in whole.image.layer_paths:
        shutil.rmtree(path)
    whole.top.write_text("a file in the place of a layer")
    first, second, third = await whole.told()
    assert f"layer {Path(whole.image.layer_paths[0]).name[:12]} is lost" in first + second + third
    assert {"unpacked again"} == {done for _, done in await whole.repair()}
    assert [] == await whole.told()
    assert {whole.image, whole.other} == {
        whole.bench.store.find(one.id) for one in (whole.image, whole.other)
    }


async def test_a_broken_blob_goes_and_a_pull_brings_it_back(whole: Whole) -> None:
    blob = whole.blob(1)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    first, second = await whole.told()
    assert f"blob {blob.name[:12]}: its content does not match its digest" == first
    assert f"the blob of its layer {blob.name[:12]} is broken" in second
    whole.used = {whole.image.id}
    removed, left = await whole.repair()
    assert (first, "removed") == removed
    assert left[1] is None
    assert "left, for containers use it; ctnr pull oci:" in left[0]
    assert whole.image == whole.bench.store.find(whole.reference)
    await whole.bench.pull(whole.reference, mode="always")
    assert [] == await whole.told()


async def test_images_that_cannot_be_mended_are_forgotten_and_a_pull_brings_them_back(whole: Whole) -> None:
    await whole.bench.store.tag(whole.image.id, "mine")
    blob = whole.blob(1)
    blob.unlink()
    shutil.rmtree(whole.top)
    [what] = await whole.told()
    assert f"its layer {whole.top.name[:12]} is lost, and the blob of it lost" in what
    assert f"(localhost/mine:latest, {whole.reference})" in what
    [(again, done)] = await whole.repair()
    assert (what, f"forgotten with its names localhost/mine:latest, {whole.reference}") == (again, done)
    assert None is whole.bench.store.find("mine")
    assert [whole.other.id] == [row.id for row in whole.bench.store.list()], "the good one is not touched"
    assert [] == await whole.told()
    assert whole.image.id == (await whole.bench.pull(whole.reference)).id


@pytest.mark.parametrize("which", ["record", "other record", "torn record", "manifest", "config"])
async def test_broken_documents(whole: Whole, which: str) -> None:
    store, image = whole.bench.store, whole.image
    record = whole.bench.root / f"images/{image.id}.json"
    if which == "record":
        record.write_bytes(b"")
    elif which == "other record":
        shutil.copy(whole.bench.root / f"images/{whole.other.id}.json", record)
    elif which == "torn record":
        record.write_bytes(record.read_bytes()[:-20])
    else:
        digest = image.id if which == "config" else image.manifest_digest.removeprefix("sha256:")
        Path(store.blob(digest)).write_bytes(b"{}")
    assert any(f"image {image.id[:12]} ({whole.reference}): its " in what for what in await whole.told())
    assert all(done for _, done in await whole.repair())
    assert [] == await whole.told()
    assert [whole.other.id] == [row.id for row in store.list()]
    assert image.id == (await whole.bench.pull(whole.reference)).id


async def test_names_of_nothing_go(whole: Whole) -> None:
    whole.bench.store.catalog.write_name("localhost/ghost:1", "0" * 64)
    whole.bench.store.catalog.write_name("localhost/nonsense:1", "../../etc/passwd\n")
    whole.bench.store.catalog.write_name("localhost/empty:1", "")
    assert ["empty", "ghost", "nonsense"] == [
        what.split("/")[1].split(":")[0] for what in await whole.told()
    ]
    assert ["removed"] * 3 == [done for _, done in await whole.repair()]
    assert [] == await whole.told()


async def test_it_goes_beside_pulls_and_repairs_wait_for_them(
    whole: Whole, write_layout: WriteLayout
) -> None:
    slow = write_layout(*(layer([Entry(f"{n}/{m}", os.urandom(500)) for m in range(800)]) for n in range(3)))
    (whole.top / "new/file").write_text("changed")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(whole.bench.pull, slow)
        for _ in range(4):
            findings = await whole.told()
            assert [f"layer {whole.top.name[:12]}: new/file: size differs"] == findings
        nursery.start_soon(whole.repair)
    assert [] == await whole.told()


async def test_deep_and_strange_trees_are_compared(open_bench: OpenBench, write_layout: WriteLayout) -> None:
    deep = "/".join(["d"] * 1500)
    data = tar(member(f"{deep}/end", b"x"), member("new\nline", b"y"), member("b\udcff"))
    async with open_bench() as bench:
        image = await bench.pull(write_layout(data))
        top = Path(image.layer_paths[0])
        assert () == (await check_store(bench.store, sandbox=bench.sandbox)).findings
        (top / "new\nline").write_text("z")
        [finding] = (await check_store(bench.store, sandbox=bench.sandbox)).findings
        assert "\n" not in finding.what
        assert r"'new\nline': " in finding.what
        await (await bench.sandbox()).remove_tree(image.layer_paths[0])


async def test_cancelled_it_leaves_nothing(whole: Whole) -> None:
    (whole.top / "new/file").write_text("changed")
    for seconds in (0, 0.005, 0.02, 0.05, 0.08, 0.12):
        with trio.move_on_after(seconds):
            await whole.repair()
        assert [] == whole.bench.left()
        assert whole.bench.store.find(whole.reference) is not None
    await whole.repair()
    assert [] == await whole.told()
