"""A root filesystem (directory or tar) as the blob of one layer: the same content gives the same digest."""

from __future__ import annotations

import hashlib
import os
import zlib

import trio
import zstandard

from ctnr.images.inflate import HashingReader, compression_of, decompressed
from ctnr.images.manifest import LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, Descriptor
from supervisor.errors import SupervisorError
from supervisor.sandbox.sandbox import Sandbox, python_argv

_CURE = "give a directory, a tar file, or - for stdin"


async def write_layer(source: str | int, path: str, sandbox: Sandbox) -> tuple[Descriptor, str]:
    """Write the blob of a layer to `path`: its descriptor, and its diff id in hex.

    `source` is a directory, a tar file (also compressed; kept as it comes), or a descriptor of one, read to its end.
    Raises: SupervisorError, OSError.
    """
    if isinstance(source, str) and not os.path.exists(source):
        raise SupervisorError(f"{source}: no such file or directory", cure=_CURE)
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        # by a program also where it only copies: what comes through a pipe may never come, and a program can be ended
        if isinstance(source, str) and os.path.isdir(source):
            done = await sandbox.run(python_argv("ctnr.images.pack", source), stdout=target)
        elif isinstance(source, str):
            done = await sandbox.run(["cat", "--", source], stdout=target)
        else:
            done = await sandbox.run(["cat"], stdin=source, stdout=target)
    finally:
        os.close(target)
    if done.status:
        if "No space left" in done.last_line():
            raise OSError(28, "no space left", path)
        raise SupervisorError(f"import: {done.last_line()}", cure=_CURE)
    return await trio.to_thread.run_sync(_describe, path)


def _describe(path: str) -> tuple[Descriptor, str]:
    unpacked, count = hashlib.sha256(), 0
    with open(path, "rb") as file:
        source = HashingReader(file)
        try:
            kind = compression_of(source.peek(4))
            for chunk in decompressed(source):
                unpacked.update(chunk)
                count += len(chunk)
            source.drain()
        except (EOFError, ValueError, zlib.error, zstandard.ZstdError) as exc:
            raise SupervisorError(f"import: the archive can't be decompressed: {exc}", cure=_CURE) from None
    if not count:
        raise SupervisorError("import: the archive is empty", cure=_CURE)
    media_type = {"gzip": LAYER_GZIP, "zstd": LAYER_ZSTD}.get(kind, LAYER_TAR)
    digest = f"sha256:{source.hexdigest}"
    return Descriptor(media_type=media_type, digest=digest, size=source.size), unpacked.hexdigest()
