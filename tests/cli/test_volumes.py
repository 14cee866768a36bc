"""`ctnr volume …`, and what becomes of volumes when their containers go."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.world import images
from tests.world.people import Person


@pytest.fixture(autouse=True)
def _no_volumes_stay(me: Person) -> Iterator[None]:
    """What each of these tests has made is gone at its end, with all that it was kept in."""
    yield
    do(me, "rm", "-f", "-v", "--all")
    do(me, "volume", "rm", "--all")
    assert left_in(me) == []


def left_in(me: Person) -> list[str]:
    """Names in the directory of volumes."""
    directory = me.store_dir / "volumes"
    return sorted(os.listdir(directory)) if directory.exists() else []


def do(me: Person, *words: str, env: Mapping[str, str] | None = None) -> str:
    """What a command prints that has to succeed."""
    return me.ctnr(*words, env=env).ok.stdout


def volumes(me: Person, *filters: str) -> list[str]:
    return do(me, "volume", "ls", "-q", *(f"--filter={one}" for one in filters)).split()


def inspect(me: Person, name: str) -> dict[str, Any]:
    (found,) = json.loads(do(me, "volume", "inspect", name))
    return cast("dict[str, Any]", found)


def test_create_use_inspect_and_remove(me: Person) -> None:
    assert do(me, "volume", "create", "data", "--label", "tier=back", "-l", "x") == "data\n"
    told = inspect(me, "data")
    assert (told["Name"], told["Driver"], told["Labels"]) == ("data", "local", {"tier": "back", "x": ""})
    assert (told["Anonymous"], told["Containers"]) == (False, [])
    run = ("run", "--rm", "--network=none", "-v", "data:/data", "demo", "sh", "-c")
    do(me, *run, "echo kept > /data/file")
    assert Path(str(told["Mountpoint"]), "file").read_text() == "kept\n"
    assert do(me, *run, "cat /data/file") == "kept\n"
    assert inspect(me, "data")["Labels"] == told["Labels"], "using it changes nothing"
    assert volumes(me, "label=tier=back") == ["data"]
    assert do(me, "volume", "ls") == "DRIVER   VOLUME NAME\nlocal    data\n"
    shown = do(me, "volume", "ls", "--format", "{{.Name}} {{.Mountpoint}} {{.Labels.tier}}")
    assert shown == f"data {told['Mountpoint']} back\n"
    assert [row["Name"] for row in json.loads(do(me, "volume", "ls", "--format=json"))] == ["data"]
    assert do(me, "volume", "inspect", "-f", "{{.Name}}", "data") == "data\n"
    assert do(me, "inspect", "-f", "{{.Mountpoint}}", "data") == f"{told['Mountpoint']}\n", (
        "as docker finds it, too"
    )
    assert "no container has the name" in me.ctnr("inspect", "--type=container", "data").stderr
    assert "no container has the name" in me.ctnr("inspect", "nowhere").stderr
    assert do(me, "inspect", "--type=network", "-f", "{{.name}}", "bridge") == "bridge\n"
    assert do(me, "volume", "rm", "data") == "data\n"
    assert left_in(me) == []


def test_names(me: Person) -> None:
    random = do(me, "volume", "create").strip()
    assert len(random) == 64
    assert inspect(me, random[:9])["Anonymous"] is True
    do(me, "volume", "create", "data")
    for words, said in (
        (("create", "data"), "volume data: it exists already"),
        (("create", "../x"), "volume name '../x'"),
        (("create", "x" * 256), "volume name 'xxx"),
        (("create", ".new-x"), "volume name '.new-x'"),
        (("inspect", "nowhere"), "no volume has the name nowhere"),
        (("inspect", ".."), "no volume has the name .."),
        (("rm", "nowhere"), "no volume has the name nowhere"),
        (("rm", "../bundles"), "no volume has the name ../bundles"),
        (("rm", ""), "no volume has the name"),
        (("rm", "dat"), "no volume has the name dat"),
    ):
        done = me.ctnr("volume", *words)
        assert (done.status, done.stderr.count("\n")) == (125, 1), words
        assert said in done.stderr, words
    assert do(me, "volume", "create", "--ignore", "data") == "data\n"
    done = me.ctnr("volume", "rm", "nowhere", "data", random)
    assert (done.status, done.stdout) == (125, f"data\n{random}\n"), "the others are removed"
    assert do(me, "volume", "rm", "--force", "nowhere") == ""


def test_one_in_use_is_not_removed(me: Person) -> None:
    do(me, "create", "--name=first", "-v", "data:/data", "demo")
    do(
        me,
        "run",
        "-d",
        "--name=second",
        "--network=none",
        "--mount",
        "type=volume,src=data,dst=/d",
        "demo",
        "sleep",
        "99",
    )
    assert sorted(inspect(me, "data")["Containers"]) == ["first", "second"]
    assert volumes(me, "dangling=true") == []
    assert volumes(me, "dangling=false") == ["data"]
    assert do(me, "ps", "-a", "--filter=volume=data", "--format={{.Names}}").split() == [
        "second",
        "first",
    ]
    done = me.ctnr("volume", "rm", "data")
    assert done.status == 125
    assert "volume data: in use by container " in done.stderr
    assert " and 1 more; ctnr rm " in done.stderr
    do(me, "rm", "-f", "second")
    assert "in use by container first; ctnr rm first, or" in me.ctnr("volume", "rm", "data").stderr
    assert do(me, "volume", "prune", "-f") == "Total reclaimed space: 0 B\n"
    do(me, "run", "-d", "--name=third", "--network=none", "-v", "data:/d", "demo", "sleep", "99")
    assert do(me, "volume", "rm", "-f", "data") == "data\n"
    assert do(me, "ps", "-aq") == "", "with its containers"


def test_prune_tells_what_it_has_reclaimed(me: Person) -> None:
    fill = ("run", "--rm", "--network=none", "-v", "big:/data", "demo")
    do(me, *fill, "dd", "if=/dev/zero", "of=/data/zeros", "bs=1M", "count=3")
    do(me, "volume", "create", "--label=keep", "small")
    do(me, "create", "--name=user", "-v", "used:/data", "demo")
    assert "nobody can be asked" in me.ctnr("volume", "prune").stderr
    with me.pty("volume", "prune") as terminal:
        terminal.expect("big")
        terminal.expect("Remove them?")
        terminal.line("n")
        assert terminal.wait() == 0
    assert volumes(me) == ["big", "small", "used"]
    assert do(me, "volume", "prune", "-f", "--filter=label=keep").startswith("small\nTotal")
    with me.pty("volume", "prune") as terminal:
        terminal.expect("Remove them?")
        terminal.line("y")
        terminal.expect("Total reclaimed space: 3.1")
        assert terminal.wait() == 0
    assert volumes(me) == ["used"]


def test_anonymous_volumes_stay_without_v_and_go_with_it(me: Person) -> None:
    run = ("run", "--network=none", "-v", "/scratch", "demo", "touch", "/scratch/x")
    do(me, *run[:1], "--rm", *run[1:])
    assert volumes(me) == [], "--rm takes them along"
    do(me, *run[:1], "--name=one", *run[1:])
    (name,) = volumes(me, "anonymous=true")
    (mount,) = json.loads(do(me, "inspect", "one", "-f", "{{json .Mounts}}"))
    assert mount == {
        "Type": "volume", "Name": name, "Driver": "local", "Source": inspect(me, name)["Mountpoint"],
        "Destination": "/scratch", "RW": True,
    }  # fmt: skip
    assert "in use by container one" in me.ctnr("volume", "rm", name[:8]).stderr
    do(me, "start", "-a", "one")
    assert volumes(me) == [name], "the same one at each start"
    do(me, "rm", "one")
    assert volumes(me, "dangling=true") == [name]
    assert do(me, "run", "--rm", "-v", f"{name}:/x", "demo", "ls", "/x") == "x\n"
    assert do(me, "volume", "rm", name[:8]) == f"{name[:8]}\n", "they have no name to type"
    do(me, *run[:1], "--name=two", *run[1:])
    (name,) = volumes(me)
    do(me, "create", "--name=three", "-v", f"{name}:/x", "demo")
    do(me, "rm", "-v", "two")
    assert volumes(me) == [name], "somebody else has it by its name"
    do(me, "rm", "-v", "three")
    assert volumes(me) == [name], "to three it was a named one"


def test_volumes_of_an_image(me: Person, busybox_rootfs: Path) -> None:
    layout = images.write_image(
        me.home / "with-volumes", [images.tar_folder(busybox_rootfs)],
        {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": {"/etc/": {}, "/var/lib/db": {}}},
    )  # fmt: skip
    image = do(me, "pull", "-q", "--image-policy=insecure", f"oci:{layout}").strip()
    do(
        me,
        "run",
        "--name=db",
        "--network=none",
        "-v",
        "mine:/etc",
        image,
        "touch",
        "/var/lib/db/x",
        "/etc/y",
    )
    (name,) = volumes(me, "anonymous=true")
    assert os.listdir(me.store_dir / "volumes" / name / "_data") == ["x"]
    assert {"passwd", "y"} < set(os.listdir(me.store_dir / "volumes/mine/_data")), "with the image's content"
    assert do(me, "run", "--rm", image, "ls", "/etc/passwd")
    do(me, "rm", "-v", "db")
    assert volumes(me) == ["mine"]
    do(me, "rmi", image)


def test_who_runs_in_it_can_write_a_new_volume(me: Person) -> None:
    run = ("run", "--rm", "--network=none", "-v", "data:/data")
    do(me, *run, "-u", "web", "demo", "sh", "-c", "touch /data/x && chmod 700 /data")
    assert do(me, *run, "-u", "web", "demo", "ls", "/data") == "x\n", (
        "shut, as databases have it, it is used again"
    )
    assert me.ctnr(*run, "-u", "1234", "demo", "ls", "/data").status == 1, "it stays whose it is"
    do(me, *run, "demo", "sh", "-c", "rm /data/x")
    assert do(me, *run, "-u", "web", "demo", "sh", "-c", "stat -c %u:%g /data") == "1000:1000\n"


def test_a_bundle_keeps_its_anonymous_volumes(me: Person) -> None:
    run = ("run", "--rm", "--network=none", "-b", "box", "-v", "/scratch", "demo", "sh", "-c")
    do(me, *run, "echo kept > /scratch/x")
    (name,) = volumes(me)
    assert do(me, *run, "cat /scratch/x") == "kept\n"
    assert "in use by bundle box; ctnr bundle delete box" in me.ctnr("volume", "rm", name).stderr
    assert do(me, "volume", "prune", "-f") == "Total reclaimed space: 0 B\n"
    do(me, "bundle", "delete", "box")
    assert volumes(me) == []


def test_what_comes_to_nothing_leaves_no_volume(me: Person) -> None:
    for words in (
        ("-v", "/scratch", "demo", "/no/such/program"), ("-v", "/scratch", "-v", "/nowhere/at/all:/x", "demo", "true"),
        ("-v", "data:/data:wrong", "demo", "true"), ("-v", "data:/x", "-v", "/x", "demo", "true"),
    ):  # fmt: skip
        done = me.ctnr("run", "--network=none", *words)
        assert (done.status in (125, 127), done.stderr.count("\n")) == (True, 1), words
        assert volumes(me) == [], words


def test_two_services_on_one_store(me: Person) -> None:
    """A container of another service of the same user has the volume: it is refused, and not removed by force."""
    do(me, "run", "--rm", "--network=none", "-v", "data:/data", "demo", "true")
    other = me.home / "other"
    other.mkdir(mode=0o700, exist_ok=True)
    os.chown(other, me.uid, me.uid)
    env = {"CTNR_RUNTIME_DIR": str(other)}
    try:
        do(me, "create", "--name=theirs", "-v", "data:/x", "demo", env=env)
        for words in (("rm", "data"), ("rm", "-f", "data")):
            assert "in use by container theirs" in me.ctnr("volume", *words).stderr, words
        assert do(me, "volume", "prune", "-f") == "Total reclaimed space: 0 B\n"
        do(me, "rm", "theirs", env=env)
        do(me, "volume", "rm", "data")
    finally:
        do(me, "supervisor", "stop", "--force", env=env)


def test_nobody_else_gets_at_them(me: Person, new_person: Callable[[str], Person]) -> None:
    if me.uid != 0:
        pytest.skip("root gets at everything")
    do(me, "volume", "create", "data")
    other = new_person("user")
    assert volumes(other) == []
    found = other.run(["ls", str(me.store_dir / "volumes/data/_data")])
    assert "Permission denied" in found.stderr
