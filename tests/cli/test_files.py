"""`cp` and `diff`: docker's rules, containers that run and that do not, and hostile ones."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.people import Person

ROOM = (
    "mkdir -p /tree/sub && echo a > /tree/a && echo b > /tree/sub/b && ln -s a /tree/link && chmod 640 /tree/a"
    " && ln /tree/a /tree/twin && chown 7:8 /tree/sub/b && mkdir /empty && ln -s /tree /way"
)


@pytest.fixture(scope="module", params=["running", "stopped"])
def box(request: pytest.FixtureRequest, me: Person) -> Iterator[str]:
    """A container with some files, in both states."""
    name = f"box-{request.param}"
    line = ["--init", "--network=none", f"--name={name}", "demo", "sh", "-c"]
    if request.param == "running":
        me.ctnr("run", "-d", *line, "exec sleep 1000").ok  # noqa: B018
        me.ctnr("exec", name, "sh", "-c", ROOM).ok  # noqa: B018
    else:
        me.ctnr("run", *line, ROOM).ok  # noqa: B018
    yield name
    me.ctnr("rm", "-f", name).ok  # noqa: B018


@pytest.fixture
def desk(me: Person, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the caller's."""
    folder = me.home / tmp_path_factory.mktemp("desk").name
    folder.mkdir()
    os.chown(folder, me.uid, me.uid)
    return folder


def look(me: Person, box: str, path: str) -> list[str]:
    """The names in an archive of `path`, with their owners."""
    with me.popen(["ctnr", "cp", f"{box}:{path}", "-"]) as process:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        return [f"{one.name} {one.uid}:{one.gid}" for one in archive]


def test_out_by_dockers_rules(me: Person, box: str, desk: Path) -> None:
    def cp(source: str, target: str) -> None:
        me.ctnr("cp", f"{box}:{source}", target, cwd=desk).ok  # noqa: B018

    cp("/tree/a", "new")
    assert (desk / "new").read_text() == "a\n"
    (desk / "into").mkdir()
    os.chown(desk / "into", me.uid, me.uid)
    cp("/tree/a", "into")
    cp("/tree/sub/b", "into/a")
    assert (desk / "into/a").read_text() == "b\n", "a file that exists is replaced"
    cp("/tree", "become")
    assert sorted(os.listdir(desk / "become")) == ["a", "link", "sub", "twin"]
    cp("/tree", "into")
    assert (desk / "into/tree/sub/b").read_text() == "b\n"
    cp("/tree/.", "into")
    assert (desk / "into/sub/b").read_text() == "b\n"
    cp("tree/sub", ".")
    assert (desk / "sub/b").read_text() == "b\n"
    assert (desk / "become/link").readlink() == Path("a")
    cp("/tree/link", "asis")
    assert (desk / "asis").is_symlink()
    made = (desk / "become/sub/b").stat()
    assert (made.st_uid, made.st_gid) == (me.uid, me.uid), "files out of a container are the caller's"
    assert (desk / "become/a").stat().st_mode & 0o777 == 0o640
    assert (desk / "become/a").stat().st_ino == (desk / "become/twin").stat().st_ino
    me.ctnr("cp", "-L", f"{box}:/tree/link", str(desk / "followed")).ok  # noqa: B018
    assert (desk / "followed").read_text() == "a\n"
    me.ctnr("cp", "-L", f"{box}:/way", str(desk / "wayout")).ok  # noqa: B018
    assert (desk / "wayout/a").read_text() == "a\n"


def test_what_the_rules_refuse(me: Person, box: str, desk: Path) -> None:
    (desk / "file").write_text("x")
    os.chown(desk / "file", me.uid, me.uid)
    for source, target, why in (
        (f"{box}:/nothing", ".", "/nothing: No such file"),
        (f"{box}:/tree", "file", "not a directory"),
        (f"{box}:/tree/a", "nowhere/", "no such directory"),
        (f"{box}:/tree/a", "no/where", "no such directory"),
        (f"{box}:/tree/a/", ".", "Not a directory"),
        ("missing", f"{box}:/", "No such file"),
        ("file", f"{box}:/no/where", "no such directory"),
        ("file", "other", "neither is in a container"),
        ("nobody:/x", ".", "nobody"),
        (":/x", ".", "name is missing"),
    ):
        refused = me.ctnr("cp", source, target, cwd=desk)
        assert refused.status == 125, (source, target)
        assert why in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert (desk / "file").read_text() == "x"


