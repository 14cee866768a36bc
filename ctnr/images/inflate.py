"""Blobs as uncompressed streams, with both digests taken on the way: in a thread, by libraries that drop the GIL."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import trio
import zstandard
from isal import isal_zlib

from ctnr.images.manifest import BrokenImage, Descriptor

CHUNK_BYTES = 1 << 20
GZIP_BYTES = 1 << 17  # a bomb makes at most a thousand times as much of it at once
ZSTD_WINDOW_BYTES = 1 << 27
STREAM_BYTES_MAX = 300 << 30

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_MADE_WRONGLY = "the image was made wrongly or changed: ask who built it"


class Feed:
    """Decompresses a blob into a pipe. `error` tells afterwards what was wrong with it."""

    def __init__(self, blob: str, writer: int, layer: Descriptor, diff_id: str) -> None:
        self.error: BrokenImage | None = None
        self._blob, self._writer, self._layer, self._diff_id = blob, writer, layer, diff_id
        self._source: HashingReader | None = None

    @property
    def done_bytes(self) -> int:
        """How much of the blob was read so far."""
        return self._source.size if self._source is not None else 0

    async def run(self) -> None:
        """Until all is written, or nobody reads any more; then the pipe is closed.

        Not cancellable: close the reading end for that. Raises: OSError.
        """
        with trio.CancelScope(shield=True):  # also at its beginning: it is the thread that closes the pipe
            await trio.to_thread.run_sync(self._run)

    def _run(self) -> None:
        try:
            self._feed()
        except BrokenImage as exc:
            self.error = exc
        finally:
            os.close(self._writer)

    def _feed(self) -> None:
        name, unpacked, count = f"layer {self._layer.hex[:12]}", hashlib.sha256(), 0
        with open(self._blob, "rb") as file:
            source = self._source = HashingReader(file)
            try:
                for chunk in decompressed(source):
                    unpacked.update(chunk)
                    count += len(chunk)
                    if count > STREAM_BYTES_MAX:
                        raise BrokenImage(f"{name}: unpacks to more than {STREAM_BYTES_MAX >> 30} GiB")
                    _write_all(self._writer, chunk)
            except BrokenPipeError:
                return  # the extractor has given up, and says why
            except (EOFError, ValueError, zlib.error, zstandard.ZstdError) as exc:
                source.drain()
                self._check_blob(name, source)  # if it is another blob, that is what to say
                raise BrokenImage(f"{name}: can't be decompressed: {exc}", cure=_MADE_WRONGLY) from None
            source.drain()
        self._check_blob(name, source)
        if unpacked.hexdigest() != self._diff_id:
            raise BrokenImage(
                f"{name}: unpacked it is {unpacked.hexdigest()[:12]}, and the image says {self._diff_id[:12]}",
                cure=_MADE_WRONGLY,
            )

    def _check_blob(self, name: str, source: HashingReader) -> None:
        if (source.hexdigest, source.size) != (self._layer.hex, self._layer.size):
            raise BrokenImage(
                f"{name}: its content does not match its digest and size", cure="pull it again"
            )


class HashingReader:
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(CHUNK_BYTES if count < 0 else count)
        self._hash.update(data)
        self.size += len(data)
        return data

    def peek(self, count: int) -> bytes:
        """The first bytes; only before anything was read."""
        data = self._file.read(count)
        self._file.seek(0)
        return data

    def drain(self) -> None:
        while self.read(CHUNK_BYTES):
            pass


def compression_of(magic: bytes) -> str:
    """ "gzip", "zstd" or "" by the first four bytes, whatever a media type says. Raises: ValueError for others."""
    if magic[:2] == GZIP_MAGIC:
        return "gzip"
    if magic[:4] == ZSTD_MAGIC or (
        magic[1:4] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50
    ):  # or a skippable frame
        return "zstd"
    if magic[:3] == b"BZh" or magic[:4] == b"\xfd7zX":
        raise ValueError("bzip2 and xz are not for layers: gzip, zstd or nothing")
    return ""


def decompressed(source: HashingReader) -> Iterator[bytes]:
    """The tar stream in a blob, in chunks; several gzip members or zstd frames are one stream.

    Raises: EOFError, ValueError, zlib.error, zstandard.ZstdError.
    """
    compression = compression_of(source.peek(4))
    if compression == "gzip":
        yield from _gunzip(source)
        return
    if compression == "zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
        reader: Any = decompressor.stream_reader(
            cast(BinaryIO, source), read_across_frames=True, closefd=False
        )
    else:
        reader = source
    while chunk := reader.read(CHUNK_BYTES):
        yield chunk


def _gunzip(source: HashingReader) -> Iterator[bytes]:
    inflater: Any = isal_zlib.decompressobj(31)
    while pending := source.read(GZIP_BYTES):
        while pending:
            if inflater.eof:  # the next member, or padding
                if not pending.strip(b"\0"):
                    break
                inflater = isal_zlib.decompressobj(31)
            chunk = inflater.decompress(pending)
            pending = inflater.unused_data if inflater.eof else b""
            if chunk:
                yield chunk
    if not inflater.eof:
        raise EOFError("it ends too early")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
