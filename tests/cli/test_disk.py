"""What takes place on the disk, and what of it goes: `system df` and `system prune`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ctnr.cli.output import human_size
from tests.world.people import Person


def usage(me: Person) -> dict[str, dict[str, Any]]:
    rows = json.loads(me.ctnr("system", "df", "--format=json").ok.stdout)
    return {row["Type"]: row for row in rows}


def total(me: Person) -> int:
    return sum(row["RawSize"] for row in usage(me).values())


def on_disk(me: Person, *folders: str) -> int:
    """What du says of everything in these folders of the store; as root, for some of it is subordinate ids'."""
    places = [
        str(path) for folder in folders for path in (me.store_dir / folder).iterdir() if path.name[0] != "."
    ]
    done = subprocess.run(["du", "-sB1", "--", *places], check=True, capture_output=True, text=True)
    return sum(int(line.split()[0]) for line in done.stdout.splitlines())


def fill(me: Person, path: str, size: int, *words: str) -> str:
    script = f"head -c {size} /dev/zero >{path}"
    return me.ctnr("run", "--network=none", *words, "demo", "sh", "-c", script).ok.stdout.strip()


def names(me: Person, *words: str) -> list[str]:
    return sorted(me.ctnr(*words).ok.stdout.split())


def test_what_takes_place_and_what_goes(newcomer: Person, busybox_rootfs: Path) -> None:
    me = newcomer
    bare = usage(me)
    assert (bare["Images"]["Total"], bare["Images"]["Active"]) == (1, 0)
    assert (
        bare["Images"]["RawSize"]
        == bare["Images"]["RawReclaimable"]
        == on_disk(me, "blobs/sha256", "layers")
    )
    assert bare["Images"]["Reclaimable"].endswith(" (100%)")
    fill(me, "/file", 300_000, "--name=ended")
    fill(me, "/l/file", 200_000, "--rm", "-v", "loose:/l")
    fill(me, "/file", 100_000, "--rm", "-b", "work")
    fill(me, "/d/file; sleep 1000", 1000, "-d", "--init", "--name=held", "-v", "data:/d")
    me.ctnr("net", "create", "mine").ok  # noqa: B018
    (me.home / "tree").mkdir(mode=0o755)
    (me.home / "tree/file").write_bytes(b"x" * 50_000)
    loose_image = me.ctnr("image", "import", "-q", "./tree", "nameless").ok.stdout.strip()
    me.ctnr("image", "untag", "nameless").ok  # noqa: B018
    full = usage(me)
    assert [(row["Type"], row["Total"], row["Active"]) for row in full.values()] == [
        ("Images", 2, 1), ("Containers", 2, 1), ("Local Volumes", 2, 1), ("Bundles", 1, 0)
    ]  # fmt: skip
    assert 300_000 < full["Containers"]["RawReclaimable"] <= full["Containers"]["RawSize"] < 400_000
    assert 200_000 < full["Local Volumes"]["RawReclaimable"] < 250_000
    assert 100_000 < full["Bundles"]["RawSize"] < 150_000
    assert full["Bundles"]["RawReclaimable"] == 0, "it has a name"
    assert 50_000 < full["Images"]["RawReclaimable"] < full["Images"]["RawSize"]
    verbose = me.ctnr("system", "df", "-v").ok.stdout
    for word in (
        "ended",
        "held",
        "loose",
        "data",
        "work",
        "localhost/demo",
        "<none>",
        "Local Volumes space usage:",
    ):
        assert word in verbose
    assert "TYPE            TOTAL   ACTIVE" in me.ctnr("system", "df").ok.stdout

    refused = me.ctnr("system", "prune")
    assert (refused.status, refused.stdout) == (125, "")
    with me.pty("system", "prune") as terminal:
        terminal.expect("containers that do not run")
        terminal.expect("Remove them?")
        terminal.line("n")
        assert terminal.wait() == 0
    assert usage(me) == full

    ended = names(me, "ps", "-aq", "--no-trunc", "--filter=status=exited")
    before = total(me)
    done = me.ctnr("system", "prune", "-f").ok.stdout
    assert done == (
        f"Deleted Containers\n{ended[0]}\nDeleted Networks\nmine\nDeleted Images\n{loose_image}\n"
        f"Total reclaimed space: {human_size(before - total(me))}\n"
    )
    assert names(me, "ps", "-a", "--format={{.Names}}") == ["held"]
    assert names(me, "volume", "ls", "-q") == ["data", "loose"]
    assert "mine" not in names(me, "net", "ls", "-q")

    before = total(me)
    with me.pty("system", "prune", "-a", "--volumes") as terminal:
        terminal.expect("volumes that no container")
        terminal.expect("Remove them?")
        terminal.line("y")
        terminal.expect("loose")
        assert terminal.wait() == 0
    assert before - total(me) > 200_000
    assert names(me, "volume", "ls", "-q") == ["data"]
    me.ctnr("rm", "-f", "held").ok  # noqa: B018
    assert "Deleted Images" not in me.ctnr("system", "prune", "-af").ok.stdout, "bundle work is made of it"
    me.ctnr("bundle", "delete", "work").ok  # noqa: B018
    me.ctnr("system", "prune", "-af", "--volumes").ok  # noqa: B018
    assert total(me) == 0


def test_prune_takes_only_what_fits(newcomer: Person) -> None:
    me = newcomer
    for name, tier in (("one", "front"), ("two", "back")):
        me.ctnr("create", "--network=none", f"--name={name}", "--label", f"tier={tier}", "demo").ok  # noqa: B018
    me.ctnr("system", "prune", "-af", "--filter=until=1h").ok  # noqa: B018
    me.ctnr("system", "prune", "-af", "--filter=label=tier=front").ok  # noqa: B018
    assert names(me, "ps", "-a", "--format={{.Names}}") == ["two"]
    me.ctnr("rm", "two").ok  # noqa: B018
    assert (
        me.ctnr("image", "prune", "-af", "--filter=label=tier").ok.stdout == "Total reclaimed space: 0 B\n"
    )
    assert me.ctnr("images", "-q").ok.stdout
    pruned = me.ctnr("image", "prune", "-af", "--filter=until=2030-01-01T00:00:00Z").ok.stdout
    assert "reclaimed space: 0 B" not in pruned
    assert me.ctnr("images", "-q").ok.stdout == ""
