"""Pulls from a real registry and from files, names, garbage, exports, and what is left when it goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ctnr.images import catalog, skopeo
from ctnr.images.export import export_image
from ctnr.images.garbage import collect_garbage
from ctnr.images.guard import holding
from supervisor.errors import NotFound, SupervisorError
from supervisor.sandbox.sandbox import PACKAGES
from tests.images.conftest import OpenBench, change, member, small_disk, tar, write_docker
from tests.world import images
from tests.world.images import Entry, layer
from tests.world.registry import Registry

WriteLayout = Callable[..., str]


def push(registry: Registry, layout: str, name: str) -> str:
    """Give a layout's reference to the registry; what a person would then write."""
    registry.push(Path(layout.split(":")[1]), name)
    return name.removeprefix("library/")


def blobs_fetched(registry: Registry) -> list[str]:
    return [path for path in registry.requests() if "/blobs/sha256:" in path]


async def test_pull_by_name_and_find_it_again(
    open_bench: OpenBench, registry: Registry, layered_image: Path
) -> None:
    registry.push(layered_image, "library/layered:1")
    async with open_bench() as bench:
        image = await bench.pull("layered:1")
        assert ("docker.io/library/layered:1",) == image.names
        assert {"downloading", "unpacking", "done"} <= {one.what for one in bench.told}
        for text in ("layered:1", "docker://layered:1", "docker.io/library/layered:1", image.id, image.id[:8],
                     image.manifest_digest, f"layered@{image.manifest_digest}"):  # fmt: skip
            assert image == bench.store.find(text), text
        for text in ("layered", "layered:2", "ab", "nothing"):
            assert bench.store.find(text) is None
        fetched = len(registry.requests())
        assert image == await bench.pull("layered:1")
        assert fetched == len(registry.requests()), "what is there is not asked for again"
        [row] = bench.store.list()
        assert (image.id, 4, image.manifest_digest) == (row.id, row.layers, row.digest)
        assert "web" == json.loads(image.config_bytes)["config"]["User"]
        assert [] == bench.left()


async def test_dockers_own_fields_id_and_digest_are_kept(
    open_bench: OpenBench, registry: Registry, tmp_path: Path
) -> None:
    own = {
        "Cmd": ["sh"],
        "Healthcheck": {"Test": ["CMD", "true"]},
        "Shell": ["/bin/ash", "-c"],
        "OnBuild": ["RUN x"],
    }
    folder = write_docker(tmp_path / "docker", [layer([Entry("a")]), layer([Entry("b")])], {"config": own})
    target = f"docker://{registry.address}/library/dockerish:1"
    subprocess.run(  # noqa: ASYNC221
        ["skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", f"dir:{folder}", target],
        check=True,
    )
    manifest = (folder / "manifest.json").read_bytes()
    async with open_bench() as bench:
        image = await bench.pull("dockerish:1")
        assert own == json.loads(image.config_bytes)["config"]
        assert json.loads(manifest)["config"]["digest"] == f"sha256:{image.id}"
        assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == image.manifest_digest
        await export_image(bench.store, "dockerish:1", f"dir:{tmp_path / 'out'}")
        assert manifest == (tmp_path / "out/manifest.json").read_bytes()
        # a policy that wants signatures has not seen these documents: then only what the copy says counts
        policy = tmp_path / "policy.json"
        signed = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/no/key"}]
        policy.write_text(
            json.dumps({
                "default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {"other.example": signed}},
            })
        )  # fmt: skip
        image = await bench.pull("dockerish:1", mode="always", policy=str(policy))
        assert {"Cmd": ["sh"]} == json.loads(image.config_bytes)["config"]


async def test_concurrent_pulls_do_the_work_once(
    open_bench: OpenBench, registry: Registry, write_layout: WriteLayout
) -> None:
    shared, one, two = (layer([Entry(name, os.urandom(200_000))]) for name in ("shared", "one", "two"))
    names = [
        push(registry, write_layout(shared, own), f"library/both{n}:1") for n, own in enumerate((one, two))
    ]
    before = len(blobs_fetched(registry))
    async with open_bench() as bench:
        found = []

        async def pull(name: str) -> None:
            found.append(await bench.pull(name, mode="always"))

        async with trio.open_nursery() as nursery:
            for name in names * 3:
                nursery.start_soon(pull, name)
        assert 6 == len(found)
        assert 2 == len({image.id for image in found})
        assert 3 == len(list(bench.root.glob("layers/[0-9a-f]*")))
        unpacked = [one.id for one in bench.told if one.what == "done" and ":" not in one.id]
        assert 3 == len(unpacked), "each layer once"
        fetched = blobs_fetched(registry)[before:]
        assert len(fetched) <= 8, "each blob once for each of the two images, and the configurations"


