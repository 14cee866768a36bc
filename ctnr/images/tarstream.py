"""Entries of a tar stream, read once from front to back, with bounds on everything that the stream may claim.

Standard library only: the extractor (`unpack.py`) runs in the sandbox with `python -I -S`. Not `tarfile`, for two
reasons: that reads extended headers of any claimed size into memory, and it needs about four times as long per entry.
Formats: POSIX.1-2001 pax, ustar, GNU long names, V7; what Go's archive/tar, GNU tar, bsdtar and Python write.
"""

from __future__ import annotations

import typing

BLOCK = 512
EXTENDED_BYTES_MAX = 1 << 20  # one pax or GNU header; the largest honest ones hold 64 KiB xattrs
PATH_BYTES_MAX = 4095  # PATH_MAX without its NUL
SECONDS_MAX = 1 << 53  # what is more is no time; the kernel cuts it to what the file system can hold
DEVICE_MAX = (1 << 20) - 1  # of a minor number; the major has 12 bits, which the kernel checks

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = "0", "1", "2", "3", "4", "5", "6"


class BadTar(Exception):
    """The stream is no tar archive, is cut off, or claims what no honest archive would."""


class Entry:
    """One member. `path` is relative and clean (no `.`, `..` or empty part; "" is the root itself).

    `mtime_ns` in ns; `xattrs` maps names to bytes, None if there are none; `size` is the number of bytes to be read
    by `TarStream.read` before the next entry.
    """

    __slots__ = ("device", "gid", "kind", "link", "mode", "mtime_ns", "path", "size", "uid", "xattrs")

    def __init__(
        self, kind: str, path: str, mode: int, uid: int, gid: int, size: int, mtime_ns: int, link: str
    ) -> None:
        self.kind, self.path, self.mode, self.uid, self.gid = kind, path, mode, uid, gid
        self.size, self.mtime_ns, self.link = size, mtime_ns, link
        self.xattrs: dict[str, bytes] | None = None
        self.device = (0, 0)


class TarStream:
    """Reads entries from a file object whose `read(n)` gives n bytes, or fewer at the end (a BufferedReader)."""

    def __init__(self, file: typing.BinaryIO) -> None:
        self._read = file.read
        self._left = 0  # bytes of the entry's data not read yet
        self._padding = 0
        self._global: dict[str, bytes] = {}

    def read(self, count: int) -> bytes:
        """At most `count` bytes of the current entry's data; b"" after the last. Raises BadTar if it is cut off."""
        count = min(count, self._left)
        data = self._read(count)
        if len(data) != count:
            raise BadTar("the archive is cut off inside a file")
        self._left -= count
        return data

    def next(self) -> Entry | None:
        """The next entry, or None at the end of the archive (which is then read to the stream's end)."""
        self._skip_data()
        extended: dict[str, bytes] | None = None
        long_name: bytes | None = None
        long_link: bytes | None = None
        while True:
            header = self._read(BLOCK)
            if not header.strip(b"\0"):
                if extended or long_name or long_link or 0 < len(header) < BLOCK:
                    raise BadTar("the archive is cut off inside a header")
                while self._read(1 << 20):
                    pass  # padding; whoever writes to us must not meet a closed pipe
                return None
            if len(header) != BLOCK:
                raise BadTar("the archive is cut off inside a header")
            _check_sum(header)
            kind = chr(header[156])
            if kind in "xXg":
                records = _parse_pax(self._extended(header))
                if kind == "g":
                    self._global.update(records)
                else:
                    extended = records
            elif kind == "L":
                long_name = self._extended(header).split(b"\0", 1)[0]
            elif kind == "K":
                long_link = self._extended(header).split(b"\0", 1)[0]
            elif kind == "V":
                self._left, self._padding = _sized(_number(header, 124, 136))
                self._skip_data()
            else:
                if self._global:
                    extended = {**self._global, **(extended or {})}
                return self._entry(header, kind, extended, long_name, long_link)

    def _entry(
        self,
        header: bytes,
        kind: str,
        extended: dict[str, bytes] | None,
        name: bytes | None,
        link: bytes | None,
    ) -> Entry:
        if name is None:
            name = header[:100].split(b"\0", 1)[0]
            if header[345] and header[257:263] == b"ustar\0":
                name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        if link is None:
            link = header[157:257].split(b"\0", 1)[0]
        uid, gid = _number(header, 108, 116), _number(header, 116, 124)
        size = _number(header, 124, 136)
        seconds = _number(header, 136, 148)
        mtime_ns = max(-SECONDS_MAX, min(seconds, SECONDS_MAX)) * 1_000_000_000
        xattrs: dict[str, bytes] | None = None
        if extended:
            for key, value in extended.items():
                if key == "path":
                    name = value
                elif key == "linkpath":
                    link = value
                elif key == "size":
                    size = _decimal(key, value)
                elif key == "uid":
                    uid = _decimal(key, value)
                elif key == "gid":
                    gid = _decimal(key, value)
                elif key == "mtime":
                    mtime_ns = _nanoseconds(value)
                elif key.startswith("SCHILY.xattr."):
                    xattrs = xattrs or {}
                    xattrs[key[13:]] = value
                elif key.startswith("GNU.sparse."):
                    raise BadTar("sparse files are not supported in layers")
        if kind in "\x007":
            kind = DIRECTORY if kind == "\0" and name.endswith(b"/") else REGULAR
        if kind not in "0123456":
            raise BadTar(
                f"entry of unknown type {kind!r}"
                if kind != "S"
                else "sparse files are not supported in layers"
            )
        if kind != REGULAR:
            size = 0  # POSIX lets links carry data; Go and Python both write and read them without
        if size < 0 or uid < 0 or gid < 0:
            raise BadTar("negative number in a header")
        entry = Entry(
            kind,
            clean(_text(name)),
            _number(header, 100, 108) & 0o7777,
            uid,
            gid,
            size,
            mtime_ns,
            _text(link),
        )
        entry.xattrs = xattrs
        if kind in "34":
            entry.device = (_number(header, 329, 337), _number(header, 337, 345))
            if not 0 <= min(entry.device) <= max(entry.device) <= DEVICE_MAX:
                raise BadTar("a device number that no kernel has")
        self._left, self._padding = _sized(size)
        return entry

    def _extended(self, header: bytes) -> bytes:
        size = _number(header, 124, 136)
        if not 0 <= size <= EXTENDED_BYTES_MAX:
            raise BadTar(f"an extended header claims {size} bytes, more than {EXTENDED_BYTES_MAX}")
        self._left, self._padding = _sized(size)
        data = self.read(size)
        self._skip_data()
        return data

    def _skip_data(self) -> None:
        count = self._left + self._padding
        self._left = self._padding = 0
        while count:
            data = self._read(min(count, 1 << 20))
            if not data:
                raise BadTar("the archive is cut off inside a file")
            count -= len(data)


