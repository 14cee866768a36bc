"""Layers unpacked for real, and seen through overlayfs as a container would see them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctnr.images.fsck import check_store
from ctnr.images.view import Image
from supervisor.errors import SupervisorError
from supervisor.sandbox.sandbox import PACKAGES
from tests.images.conftest import OpenBench, change, member, small_disk, tar
from tests.world.images import Entry, folder, layer, opaque, whiteout

WriteLayout = Callable[..., str]
FILE_CAP = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep, VFS_CAP_REVISION_2


@contextmanager
def mounted(image: Image, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    lower = ":".join(reversed([*image.layer_paths]))
    if len(image.layer_paths) == 1:  # overlayfs wants two
        (at.parent / "empty").mkdir(exist_ok=True)
        lower += f":{at.parent / 'empty'}"
    subprocess.run(
        ["mount", "-t", "overlay", "-o", f"userxattr,lowerdir={lower}", "overlay", at], check=True
    )
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def outer(id_map: str, number: int) -> int:
    """What an id of the sandbox is here."""
    for line in Path(id_map).read_text().splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= number < inside + count:
            return outside + number - inside
    raise AssertionError(f"{number} is not mapped")


def names(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


@pytest.mark.parametrize("rootless", [False, True], ids=["plain", "userns"])
async def test_the_layered_image_looks_right(
    open_bench: OpenBench, layered_image: Path, tmp_path: Path, rootless: bool
) -> None:
    async with open_bench(rootless=rootless) as bench:
        image = await bench.pull(f"oci:{layered_image}:latest")
        assert 4 == len(image.layer_paths)
        pid = (await bench.sandbox()).init_pid
        with mounted(image, tmp_path / "mnt") as top:
            assert "kept\n" == (top / "kept").read_text()
            assert not (top / "gone").exists()
            assert ["stays"] == names(top / "folder")
            assert ["new"] == names(top / "opaque")
            assert 0o4755 == stat.S_IMODE((top / "setuid").stat().st_mode)
            assert (top / "hard1").stat().st_ino == (top / "hard2").stat().st_ino
            assert b"yes" == os.getxattr(top / "xattr", "user.ctnr")
            assert ["inside"] == names(top / "replaced")
            owned = (top / "owned").stat()
            assert (outer(f"/proc/{pid}/uid_map", 1000), outer(f"/proc/{pid}/gid_map", 50)) == (
                owned.st_uid,
                owned.st_gid,
            )
            assert "/kept" == os.readlink(top / "link")
        assert [] == bench.left()
        if rootless:  # files of subordinate ids go by the sandbox
            for path in image.layer_paths:
                await (await bench.sandbox()).remove_tree(path)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_compressions(open_bench: OpenBench, write_layout: WriteLayout, compression: str) -> None:
    async with open_bench() as bench:
        image = await bench.pull(write_layout(layer([Entry("a", b"a" * 100_000)]), compression=compression))
        assert 100_000 == (Path(image.layer_paths[0]) / "a").stat().st_size


async def test_gzip_with_several_members_and_padding(
    open_bench: OpenBench, write_layout: WriteLayout
) -> None:
    data = layer([Entry("a", b"a"), Entry("b", os.urandom(300_000))])
    reference = write_layout(data)
    packed = gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + bytes(512)
    _replace_layer(reference, packed)
    async with open_bench() as bench:
        image = await bench.pull(reference)
        assert ["a", "b"] == names(Path(image.layer_paths[0]))


async def test_whiteouts_whatever_their_order(
    open_bench: OpenBench, write_layout: WriteLayout, tmp_path: Path
) -> None:
    lower = layer([
        folder("late"), Entry("late/old"), folder("again"), Entry("again/old"), folder("file"), Entry("file/old"),
        Entry("twice", b"lower"), Entry("gone/by/itself"),
    ])  # fmt: skip
    upper = layer([
        folder("late"), Entry("late/new"), opaque("late"),  # the mark comes after what it does not hide
        whiteout("again"), folder("again"), Entry("again/new"),  # taken away and made anew in one layer
        Entry("file", b"was a folder"), folder("file"), Entry("file/new"),
        Entry("twice", b"first"), whiteout("twice"), Entry("twice", b"second"),
        whiteout("gone/by/itself"), Entry(".wh..wh.plnk/1.2"), Entry(".wh..wh.aufs"),
    ])  # fmt: skip
    async with open_bench() as bench:
        image = await bench.pull(write_layout(lower, upper))
        with mounted(image, tmp_path / "mnt") as top:
            assert ["new"] == names(top / "late")
            assert ["new"] == names(top / "again")
            assert ["new"] == names(top / "file")
            assert "second" == (top / "twice").read_text()
            assert [] == names(top / "gone/by")
            assert not [name for name in names(top) if ".wh." in name]


async def test_an_opaque_root_hides_all_layers_below(
    open_bench: OpenBench, write_layout: WriteLayout
) -> None:
    async with open_bench() as bench:
        image = await bench.pull(
            write_layout(
                layer([Entry("old")]), layer([Entry(".wh..wh..opq"), Entry("new")]), layer([Entry("top")])
            )
        )
        assert [["new"], ["top"]] == [names(Path(path)) for path in image.layer_paths]


async def test_links_and_folders_of_lower_layers(
    open_bench: OpenBench, write_layout: WriteLayout, tmp_path: Path
) -> None:
    lowest = layer([
        folder("tmp", 0o1777), folder("deep", 0o700, uid=5, gid=6), folder("deep/er", 0o750),
        Entry("tool", b"tool", mode=0o4755, uid=1, xattrs={"user.x": b"1"}), Entry("hidden", b"no"),
    ])  # fmt: skip
    middle = layer([whiteout("hidden"), Entry("other", b"other")])
    top_layer = layer([
        Entry("tmp/x"), Entry("deep/er/file"), Entry("new/file"),
        Entry("tool2", hardlink="tool"), Entry("tool3", hardlink="/tool"), Entry("tool4", hardlink="tool2"),
    ])  # fmt: skip
    async with open_bench() as bench:
        image = await bench.pull(write_layout(lowest, middle, top_layer))
        assert "-" in Path(image.layer_paths[2]).name, "its content depends on what lies below"
        with mounted(image, tmp_path / "mnt") as top:
            assert 0o1777 == stat.S_IMODE((top / "tmp").stat().st_mode)
            deep = (top / "deep").stat()
            assert (0o700, 5, 6) == (stat.S_IMODE(deep.st_mode), deep.st_uid, deep.st_gid)
            assert 0o750 == stat.S_IMODE((top / "deep/er").stat().st_mode)
            tool = (top / "tool2").stat()
            assert (0o4755, 1, b"tool") == (
                stat.S_IMODE(tool.st_mode),
                tool.st_uid,
                (top / "tool2").read_bytes(),
            )
            assert b"1" == os.getxattr(top / "tool2", "user.x")
            assert tool.st_ino == (top / "tool3").stat().st_ino == (top / "tool4").stat().st_ino
        over_another = await bench.pull(write_layout(layer([Entry("tool", b"another")]), top_layer))
        assert over_another.layer_paths[1] != image.layer_paths[2]
        assert b"another" == (Path(over_another.layer_paths[1]) / "tool2").read_bytes()
        with pytest.raises(Exception, match="evil: a hard link to hidden, which is not there"):
            await bench.pull(write_layout(lowest, middle, layer([Entry("evil", hardlink="hidden")])))
        assert [] == bench.left()


async def test_attributes_survive(open_bench: OpenBench, write_layout: WriteLayout) -> None:
    data = tar(
        member("d", type=tarfile.DIRTYPE, mode=0o2770, uid=7, gid=8, mtime=1000),
        member("d/forward", type=tarfile.LNKTYPE, linkname="d/cap"),
        member(
            "d/cap", b"x", mode=0o4711, uid=9, gid=10, mtime=2000.5,
            pax_headers={
                "SCHILY.xattr.security.capability": FILE_CAP.decode("utf-8", "surrogateescape"),
                "SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.trusted.x": "1",
                "SCHILY.xattr.security.selinux": "label",
            },
        ),
        member("d/link", type=tarfile.SYMTYPE, linkname="../nowhere", uid=3, mtime=3000),
        member("d/pipe", type=tarfile.FIFOTYPE, mode=0o600),
        member("d/" + "n" * 250, b"long name"),
        member("d/ünï".encode().decode("utf-8"), b""),
    )  # fmt: skip
    async with open_bench() as bench:
        top = Path((await bench.pull(write_layout(data))).layer_paths[0]) / "d"
        info = top.stat()
        assert (0o2770, 7, 8, 1000) == (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime)
        cap = (top / "cap").stat()
        assert (0o4711, 9, 10, 2000.5) == (stat.S_IMODE(cap.st_mode), cap.st_uid, cap.st_gid, cap.st_mtime)
        assert ["security.capability"] == os.listxattr(top / "cap")
        assert FILE_CAP == os.getxattr(top / "cap", "security.capability")
        assert 2 == cap.st_nlink
        assert (3, 3000) == ((top / "link").lstat().st_uid, (top / "link").lstat().st_mtime)
        assert stat.S_ISFIFO((top / "pipe").stat().st_mode)
        assert (top / "ünï").exists()
        assert (top / ("n" * 250)).exists()


async def test_devices_only_where_they_can_be_made(open_bench: OpenBench, write_layout: WriteLayout) -> None:
    data = tar(
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("white", type=tarfile.CHRTYPE),
        member("a"),
    )
    reference = write_layout(data)
    async with open_bench() as bench:
        assert ["a", "null"] == names(Path((await bench.pull(reference)).layer_paths[0]))
    shutil.rmtree(bench.root)
    async with open_bench(rootless=True) as bench:
        assert ["a"] == names(Path((await bench.pull(reference)).layer_paths[0]))


async def test_duplicates_and_things_in_the_way(open_bench: OpenBench, write_layout: WriteLayout) -> None:
    data = tar(
        member("x", b"first"), member("x", b"second"),
        member("y", type=tarfile.SYMTYPE, linkname="x"), member("y", b"not through the link"),
        member("z/sub/file"), member("z", b"a file now"),
        member("w"), member("w/inside"),
    )  # fmt: skip
    async with open_bench() as bench:
        with pytest.raises(Exception, match="w is not a directory"):
            await bench.pull(write_layout(data))
        data = tar(
            member("x", b"first"), member("x", b"second"),
            member("y", type=tarfile.SYMTYPE, linkname="x"), member("y", b"not through the link"),
            member("z/sub/file"), member("z", b"a file now"),
        )  # fmt: skip
        top = Path((await bench.pull(write_layout(data))).layer_paths[0])
        assert (b"second", b"not through the link") == ((top / "x").read_bytes(), (top / "y").read_bytes())
        assert b"a file now" == (top / "z").read_bytes()


def edited(archive: bytes, at: int, field: bytes) -> bytes:
    """The first header with another field, and the right checksum."""
    header = bytearray(archive[:512])
    header[at : at + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + archive[512:]


def record(key: str) -> bytes:
    """One of an extended header, close to as long as it may be."""
    return f"{1_000_000} {key}=".encode().ljust(999_999, b"x") + b"\n"


HOSTILE = {
    "dots": (tar(member("a/../../../escaped", b"x")), "leads out of the layer"),
    "dots-link": (tar(member("l", type=tarfile.LNKTYPE, linkname="../../../etc/passwd")), "leads out of the layer"),
    "no-target": (tar(member("l", type=tarfile.LNKTYPE, linkname="etc/passwd")), "which is not there"),
    "dir-link": (
        tar(member("d", type=tarfile.DIRTYPE), member("l", type=tarfile.LNKTYPE, linkname="d")),
        "hard link to the directory",
    ),
    "empty-whiteout": (tar(member("d/.wh.")), "a whiteout of nothing"),
    "dot-whiteout": (tar(member("d/.wh...")), "a whiteout of nothing"),
    "not-tar": (b"this is no tar archive" * 100, "checksum does not match"),
    "cut-off": (layer([Entry("a", b"x" * 5000)])[:3000], "cut off inside a file"),
    "long-part": (tar(member("n" * 256)), "File name too long"),
    "long-path": (tar(member("/".join(["n" * 200] * 25))), "longer than 4095"),
    "sparse": (tar(member("s", b"", pax_headers={"GNU.sparse.major": "1"})), "sparse files are not supported"),
    "big-header": (
        tar(member("s", b"", pax_headers={"SCHILY.xattr.user.big": "x" * (2 << 20)})), "an extended header claims",
    ),
    "ids": (tar(member("f", b"", uid=(1 << 32) - 1, gid=1)), "4294967295:1, which is outside of the range"),
    "whiteout-of-dot": (tar(member("d/.wh..")), "a whiteout of nothing"),
    "huge-size": (edited(tar(member("f", b"x")), 124, b"\x80" + b"\xff" * 11), "larger than a layer may be"),
    "negative-size": (edited(tar(member("f", b"x")), 124, b"\xff" * 12), "negative"),
    "device-number": (
        edited(tar(member("f", type=tarfile.CHRTYPE)), 329, b"\x80" + b"\xff" * 7),
        "a device number that no kernel has",
    ),
    "deep-and-in-the-way": (
        tar(*(member("/".join(["d"] * n), type=tarfile.DIRTYPE) for n in range(1, 2000)), member("d", b"x")),
        "too deep",
    ),
    "empty-xattr": (tar(member("f", pax_headers={"SCHILY.xattr.user.": "x"})), "f: "),
    "unknown-kind": (tar(member("f", type=b"Q")), "unknown type"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_layers_are_refused_in_one_line(
    open_bench: OpenBench, write_layout: WriteLayout, name: str, tmp_path: Path
) -> None:
    data, expected = HOSTILE[name]
    async with open_bench() as bench:
        with pytest.raises(Exception, match=expected) as caught:
            await bench.pull(write_layout(data))
        assert "\n" not in str(caught.value)
        assert getattr(caught.value, "cure", None)
        assert [] == bench.left()
        assert [] == bench.store.list()
        assert [] == list(bench.root.glob("layers/*"))


async def test_nothing_outside_is_touched(
    open_bench: OpenBench, write_layout: WriteLayout, tmp_path: Path
) -> None:
    """Absolute names, links out and links to links: all of it stays in the layer's directory."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("untouched")
    data = tar(
        member(f"{victim}/absolute", b"inside"),
        member("out", type=tarfile.SYMTYPE, linkname=str(victim)),
        member("up", type=tarfile.SYMTYPE, linkname="../../../../../../../.."),
        member("out/planted", b"x"),
        member(f"up{victim}/file", b"changed"),
        member("hard", type=tarfile.LNKTYPE, linkname="out/planted"),
        member("here", type=tarfile.SYMTYPE, linkname="/"),
        member("here/through", b"x"),
    )
    async with open_bench() as bench:
        image = await bench.pull(write_layout(data))
        assert ["file"] == names(victim)
        assert "untouched" == (victim / "file").read_text()
        assert "inside" == (Path(image.layer_paths[0]) / str(victim)[1:] / "absolute").read_text()
        assert "x" == (Path(image.layer_paths[0]) / "through").read_text()


