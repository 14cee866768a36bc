"""The files of an image store: blobs, records of images, names. Each is written beside its place and renamed."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote, unquote

import msgspec
import trio

from ctnr.images.locks import SUFFIX, claim
from ctnr.images.manifest import BrokenImage, Descriptor
from ctnr.images.reference import ReferenceError
from netconf.decode import UNREADABLE
from supervisor.sandbox.syscalls import syncfs

NAME_BYTES_MAX = 255  # of a file name


class ImageFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`images/<id>.json`; <id> is the hex digest of the configuration. Digests are hex, layers bottom first."""

    id: str
    manifest: str
    media_type: str = ""
    source_digest: str = ""  # of what the reference named: the manifest as it was there, or an index
    platform: str = ""
    created: str | None = None
    added: float = 0.0
    size_bytes: int = 0
    diff_ids: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()  # names in the LayerStore, as far as they can be seen


class Catalog:
    """Blocking, but each call takes well under a millisecond: small files, no locks."""

    def __init__(self, root: str) -> None:
        self.root = root

    # Blobs

    @property
    def blob_dir(self) -> str:
        return f"{self.root}/blobs/sha256"

    def blob(self, digest: str) -> str:
        return f"{self.blob_dir}/{digest}"

    def read_blob(self, digest: str) -> bytes:
        """Raises: BrokenImage if it is not what it was, OSError."""
        with open(self.blob(digest), "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != digest:
            raise BrokenImage(
                f"blob {digest[:12]}: its content does not match its digest",
                cure="ctnr image gc, then pull again",
            )
        return data

    def write_blob(self, data: bytes, media_type: str) -> Descriptor:
        digest = hashlib.sha256(data).hexdigest()
        if not os.path.exists(self.blob(digest)):
            write_atomically(self.blob(digest), data)
        return Descriptor(media_type=media_type, digest=f"sha256:{digest}", size=len(data))

    # Images

    def image_files(self) -> Iterator[ImageFile]:
        for name in names_in(f"{self.root}/images"):
            if name.endswith(".json") and (file := self.image_file(name[:-5])) is not None:
                yield file

    def image_file(self, image_id: str) -> ImageFile | None:
        """None if it is not there, or not what it should be. Raises: OSError; what can't be read may well be there."""
        with (
            suppress(FileNotFoundError, *UNREADABLE),
            open(self._image_path(image_id), "rb") as file,
        ):
            return msgspec.json.decode(file.read(), type=ImageFile)
        return None

    def write_image(self, file: ImageFile) -> None:
        write_atomically(self._image_path(file.id), msgspec.json.encode(file), durable=True)

    def remove_image(self, image_id: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._image_path(image_id))

    def _image_path(self, image_id: str) -> str:
        return f"{self.root}/images/{image_id}.json"

    # Names

    def names(self) -> dict[str, str]:
        """All names with the ids that they stand for. Raises: OSError."""
        found = {}
        for entry in names_in(f"{self.root}/names"):
            if not entry.startswith(".new-"):
                with suppress(FileNotFoundError), open(f"{self.root}/names/{entry}") as file:
                    found[unquote(entry)] = file.read().strip()
        return found

    def named(self, name: str) -> str | None:
        """The id that one name stands for. Raises: OSError."""
        try:
            with open(self._name_path(name)) as file:
                return file.read().strip()
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise
        return None

    def named_at(self, name: str) -> float:
        """When a name was last given, in Unix seconds; 0 if it is not there."""
        with suppress(OSError):
            return os.stat(self._name_path(name)).st_mtime
        return 0.0

    def write_name(self, name: str, image_id: str) -> None:
        """Raises: ReferenceError if it is too long for a file, OSError."""
        if len(quote(name, safe="")) > NAME_BYTES_MAX:
            raise ReferenceError(
                f"image name {name[:60]}…: too long for a file name", cure="give it a shorter one"
            )
        write_atomically(self._name_path(name), image_id.encode(), durable=True)

    def remove_name(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._name_path(name))

    def _name_path(self, name: str) -> str:
        return f"{self.root}/names/{quote(name, safe='')}"


async def settle(directory: str) -> None:
    """Until what was written on its file system is on the disk; what then gets its name has its content, even if the
    power goes. Raises: OSError, also for what the disk has refused since the last time.
    """
    await trio.to_thread.run_sync(_sync, directory, abandon_on_cancel=True)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: str, data: bytes, *, durable: bool = False) -> None:
    """With `durable` its content is on the disk before it has its name. Raises: OSError."""
    directory = os.path.dirname(path)
    os.makedirs(directory, 0o711, exist_ok=True)
    with claim(directory) as temporary:
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.rename(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def names_in(directory: str) -> list[str]:
    """What is in a directory; nothing if it is not there. Lock files are no content."""
    try:
        return [name for name in os.listdir(directory) if not name.endswith(SUFFIX)]
    except FileNotFoundError:
        return []