async def test_two_processes_share_a_store(
    open_bench: OpenBench, registry: Registry, write_layout: WriteLayout, tmp_path: Path
) -> None:
    name = push(registry, write_layout(layer([Entry("x", os.urandom(3_000_000))])), "library/shared:1")
    program = textwrap.dedent(f"""
        import os, sys, trio
        sys.path.insert(0, {PACKAGES!r})
        from ctnr.images.store import ImageStore
        from supervisor.sandbox.sandbox import open_sandbox
        async def main():
            os.makedirs(run := {str(tmp_path)!r} + "/run-" + str(os.getpid()))
            told = []
            async with open_sandbox(run, rootless=False) as sandbox:
                async def give(): return sandbox
                store = ImageStore(sys.argv[1])
                image = await store.pull({name!r}, sandbox=give, policy="insecure", mode="missing", report=told.append)
                print(image.id, sum(one.what == "unpacking" for one in told) > 0)
        trio.run(main)
    """)
    argv = [sys.executable, "-c", program, str(tmp_path / "store")]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]  # noqa: ASYNC220
    said = [one.communicate(timeout=30)[0].split() for one in running]
    assert [0, 0, 0] == [one.returncode for one in running]
    assert 1 == len({image for image, _ in said})
    assert 1 == [unpacked for _, unpacked in said].count("True"), said
    async with open_bench() as bench:
        assert bench.store.find(name) is not None
        assert [] == bench.left()


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive", "dir"])
async def test_export_and_back(
    open_bench: OpenBench, layered_image: Path, tmp_path: Path, kind: str
) -> None:
    target = f"{kind}:{tmp_path / 'out'}" + (":v1" if kind == "oci" else "")
    async with open_bench() as bench:
        image = await bench.pull(f"oci:{layered_image}:latest")
        await bench.store.tag(image.id, "layered:x")
        await export_image(bench.store, "layered:x", target)
    shutil.rmtree(tmp_path / "store")
    async with open_bench() as bench:
        back = await bench.pull(target)
        assert [Path(one).name for one in image.layer_paths] == [Path(one).name for one in back.layer_paths]
        assert json.loads(image.config_bytes)["config"] == json.loads(back.config_bytes)["config"]
        with pytest.raises(SupervisorError, match="no transport"):
            await export_image(bench.store, target, "somewhere")
        assert [] == bench.left()


async def test_an_archive_appears_whole_or_not_at_all(
    open_bench: OpenBench, write_layout: WriteLayout, tmp_path: Path
) -> None:
    reference = write_layout(layer([Entry("a", os.urandom(3_000_000))]))
    out = tmp_path / "out"
    out.mkdir()
    (out / "there.tar").write_text("to be replaced")
    async with open_bench() as bench:
        image = await bench.pull(reference)
        for kind in ("oci-archive", "docker-archive"):
            for seconds in (0, 0.02, 0.05, 0.1):
                with trio.move_on_after(seconds) as scope:
                    await export_image(bench.store, reference, f"{kind}:{out}/new.tar")
                assert ([] if scope.cancelled_caught else ["new.tar"]) + ["there.tar"] == sorted(
                    os.listdir(out)
                )
            await export_image(bench.store, reference, f"{kind}:{out}/there.tar")
            assert ["there.tar"] == [name for name in os.listdir(out) if name != "new.tar"]
            back = await bench.pull(f"{kind}:{out}/there.tar", mode="always")
            assert image.layer_paths == back.layer_paths
            (out / "new.tar").unlink(missing_ok=True)
        with pytest.raises(SupervisorError, match="/nowhere: No such file or directory") as caught:
            await export_image(bench.store, reference, "oci-archive:/nowhere/x.tar")
        assert caught.value.cure
        assert [] == bench.left()