async def test_lies_about_diff_ids_and_content(open_bench: OpenBench, write_layout: WriteLayout) -> None:
    lie = "sha256:" + "0" * 64
    async with open_bench() as bench:
        reference = write_layout(layer([Entry("a")]))
        change(reference, lambda manifest, config: config["rootfs"].update(diff_ids=[lie]))
        with pytest.raises(Exception, match="and the image says 000000000000"):
            await bench.pull(reference)
        reference = write_layout(layer([Entry("b", os.urandom(5000))]))
        packed = Path(reference.split(":")[1]) / "blobs/sha256"
        biggest = max(packed.iterdir(), key=lambda path: path.stat().st_size)
        biggest.write_bytes(biggest.read_bytes()[:-100])
        with pytest.raises(Exception, match=r"does not match its digest|digest"):
            await bench.pull(reference)
        reference = write_layout(layer([Entry("c", os.urandom(5000))]))
        _replace_layer(reference, gzip.compress(layer([Entry("c", os.urandom(5000))]))[:-700])
        with pytest.raises(Exception, match="can't be decompressed: it ends too early"):
            await bench.pull(reference)
        reference = write_layout(layer([Entry("d")]))
        _replace_layer(reference, b"BZh91AY&SY" + bytes(100))
        with pytest.raises(Exception, match="bzip2 and xz are not for layers"):
            await bench.pull(reference)
        assert [] == bench.left()
        assert [] == list(bench.root.glob("layers/*"))


