"""USER in all its forms, against files of an image."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.bundles.errors import BundleError
from ctnr.bundles.users import ResolvedUser, UserFiles, check_mapped, read_user_files, resolve_user

FILES = UserFiles(
    b"root:x:0:0:root:/root:/bin/sh\nbroken line\napp:x:1000:1001::/home/app:/bin/sh\n77:x:500:501::/srv:/bin/sh\n",
    b"root:x:0:\napp:x:1001:\nextra:x:2000:app,other\nops:x:3000:other\n",
)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        (None, 0, 0, (0,), "/root"),
        ("", 0, 0, (0,), "/root"),
        ("app", 1000, 1001, (1001, 2000), "/home/app"),
        ("1000", 1000, 1001, (1001, 2000), "/home/app"),
        ("app:ops", 1000, 3000, (3000,), "/home/app"),
        ("1000:5", 1000, 5, (5,), "/home/app"),
        ("4242", 4242, 0, (0,), "/"),
        ("4242:ops", 4242, 3000, (3000,), "/"),
        ("77", 500, 501, (501,), "/srv"),  # a name of digits is a name first
    ],
)
def test_forms(user: str | None, uid: int, gid: int, groups: tuple[int, ...], home: str) -> None:
    assert resolve_user(FILES, user) == ResolvedUser(uid=uid, gid=gid, additional_gids=groups, home=home)


@pytest.mark.parametrize("user", ["nobody", "app:none", ":1", "app:", "99999999999", "-1", "٣"])
def test_unknown(user: str) -> None:
    with pytest.raises(BundleError) as caught:
        resolve_user(FILES, user)
    assert caught.value.cure


def test_group_add() -> None:
    assert resolve_user(FILES, "app", ("ops", "9", "extra")).additional_gids == (1001, 2000, 3000, 9)


def test_unmapped_id() -> None:
    check_mapped(ResolvedUser(uid=65536), 65537)
    with pytest.raises(BundleError, match="not mapped"):
        check_mapped(ResolvedUser(uid=65537), 65537)


@given(st.binary(max_size=200), st.binary(max_size=200), st.text(max_size=20))
def test_hostile_files(passwd: bytes, group: bytes, user: str) -> None:
    try:
        found = resolve_user(UserFiles(passwd, group), user)
    except BundleError:
        return
    assert 0 <= found.uid < 1 << 31
    assert 0 <= found.gid < 1 << 31


class _Root:
    async def open_in_root(self, root: str, path: str, flags: int = os.O_RDONLY) -> int | None:
        try:
            return os.open(root + path, flags)
        except FileNotFoundError:
            return None


async def test_fifo_does_not_hold(tmp_path: os.PathLike[str]) -> None:
    os.mkdir(f"{tmp_path}/etc")
    os.mkfifo(f"{tmp_path}/etc/passwd")
    with pytest.raises(BundleError, match="not a regular file"):
        await read_user_files(_Root(), str(tmp_path))
    os.unlink(f"{tmp_path}/etc/passwd")
    assert await read_user_files(_Root(), str(tmp_path)) == UserFiles()