def test_in_and_back(me: Person, box: str, desk: Path) -> None:
    (desk / "page").write_text("hello\n")
    (desk / "page").chmod(0o604)
    (desk / "site" / "deep").mkdir(parents=True)
    (desk / "site/deep/one").write_text("1")
    me.run(["true"]).ok  # noqa: B018
    for path in (desk / "page", desk / "site", desk / "site/deep", desk / "site/deep/one"):
        os.chown(path, me.uid, me.uid)
    me.ctnr("cp", "page", f"{box}:/empty", cwd=desk).ok  # noqa: B018
    me.ctnr("cp", "site", f"{box}:/empty/", cwd=desk).ok  # noqa: B018
    me.ctnr("cp", "site/.", f"{box}:/empty/other", cwd=desk).ok  # noqa: B018
    me.ctnr("cp", "page", f"{box}:/way/sub/page", cwd=desk).ok  # noqa: B018
    assert look(me, box, "/empty") == [
        "empty 0:0", "empty/other 0:0", "empty/other/deep 0:0", "empty/other/deep/one 0:0", "empty/page 0:0",
        "empty/site 0:0", "empty/site/deep 0:0", "empty/site/deep/one 0:0",
    ]  # fmt: skip
    assert look(me, box, "/tree/sub/page") == ["page 0:0"], "links in a container's way hold"
    me.ctnr("cp", f"{box}:/empty/page", "back", cwd=desk).ok  # noqa: B018
    assert (desk / "back").read_text() == "hello\n"
    assert (desk / "back").stat().st_mode & 0o777 == 0o604
    assert int((desk / "back").stat().st_mtime) == int((desk / "page").stat().st_mtime)