async def test_many_entries(open_bench: OpenBench, write_layout: WriteLayout) -> None:
    data = tar(*(member(f"d{n % 100}/{n}") for n in range(100_000)))
    async with open_bench() as bench:
        image = await bench.pull(write_layout(data))
        assert 100_000 == sum(len(files) for _, _, files in os.walk(image.layer_paths[0]))
        await (await bench.sandbox()).remove_tree(image.layer_paths[0])


async def test_times_that_no_file_system_has(open_bench: OpenBench, write_layout: WriteLayout) -> None:
    for field in (b"\x80" + b"\x7f" * 11, b"\xff" + b"\x80" * 11):
        async with open_bench() as bench:
            image = await bench.pull(write_layout(edited(tar(member("f", b"x")), 136, field)))
            assert (Path(image.layer_paths[0]) / "f").exists()


@pytest.mark.parametrize(
    ("limit", "members", "told"),
    [
        ("MAX_ENTRIES = 5", [member(f"{n}") for n in range(6)], "larger than a layer may be"),
        ("MAX_BYTES = 1000", [member("a", b"x" * 600), member("b", b"x" * 600)], "larger than a layer may be"),
        ("MAX_MEMORY_BYTES = 128 << 20", [
            member("g", record(f"k{n:03}"), type=tarfile.XGLTYPE) for n in range(300)
        ], "more memory than a layer may"),
        ("MAX_PENDING = 3", [
            member(f"{n}", type=tarfile.LNKTYPE, linkname="x") for n in range(5)
        ], "more than 3 hard links"),
    ],
)  # fmt: skip
def test_limits(tmp_path: Path, limit: str, members: list[Any], told: str) -> None:
    """Those of a layer are too far away to be met in a test: the same program, with nearer ones."""
    top = tmp_path / "layer"
    top.mkdir()
    program = f"import ctnr.images.unpack as u\nu.{limit}\nu.main()"
    job = {"directory": str(top), "pending": str(tmp_path / "pending"), "lower": [], "lowest": False,
           "finish": False, "rootless": False}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(job)], input=tar(*members), capture_output=True, check=True,
        cwd=PACKAGES,
    )  # fmt: skip
    assert told in json.loads(done.stdout)["error"]