async def test_platforms_of_an_index(open_bench: OpenBench, registry: Registry, tmp_path: Path) -> None:
    for name in (images.ARCHITECTURE, "s390x"):
        images.write_image(tmp_path / "multi", [layer([Entry(name)])], architecture=name)
    registry.push(tmp_path / "multi", "library/multi:1")
    async with open_bench() as bench:
        own = await bench.pull("multi:1")
        assert (Path(own.layer_paths[0]) / images.ARCHITECTURE).exists()
        [row] = bench.store.list()
        assert row.digest != own.manifest_digest, "the index's digest is the one that people know"
        assert own == bench.store.find(f"multi@{row.digest}")
        assert own == await bench.pull("multi:1", platform=f"linux/{images.ARCHITECTURE}")
        with pytest.raises(NotFound, match="for linux/s390x"):
            await bench.pull("multi:1", platform="linux/s390x", mode="never")
        other = await bench.pull("multi:1", platform="linux/s390x")
        assert (Path(other.layer_paths[0]) / "s390x").exists()
        with pytest.raises(SupervisorError, match="not there for this platform"):
            await bench.pull("multi:1", platform="linux/riscv64")
        with pytest.raises(SupervisorError, match="not OS/ARCHITECTURE"):
            await bench.pull("multi:1", platform="amd64")


async def test_newer_asks_and_fetches_only_what_has_changed(
    open_bench: OpenBench, registry: Registry, write_layout: WriteLayout
) -> None:
    name = push(registry, write_layout(layer([Entry("one")])), "library/moving:1")
    async with open_bench() as bench:
        first = await bench.pull(name)
        fetched = len(blobs_fetched(registry))
        assert first == await bench.pull(name, mode="newer")
        assert fetched == len(blobs_fetched(registry))
        push(registry, write_layout(layer([Entry("two")])), "library/moving:1")
        assert first == await bench.pull(name, mode="missing")
        second = await bench.pull(name, mode="newer")
        assert first.id != second.id
        assert () == bench.store.get(first.id).names
        local = (await bench.pull(write_layout(layer([Entry("three")])))).id
        await bench.store.tag(local, "127.0.0.1:9/gone:1")
        assert local == (await bench.pull("127.0.0.1:9/gone:1", mode="newer")).id, (
            "an unreachable registry has nothing newer"
        )


async def test_names_removal_and_garbage(open_bench: OpenBench, write_layout: WriteLayout) -> None:
    shared = layer([Entry("shared")])
    async with open_bench() as bench:
        store = bench.store
        one = await bench.pull(write_layout(shared, layer([Entry("one")])))
        two = await bench.pull(write_layout(shared, layer([Entry("two")])))
        await store.tag(one.id, "mine")
        assert one.id == store.get("mine").id == store.get("localhost/mine:latest").id
        await store.untag("mine")
        with pytest.raises(NotFound, match="no image has the name"):
            await store.untag("mine")
        await store.tag(one.id, "mine:2")
        with pytest.raises(SupervisorError, match="has 2 names"):
            await store.remove(one.id)
        assert ["untagged: localhost/mine:2"] == await store.remove("mine:2")
        with pytest.raises(SupervisorError, match="is used by a container"):
            await store.remove(one.id, used=lambda: [one.id])
        await store.remove(one.id)
        dropped = await collect_garbage(store, sandbox=bench.sandbox, used=tuple)
        assert (1, 3) == (dropped.layers, dropped.blobs)
        assert dropped.bytes >= 4 * 4096, "blobs, and what was unpacked of them"
        assert two == store.find(two.id)
        await store.untag(two.names[0])
        assert [] == (await collect_garbage(store, sandbox=bench.sandbox, used=lambda: [two.id])).images
        assert [] == (await collect_garbage(store, sandbox=bench.sandbox, used=tuple, among=[one.id])).images
        assert [two.id] == (await collect_garbage(store, sandbox=bench.sandbox, used=tuple)).images
        assert [] == list(bench.root.glob("layers/*")) == list(bench.root.glob("blobs/sha256/*"))


