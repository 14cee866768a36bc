"""The tar reader against Python's own writer and reader, and against whatever bytes come."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.images.tarstream import BadTar, Entry, TarStream, clean, printable

NAMES = st.text(
    st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def entries_of(data: bytes) -> list[tuple[Entry, bytes]]:
    stream = TarStream(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]
    found = []
    while (entry := stream.next()) is not None:
        found.append((entry, b"".join(iter(lambda: stream.read(7), b""))))
    return found


def written(*members: tarfile.TarInfo, kind: int = tarfile.PAX_FORMAT, data: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for member in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@given(
    path=PATHS, data=st.binary(max_size=1500), mode=st.integers(0, 0o7777), uid=st.integers(0, 2**32),
    seconds=st.integers(0, 2**33), kind=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)  # fmt: skip
def test_what_tarfile_writes_is_read(
    path: str, data: bytes, mode: int, uid: int, seconds: int, kind: int
) -> None:
    member = tarfile.TarInfo(path)
    member.mode, member.uid, member.mtime = mode, uid, seconds
    [(entry, content)] = entries_of(written(member, kind=kind, data=data))
    assert (path, data) == (entry.path, content)
    assert (mode, uid, seconds * 10**9) == (entry.mode, entry.uid, entry.mtime_ns)


@given(
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=200),
    st.binary(max_size=300),
)
def test_links_and_xattrs_are_read(target: str, value: bytes) -> None:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = tarfile.SYMTYPE, target
    member.pax_headers = {"SCHILY.xattr.user.x": value.decode("utf-8", "surrogateescape")}
    [(entry, _)] = entries_of(written(member))
    assert target == entry.link
    assert {"user.x": value} == entry.xattrs


@given(st.binary(max_size=3000))
def test_any_bytes_end_in_entries_or_in_one_error(data: bytes) -> None:
    try:
        entries_of(data)
    except BadTar as exc:
        assert "\n" not in str(exc)  # noqa: PT017 -- either is right


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=40))
def test_any_damage_ends_in_entries_or_in_one_error(position: int, damage: bytes) -> None:
    members = [tarfile.TarInfo("a" * 120), tarfile.TarInfo("b")]
    members[0].pax_headers = {"SCHILY.xattr.user.x": "y" * 600}
    data = bytearray(written(*members, data=b"content"))
    data[position : position + len(damage)] = damage
    try:
        entries_of(bytes(data))
    except BadTar as exc:
        assert "\n" not in str(exc)  # noqa: PT017 -- either is right


def test_every_way_to_be_cut_off_is_told_or_shorter() -> None:
    data = written(tarfile.TarInfo("a" * 200), tarfile.TarInfo("b"), data=b"x" * 700)
    whole = len(entries_of(data))
    for length in range(0, len(data), 100):
        try:
            assert len(entries_of(data[:length])) <= whole
        except BadTar as exc:
            assert "cut off" in str(exc)  # noqa: PT017 -- either is right


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b", "a/b"), ("/a//b/./c/", "a/b/c"), (".", ""), ("./", ""), ("...", "..."), ("a/..b", "a/..b")],
)
def test_names_are_made_relative(name: str, expected: str) -> None:
    assert expected == clean(name)


@pytest.mark.parametrize("name", ["..", "a/..", "../a", "/../a", "a/../b"])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(BadTar, match="leads out"):
        clean(name)


def test_a_header_that_claims_much_is_not_believed() -> None:
    member = tarfile.TarInfo("x")
    member.pax_headers = {"SCHILY.xattr.user.x": "y" * (1 << 21)}
    with pytest.raises(BadTar, match="an extended header claims"):
        entries_of(written(member))


@pytest.mark.parametrize(
    ("path", "shown"), [("a/b", "a/b"), ("a\nb", r"'a\nb'"), ("\x1b[2J", r"'\x1b[2J'"), ("a b", "'a b'")]
)
def test_names_are_shown_in_one_line(path: str, shown: str) -> None:
    assert shown == printable(path)