def test_archives_and_owners(me: Person, box: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("kept/file")
        entry.uid, entry.gid, entry.size = 5, 6, 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    me.ctnr("cp", "-a", "-", f"{box}:/empty", stdin=buffer.getvalue()).ok  # noqa: B018
    assert "empty/kept/file 5:6" in look(me, box, "/empty")
    me.ctnr("cp", "-", f"{box}:/empty", stdin=buffer.getvalue()).ok  # noqa: B018
    assert "empty/kept/file 0:0" in look(me, box, "/empty")
    assert look(me, box, "/tree/sub/b") == ["b 7:8"]
    assert look(me, box, "/tree/.")[0] == ". 0:0"
    for junk in (b"junk" * 300, buffer.getvalue()[:600]):
        broken = me.ctnr("cp", "-", f"{box}:/empty", stdin=junk)
        assert (broken.status, broken.stderr.count("\n")) == (125, 1)
    assert "no such directory" in me.ctnr("cp", "-", f"{box}:/nowhere", stdin=buffer.getvalue()).stderr


def test_between_containers(me: Person, box: str, names: list[str]) -> None:
    me.ctnr("create", "--network=none", "--name=third", "demo", "cat", "/sub/b").ok  # noqa: B018
    names.append("third")
    me.ctnr("cp", f"{box}:/tree/sub", "third:/").ok  # noqa: B018
    assert me.ctnr("start", "-a", "third").ok.stdout == "b\n"


def test_nothing_leads_out_of_a_container(me: Person, names: list[str], desk: Path) -> None:
    """Links to the host's places, in the container and in archives."""
    secret = desk / "secret"
    secret.write_text("the host's")
    desk.chmod(0o777)
    script = f"ln -s {desk} /out; ln -s ../../../../..{desk} /up; ln -s /proc/1/root /magic; exec sleep 1000"
    me.ctnr("run", "-d", "--init", "--network=none", "--name=foe", "demo", "sh", "-c", script).ok  # noqa: B018
    names.append("foe")
    me.ctnr("exec", "foe", "sh", "-c", "until [ -L /magic ]; do sleep 0.02; done").ok  # noqa: B018
    for path in ("/out/secret", "/up/secret", f"/magic{desk}/secret", f"/../../..{desk}/secret"):
        gone = me.ctnr("cp", f"foe:{path}", "-")
        assert (gone.status, gone.stdout) == (125, ""), path
        me.ctnr("cp", str(secret), f"foe:{path}")
    page = desk / "page"
    page.write_text("written by cp")
    os.chown(page, me.uid, me.uid)
    for path in ("/out/page2", "/up/page2"):
        assert me.ctnr("cp", str(page), f"foe:{path}").status == 125
    assert sorted(os.listdir(desk)) == ["page", "secret"]
    assert secret.read_text() == "the host's"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("door")
        link.type, link.linkname = tarfile.SYMTYPE, str(desk)
        archive.addfile(link)
        through = tarfile.TarInfo("door/planted")
        archive.addfile(through, io.BytesIO())
    me.ctnr("cp", "-", "foe:/tmp", stdin=buffer.getvalue())
    assert sorted(os.listdir(desk)) == ["page", "secret"]
    up = io.BytesIO()
    with tarfile.open(fileobj=up, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../planted"), io.BytesIO())
    assert "leads out" in me.ctnr("cp", "-", "foe:/tmp", stdin=up.getvalue()).stderr


def test_volumes_of_a_running_container_are_seen(me: Person, names: list[str], desk: Path) -> None:
    (desk / "inside").write_text("of the volume")
    os.chown(desk / "inside", me.uid, me.uid)
    line = ["--init", "--network=none", f"-v{desk}:/vol", "--name=vol", "demo", "sleep", "1000"]
    me.ctnr("run", "-d", *line).ok  # noqa: B018
    names.append("vol")
    me.ctnr("cp", "vol:/vol/inside", str(desk / "copy")).ok  # noqa: B018
    assert (desk / "copy").read_text() == "of the volume"
    me.ctnr("cp", str(desk / "copy"), "vol:/vol/third").ok  # noqa: B018
    assert (desk / "third").read_text() == "of the volume"


def test_diff_tells_what_has_changed(me: Person, names: list[str]) -> None:
    script = "echo x > /etc/passwd; rm /bin/vi; mkdir -p /made/deep; touch /made/deep/f"
    me.ctnr("run", "--network=none", "--name=changed", "demo", "sh", "-c", script)
    names.append("changed")
    lines = me.ctnr("diff", "changed").ok.stdout.splitlines()
    assert "A /made" in lines
    assert "A /made/deep/f" in lines
    assert "C /etc" in lines or "A /etc" in lines
    assert not [
        line for line in lines if "/proc" in line or "/dev" in line or "resolv" in line or "hosts" in line
    ]
    assert [line for line in lines if line.endswith("/bin/vi")] == (
        ["D /bin/vi"] if "C /bin" in lines else []
    )
    assert me.ctnr("diff", "--format={{.Kind}} {{.Path}}", "changed").ok.stdout.count("1 /made") == 3
    me.ctnr("create", "--network=none", "--name=same", "demo").ok  # noqa: B018
    names.append("same")
    assert me.ctnr("diff", "same").ok.stdout == ""
    me.ctnr("run", "--rm", "-d", "--init", "--network=none", "--name=idle", "demo", "sleep", "1000").ok  # noqa: B018
    names.append("idle")
    assert me.ctnr("diff", "idle").ok.stdout == "", "what the runtime needs is none of its changes"


def test_a_client_that_goes_leaves_nothing_mounted(me: Person, names: list[str]) -> None:
    """Killed while the archive of a stopped container waits for a reader: its file system is free again."""
    script = "head -c 3000000 /dev/zero > /big"
    me.ctnr("run", "--network=none", "--name=left", "demo", "sh", "-c", script).ok  # noqa: B018
    names.append("left")
    with me.popen(["ctnr", "cp", "left:/big", "-"]) as process:
        assert process.stdout is not None
        assert process.stdout.read(512)  # it has begun; nobody reads on
        busy = me.ctnr("start", "left")
        assert (busy.status, "runs in it" in busy.stderr) == (125, True)
        process.kill()
    deadline = time.monotonic() + 20
    while me.ctnr("start", "-a", "left").status:
        assert time.monotonic() < deadline
