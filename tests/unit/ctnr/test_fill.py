"""The program that gives a new volume what the image has at its place, beside somebody who has the volume as well."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from ctnr.files import fill
from supervisor.sandbox.sandbox import python_argv


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A directory with one of each: a file, a program with a second name, a link, a FIFO, a directory."""
    made = tmp_path / "image"
    (made / "etc" / "deep").mkdir(parents=True)
    (made / "etc" / "deep" / "file").write_text("of the image\n")
    (made / "passwd").write_text("of the image\n")
    (made / "program").write_bytes(os.urandom(3_000_000))
    (made / "program").chmod(0o4755)
    os.link(made / "program", made / "etc" / "twin")
    os.setxattr(made / "program", "user.told", b"so")
    (made / "etc" / "link").symlink_to("/nowhere")
    os.mkfifo(made / "fifo", 0o620)
    (made / "etc").chmod(0o1751)
    for path in (made / "passwd", made / "etc", made / "etc" / "link", made / "fifo", made):
        os.utime(path, (1, 7), follow_symlinks=False)
    return made


def fill_from(image: Path, volume: Path) -> subprocess.CompletedProcess[str]:
    argv = ["sh", "-c", f'exec "$@" {fill.IMAGE}<"$0"', str(image)]
    argv += python_argv("ctnr.files.fill", str(volume))
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def described(directory: Path) -> dict[str, tuple[object, ...]]:
    """What lies below it: kind and mode, owner, time, and what is in it."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        info = path.lstat()
        content: object = os.readlink(path) if path.is_symlink() else None
        if path.is_file() and not path.is_symlink():
            content = (path.read_bytes(), info.st_nlink, os.listxattr(path))
        ids = (info.st_mode, info.st_uid, info.st_gid)
        times = None if path.name in ("deep", "file", "program", "twin") else info.st_mtime
        found[str(path.relative_to(directory))] = (*ids, times, content)
    return found


def test_all_of_it_is_as_it_was(image: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    done = fill_from(image, volume)
    assert (done.returncode, done.stderr) == (0, "")
    assert described(volume) == described(image)
    assert (volume / "program").samefile(volume / "etc" / "twin")


def test_links_that_lie_in_the_volume_are_not_followed(image: Path, tmp_path: Path) -> None:
    """A container that has the volume makes them while it is filled: they would lead us to files of the host."""
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    (outside / "deep").mkdir(parents=True)
    (outside / "passwd").write_text("of the host\n")
    volume.mkdir()
    (volume / "passwd").symlink_to(outside / "passwd")
    (volume / "program").symlink_to(outside / "made")
    (volume / "etc").symlink_to(outside)
    before = described(outside)
    done = fill_from(image, volume)
    assert (done.returncode, done.stderr) == (0, "")
    assert described(outside) == before
    assert all((volume / name).is_symlink() for name in ("passwd", "program", "etc")), "they are not ours"
    assert stat.S_ISFIFO((volume / "fifo").lstat().st_mode), "the rest has come"