async def test_an_image_is_not_removed_while_a_container_is_made_of_it(
    open_bench: OpenBench, write_layout: WriteLayout
) -> None:
    """Between the look at the image and the record that tells of it nobody but the lock knows."""
    used: list[str] = []
    async with open_bench() as bench, trio.open_nursery() as nursery:
        store = bench.store
        image = await bench.pull(write_layout(layer([Entry("one")])))
        refused = trio.Event()

        async def remove() -> None:
            with pytest.raises(SupervisorError, match="is used by a container"):
                await store.remove(image.id, used=lambda: used)
            refused.set()

        async with holding(store):
            nursery.start_soon(remove)
            await trio.sleep(0.05)
            assert image == store.load(image.id)
            used.append(image.id)
        with trio.fail_after(10):
            await refused.wait()
        assert image == store.load(image.id)


async def test_import_is_deterministic(open_bench: OpenBench, busybox_rootfs: Path, tmp_path: Path) -> None:
    async with open_bench() as bench:
        store = bench.store
        first = await store.import_rootfs(
            str(busybox_rootfs), "demo", sandbox=bench.sandbox, config={"Cmd": ["sh"]}
        )
        assert ("localhost/demo:latest",) == first.names
        again = await store.import_rootfs(str(busybox_rootfs), "demo", sandbox=bench.sandbox)
        assert first.layer_paths == again.layer_paths
        assert (Path(first.layer_paths[0]) / "bin/sh").is_symlink()
        packed = tmp_path / "rootfs.tar.gz"
        subprocess.run(["tar", "-C", busybox_rootfs, "-czf", packed, "."], check=True)  # noqa: ASYNC221
        with packed.open("rb") as file:
            other = await store.import_rootfs(file.fileno(), "reg.example/demo:tar", sandbox=bench.sandbox)
        assert ("reg.example/demo:tar",) == other.names
        assert (Path(other.layer_paths[0]) / "bin/busybox").exists()
        for source, told in ((str(tmp_path / "nothing"), "no such file"), ("/dev/null", "is empty")):
            with pytest.raises(SupervisorError, match=told):
                await store.import_rootfs(source, "demo", sandbox=bench.sandbox)
        (tmp_path / "text").write_text("no archive " * 100)
        with pytest.raises(SupervisorError, match="not a tar archive"):
            await store.import_rootfs(str(tmp_path / "text"), "demo", sandbox=bench.sandbox)
        reader, writer = os.pipe()
        with trio.move_on_after(0.2):  # a pipe from which nothing comes can be given up
            await store.import_rootfs(reader, "demo", sandbox=bench.sandbox)
        os.close(reader)
        os.close(writer)
        assert [] == bench.left()


WRONG_TYPES: list[Callable[[dict[str, Any], dict[str, Any]], None]] = [
    lambda manifest, config: config.update(rootfs=[]),
    lambda manifest, config: config["rootfs"].update(diff_ids="x"),
    lambda manifest, config: config["rootfs"].update(diff_ids=["sha256:../../etc/passwd"]),
    lambda manifest, config: config["rootfs"].update(diff_ids=[]),
    lambda manifest, config: manifest.update(layers={}),
    lambda manifest, config: manifest["layers"][0].update(size="many"),
    lambda manifest, config: manifest["layers"][0].update(digest="sha256:short"),
    lambda manifest, config: manifest["layers"][0].update(size=1),
]