def _sized(size: int) -> tuple[int, int]:
    if size < 0:
        raise BadTar("negative size in a header")
    return size, -size % BLOCK


def _check_sum(header: bytes) -> None:
    # the field itself counts as eight spaces; signed sums are from the seventies
    digits = header[148:156].strip(b" \0")
    if not digits.isdigit() or sum(header) - sum(header[148:156]) + 256 != _number(header, 148, 156):
        raise BadTar("a header's checksum does not match: not a tar archive, or a damaged one")


def _number(header: bytes, start: int, end: int) -> int:
    field = header[start:end]
    if field[0] & 0x80:  # GNU base-256
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.strip(b" \0").split(b"\0", 1)[0]
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise BadTar(f"bad number {digits[:12]!r} in a header") from None


def _decimal(key: str, value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise BadTar(f"bad {key} {value[:24]!r} in an extended header")
    return int(value)


def _nanoseconds(value: bytes) -> int:
    whole, _, fraction = value.partition(b".")
    negative = whole.startswith(b"-")
    if (
        not (whole[1:] if negative else whole).isdigit()
        or len(whole) > 15
        or (fraction and not fraction.isdigit())
    ):
        raise BadTar(f"bad mtime {value[:24]!r} in an extended header")
    nanoseconds = int(whole) * 1_000_000_000
    part = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    return nanoseconds - part if negative else nanoseconds + part


def _parse_pax(data: bytes) -> dict[str, bytes]:
    """Records `LENGTH KEY=VALUE\\n` of a pax header (POSIX.1-2001, "pax Extended Header")."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        space = data.find(b" ", position, position + 21)
        length = data[position:space] if space > 0 else b""
        end = position + int(length) if length.isdigit() else 0
        equals = data.find(b"=", space, end)
        if equals < 0 or end > len(data) or data[end - 1] != 0x0A:
            raise BadTar("malformed extended header")
        records[_text(data[space + 1 : equals])] = data[equals + 1 : end - 1]
        position = end
    return records


def _text(name: bytes) -> str:
    if b"\0" in name or len(name) > PATH_BYTES_MAX:
        raise BadTar(f"name with a NUL, or longer than {PATH_BYTES_MAX} bytes: {name[:40]!r}…")
    return name.decode("utf-8", "surrogateescape")


def clean(text: str) -> str:
    """A name relative to the root, without empty and `.` parts. Raises: BadTar if it leads out."""
    parts = [part for part in text.split("/") if part and part != "."]
    if ".." in parts:
        raise BadTar(f"path {printable(text)} leads out of the layer")
    return "/".join(parts)


def printable(path: str) -> str:
    """`path` as it may be shown in one line on a terminal: quoted where it holds anything odd."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if text.isprintable() and " " not in text and text else ascii(path)