async def test_a_bomb_meets_the_end_of_the_disk(
    open_bench: OpenBench, write_layout: WriteLayout, tmp_path: Path
) -> None:
    files = layer([Entry(f"{n}", bytes(50 << 20)) for n in range(2)])
    with small_disk(tmp_path / "small", "8m") as disk:
        async with open_bench(root=disk / "store") as bench:
            reference = write_layout(files)
            assert (
                sum(one.stat().st_size for one in Path(reference.split(":")[1]).rglob("*") if one.is_file())
                < 1 << 20
            )
            with pytest.raises(SupervisorError, match="no space left") as caught:
                await bench.pull(reference)
            assert "\n" not in str(caught.value)
            assert [] == bench.left() == bench.store.list()
            assert [] == list((disk / "store/layers").iterdir())


WRONG = {
    "layers is no list": lambda manifest, config: manifest.update(layers="x"),
    "a layer is no object": lambda manifest, config: manifest.update(layers=[1]),
    "no digest": lambda manifest, config: manifest["layers"][0].pop("digest"),
    "a digest that leads out": lambda manifest, config: manifest["layers"][0].update(
        digest="sha256:../../../x"
    ),
    "another algorithm": lambda manifest, config: manifest["layers"][0].update(digest="md5:" + "0" * 32),
    "a negative size": lambda manifest, config: manifest["layers"][0].update(size=-1),
    "a wrong size": lambda manifest, config: manifest["layers"][0].update(size=5),
    "a size that is text": lambda manifest, config: manifest["layers"][0].update(size="5"),
    "no rootfs": lambda manifest, config: config.pop("rootfs"),
    "rootfs is text": lambda manifest, config: config.update(rootfs="x"),
    "diff ids of numbers": lambda manifest, config: config["rootfs"].update(diff_ids=[1]),
    "diff ids that lead out": lambda manifest, config: config["rootfs"].update(diff_ids=["sha256:../../x"]),
    "too few diff ids": lambda manifest, config: config["rootfs"].update(diff_ids=[]),
    "too many diff ids": lambda manifest, config: config["rootfs"]["diff_ids"].append("sha256:" + "0" * 64),
    "created is a number": lambda manifest, config: config.update(created=5),
    "architecture is a list": lambda manifest, config: config.update(architecture=[]),
}


@pytest.mark.parametrize("what", WRONG)
async def test_documents_that_are_wrong_are_refused_in_one_line(
    open_bench: OpenBench, write_layout: WriteLayout, what: str
) -> None:
    reference = write_layout(layer([Entry("a")]))
    change(reference, WRONG[what])
    async with open_bench() as bench:
        with pytest.raises(SupervisorError) as caught:
            await bench.pull(reference)
        assert "\n" not in str(caught.value)
        assert "internal" not in str(caught.value)
        assert [] == bench.left() == bench.store.list()
        assert () == (await check_store(bench.store, sandbox=bench.sandbox)).findings


def _replace_layer(reference: str, packed: bytes) -> None:
    """Other bytes for the one layer, with the right digest; the diff id stays what it was."""
    from tests.images.conftest import _file

    blobs = Path(reference.split(":")[1]) / "blobs/sha256"
    change(reference, lambda manifest, config: manifest["layers"][0].update(_file(blobs, packed)))
