"""`ctnr image fsck` as a person uses it: damage told and mended, beside a container that runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.world.people import Person
from tests.world.registry import Registry

INSECURE = "--image-policy=insecure"


def test_check_and_repair(as_user: Person, registry: Registry, layered_image: Path) -> None:
    registry.push(layered_image, "library/checked:1")
    assert as_user.ctnr("pull", INSECURE, "docker://checked:1").ok
    done = as_user.ctnr("image", "fsck").ok
    assert "" == done.stdout
    assert "1 image(s), 4 layer(s), 6 blob(s): all right\n" == done.stderr
    name = as_user.ctnr("run", "-d", "checked:1", "sleep", "1000").ok.stdout.strip()
    [layer] = [path for path in (as_user.store_dir / "layers").iterdir() if (path / "kept").exists()]
    (layer / "kept").write_text("changed\n")
    for options in ((), ("--repair",)):
        done = as_user.ctnr("image", "fsck", *options)
        assert 1 == done.status
        assert done.stdout.startswith(f"layer {layer.name[:12]}: kept: size differs"), done.stdout
        assert ("a container runs on it" in done.stdout) == bool(options)
    assert "changed\n" == as_user.ctnr("exec", name, "cat", "/kept").ok.stdout
    assert as_user.ctnr("rm", "-f", name).ok
    done = as_user.ctnr("image", "fsck", "--repair").ok
    assert done.stdout.endswith(": unpacked again\n")
    assert "" == as_user.ctnr("image", "fsck").ok.stdout
    assert "kept\n" == as_user.ctnr("run", "--rm", "checked:1", "cat", "/kept").ok.stdout


def test_what_is_lost_is_told_and_pulled_again(
    as_user: Person, registry: Registry, layered_image: Path
) -> None:
    registry.push(layered_image, "library/lost:1")
    assert as_user.ctnr("pull", INSECURE, "docker://lost:1").ok
    shutil.rmtree(as_user.store_dir / "blobs")
    done = as_user.ctnr("image", "fsck")
    assert (1, 1) == (done.status, done.stdout.count("\n"))
    assert "(docker.io/library/lost:1): its manifest is lost" in done.stdout
    done = as_user.ctnr("image", "fsck", "--repair").ok
    assert "forgotten with its names docker.io/library/lost:1" in done.stdout
    assert "" == as_user.ctnr("images", "-q").ok.stdout
    assert as_user.ctnr("pull", INSECURE, "docker://lost:1").ok
    assert "" == as_user.ctnr("image", "fsck").ok.stdout