@pytest.mark.parametrize("edit", WRONG_TYPES)
async def test_wrong_types_are_one_clear_line(
    open_bench: OpenBench, write_layout: WriteLayout, edit: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    reference = write_layout(layer([Entry("a")]))
    change(reference, edit)
    async with open_bench() as bench:
        with pytest.raises(SupervisorError) as caught:
            await bench.pull(reference)
        assert "\n" not in caught.value.message
        assert [] == bench.left()
        assert [] == bench.store.list()


async def test_what_a_person_is_told(
    open_bench: OpenBench,
    registry: Registry,
    login_registry: Registry,
    write_layout: WriteLayout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(registry, write_layout(layer([Entry("a")])), "library/there:1")
    (reject := tmp_path / "reject.json").write_text('{"default": [{"type": "reject"}]}')
    (broken := tmp_path / "broken.json").write_text('{"default": 1}')
    home = {**os.environ, "HOME": str(tmp_path)}
    (tmp_path / ".config/containers").mkdir(parents=True)
    (tmp_path / ".config/containers/registries.conf").write_text(
        f'[[registry]]\nlocation = "{login_registry.address}"\ninsecure = true\n'
    )
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("there:none", {}, "there is no such image in the registry"),
        (f"there@sha256:{'0' * 64}", {}, "there is no such image in the registry"),
        ("127.0.0.1:9/there", {}, "can't be reached"),
        (f"{login_registry.address}/x:1", {"environ": home}, "wants a login"),
        ("there:1", {"policy": str(reject)}, "the image policy rejects it"),
        ("there:1", {"policy": str(broken)}, "image policy"),
        ("there:1", {"policy": "/no/such/policy"}, "No such file"),
        ("there:1", {"mode": "sometimes"}, "pull policy sometimes: unknown"),
        ("there:1", {"mode": "never"}, "is not in the store"),
        ("There:1", {}, "names are lower case"),
        ("oci:/no/such/dir:1", {}, "there is nothing at that path"),
        ("docker-archive:/no/such/file", {}, "there is nothing at that path"),
    ]
    async with open_bench() as bench:
        for text, options, told in cases:
            with pytest.raises(SupervisorError, match=told) as caught:
                await bench.pull(text, **options)
            assert caught.value.cure, text
            assert "\n" not in caught.value.message
        monkeypatch.setattr(skopeo, "HOST_POLICY", "/no/such/policy")
        with pytest.raises(SupervisorError, match="no image policy") as caught:
            await bench.pull("there:1", policy=None)
        assert "--image-policy=insecure" in str(caught.value.cure)
        monkeypatch.setattr(skopeo, "find_program", _no_program)
        with pytest.raises(SupervisorError, match="skopeo is not installed") as caught:
            await bench.pull("there:1")
        assert "apt-get install skopeo" in str(caught.value.cure)
        assert [] == bench.left()


async def test_wrong_bytes_from_the_registry(
    open_bench: OpenBench, registry: Registry, write_layout: WriteLayout, machine: Any
) -> None:
    name = push(registry, write_layout(layer([Entry("a", os.urandom(50_000))])), "library/changed:1")
    data = max(
        (machine.root / "registry/data").rglob("blobs/sha256/*/*/data"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    biggest = [
        path
        for path in (machine.root / "registry/data").rglob("data")
        if 50_000 < path.stat().st_size < 52_000
    ]
    assert data.exists()
    for path in biggest:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    async with open_bench() as bench:
        with pytest.raises(SupervisorError, match=r"does not match its digest|digest"):
            await bench.pull(name)
        assert [] == bench.left()
        assert [] == bench.store.list()


async def test_cancelled_pulls_leave_nothing_and_the_next_one_works(
    open_bench: OpenBench, registry: Registry, layered_image: Path
) -> None:
    registry.push(layered_image, "library/layered:c")
    async with open_bench() as bench:
        for seconds in (0, 0.01, 0.03, 0.06, 0.1, 0.15):
            with trio.move_on_after(seconds) as scope:
                await bench.pull("layered:c")
            assert [] == bench.left()
            if not scope.cancelled_caught:
                break
        assert 4 == len((await bench.pull("layered:c")).layer_paths)


async def test_killed_pulls_are_swept_by_the_next(
    open_bench: OpenBench, registry: Registry, write_layout: WriteLayout, tmp_path: Path
) -> None:
    name = push(
        registry, write_layout(*(layer([Entry(f"{n}/{m}", os.urandom(4000)) for m in range(400)]) for n in range(3))),
        "library/killed:1",
    )  # fmt: skip
    program = textwrap.dedent(f"""
        import os, sys, trio
        sys.path.insert(0, {PACKAGES!r})
        from ctnr.images.store import ImageStore
        from supervisor.sandbox.sandbox import open_sandbox
        async def main():
            async with open_sandbox({str(tmp_path / "run")!r}, rootless=False) as sandbox:
                async def give(): return sandbox
                print("go", flush=True)
                await ImageStore({str(tmp_path / "store")!r}).pull({name!r}, sandbox=give, policy="insecure")
        trio.run(main)
    """)
    async with open_bench() as bench:
        for delay in (0.04, 0.08, 0.12, 0.16):
            running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)  # noqa: ASYNC220
            assert running.stdout is not None
            with running.stdout as stdout:
                stdout.readline()
            await trio.sleep(delay)
            running.send_signal(signal.SIGKILL)
            running.wait()
            assert bench.store.find(name) is None or bench.left() == []
        image = await bench.pull(name)
        assert [400] * 3 == [len(list(Path(path).glob("*/*"))) for path in image.layer_paths]
        assert [] == bench.left()


def _no_program(name: str) -> str:
    raise FileNotFoundError(name)


@pytest.mark.parametrize("size", ["64k", "1m", "3m"])
async def test_a_full_disk_is_one_clear_line(
    open_bench: OpenBench, write_layout: WriteLayout, tmp_path: Path, size: str
) -> None:
    reference = write_layout(layer([Entry(f"{n}", os.urandom(100_000)) for n in range(20)]))
    with small_disk(tmp_path / "small", size) as disk:
        async with open_bench(root=disk / "store") as bench:
            with pytest.raises(SupervisorError, match=r"no space left|disk is full") as caught:
                await bench.pull(reference)
            assert "--store-dir" in str(caught.value.cure)
            assert [] == bench.left()
            assert [] == bench.store.list()


async def test_a_store_that_cannot_be_written(
    open_bench: OpenBench, write_layout: WriteLayout, tmp_path: Path
) -> None:
    reference = write_layout(layer([Entry("a")]))
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)  # noqa: ASYNC221
        async with open_bench(root=disk / "store") as bench:
            with pytest.raises(SupervisorError, match="Read-only file system") as caught:
                await bench.pull(reference)
            assert "--store-dir" in str(caught.value.cure)


async def test_a_lost_layer_or_a_damaged_record_is_mended_by_a_pull(
    open_bench: OpenBench, write_layout: WriteLayout
) -> None:
    reference = write_layout(layer([Entry("a")]), layer([Entry("b")]))
    async with open_bench() as bench:
        image = await bench.pull(reference)
        shutil.rmtree(image.layer_paths[1])
        assert bench.store.find(reference) is None
        assert image == await bench.pull(reference)
        (bench.root / f"images/{image.id}.json").write_text("{")
        assert bench.store.find(reference) is None
        assert image == await bench.pull(reference)


async def test_nothing_gets_its_name_before_it_is_on_the_disk(
    open_bench: OpenBench, write_layout: WriteLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut can't be had here; the order of calls that makes it harmless can be seen."""
    calls: list[str] = []
    sync, rename = catalog.syncfs, os.rename

    def told_sync(descriptor: int) -> None:
        sync(descriptor)
        calls.append("synced")

    def told_rename(source: str, target: str) -> None:
        rename(source, target)
        calls.append(str(target).split("/store/")[-1].split("/")[0])

    monkeypatch.setattr(catalog, "syncfs", told_sync)
    monkeypatch.setattr(os, "rename", told_rename)
    async with open_bench() as bench:
        await bench.pull(write_layout(layer([Entry("a")]), layer([Entry("b")])))
    order = [what for what in calls if what != "blobs"]
    assert ["synced", "images", "names"] == order[-3:]
    for number, what in enumerate(order):
        if what == "layers":
            assert order[:number].count("synced") >= order[: number + 1].count("layers")


async def test_a_disk_that_refuses_is_told_and_nothing_is_there(
    open_bench: OpenBench, write_layout: WriteLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "syncfs: Input/output error")

    reference = write_layout(layer([Entry("a")]))
    async with open_bench() as bench:
        with monkeypatch.context() as broken:
            broken.setattr(catalog, "syncfs", fail)
            with pytest.raises(OSError, match="Input/output error"):
                await bench.pull(reference)
        assert [] == bench.left() == bench.store.list()
        assert await bench.pull(reference) is not None


async def test_hostile_xattrs_reach_no_overlay(open_bench: OpenBench, write_layout: WriteLayout) -> None:
    data = tar(
        member(
            "d/f", pax_headers={f"SCHILY.xattr.user.overlay.{one}": "y" for one in ("opaque", "metacopy")}
        )
    )
    async with open_bench() as bench:
        image = await bench.pull(write_layout(data))
        assert [] == os.listxattr(Path(image.layer_paths[0]) / "d/f")
        assert re.fullmatch("[0-9a-f]{64}", image.id)
