"""Bundles on disk: what a container writes, kept under a name with -b, or for as long as the container is known.

<root>/<name>/bundle.json   image and configuration that it was made from, names of its anonymous volumes
<root>/<name>/upper, work   the overlay's
<root>/<name>/lock          held while a container runs in it
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Sequence

import msgspec

from ctnr.bundles.errors import BundleBusy, BundleError
from netconf.decode import UNREADABLE
from supervisor.errors import NotFound
from supervisor.sandbox.sandbox import Sandbox

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")


class BundleFile(msgspec.Struct, frozen=True, kw_only=True):
    """bundle.json. `name` is empty for a container's own, which goes with it."""

    image_id: str
    image: str
    configuration: str  # digest of the options that shaped it
    created: float
    named: bool = False
    volumes: dict[str, str] = {}  # its anonymous volumes, by place


class BundleSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `ctnr bundle list`."""

    name: str
    image: str
    image_id: str
    created: float
    running: bool


class Bundle:
    """An open bundle: its lock is held until `close`."""

    def __init__(self, name: str, directory: str, lock: int) -> None:
        self.name = name
        self.directory = directory
        self._lock: int | None = lock

    @property
    def upper(self) -> str:
        return f"{self.directory}/upper"

    @property
    def work(self) -> str:
        return f"{self.directory}/work"

    @property
    def is_written(self) -> bool:
        """Whether there may be files of a container in it: they can belong to subordinate ids."""
        return any(os.path.exists(path) for path in (self.upper, self.work))

    @property
    def file(self) -> BundleFile | None:
        """None if it was never filled. Raises: OSError."""
        return _read(f"{self.directory}/bundle.json")

    def save(self, file: BundleFile) -> None:
        """Raises: OSError."""
        path = f"{self.directory}/bundle.json"
        with open(f"{path}.new", "wb") as opened:
            opened.write(msgspec.json.encode(file))
        os.replace(f"{path}.new", path)

    def name_volumes(self, places: Sequence[str]) -> dict[str, str]:
        """The names of the anonymous volumes at these places, chosen now where it had none. Raises: OSError."""
        if not places:
            return {}
        file = self.file
        if file is None:
            raise BundleError(f"bundle {self.name}: bundle.json can't be read", cure=f"ctnr rm {self.name}")
        if new := {place: secrets.token_hex(32) for place in places if place not in file.volumes}:
            file = msgspec.structs.replace(file, volumes={**file.volumes, **new})
            self.save(file)
        return {place: file.volumes[place] for place in places}

    def close(self) -> None:
        """Let others have it. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class BundleStore:
    """All bundles of a store, which several processes may use at once."""

    def __init__(self, root: str) -> None:
        self.root = root

    def open(self, name: str) -> Bundle:
        """Take a bundle, made if need be, for oneself. Raises: BundleBusy if a container runs in it, OSError."""
        if not _NAME.fullmatch(name):
            raise BundleError(
                f"bundle name {name!r}: not letters, digits, _ . -", cure="for example -b test"
            )
        directory = f"{self.root}/{name}"
        while True:
            os.makedirs(directory, 0o711, exist_ok=True)
            lock = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # somebody may have removed it between open and lock
                if (
                    os.path.exists(f"{directory}/lock")
                    and os.stat(f"{directory}/lock").st_ino == os.fstat(lock).st_ino
                ):
                    return Bundle(name, directory, lock)
            except BlockingIOError:
                os.close(lock)
                raise BundleBusy(
                    f"bundle {name}: a container runs in it",
                    cure=f"ctnr exec {name} COMMAND, or choose another -b NAME",
                ) from None
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def upper(self, name: str) -> str:
        """What has been written in a bundle, which may not be there."""
        return f"{self.root}/{name}/upper"

    async def empty(self, bundle: Bundle, sandbox: Sandbox) -> None:
        """Forget what was written in it. Its files may belong to subordinate ids, so the sandbox removes them."""
        await sandbox.remove_tree(bundle.upper, bundle.work)

    async def remove(self, bundle: Bundle, sandbox: Sandbox) -> None:
        """Remove an open bundle, and close it, come what may."""
        try:
            await sandbox.remove_tree(bundle.directory)
        finally:
            bundle.close()

    def list(self) -> list[BundleSummary]:
        """Those with a name, sorted."""
        rows = []
        for name in sorted(os.listdir(self.root)) if os.path.isdir(self.root) else []:
            file = self.file(name)
            if file is not None and file.named:
                row = BundleSummary(
                    name=name,
                    image=file.image,
                    image_id=file.image_id,
                    created=file.created,
                    running=self.is_busy(name),
                )
                rows.append(row)
        return rows

    def all(self) -> dict[str, BundleFile]:
        """Every bundle with its file, those of containers too."""
        names = os.listdir(self.root) if os.path.isdir(self.root) else []
        found = {name: self.file(name) for name in names}
        return {name: file for name, file in found.items() if file is not None}

    def file(self, name: str) -> BundleFile | None:
        """None for one that is not there, or was never filled. Raises: OSError."""
        return _read(f"{self.root}/{name}/bundle.json")

    def is_busy(self, name: str) -> bool:
        """Whether a container runs in it."""
        try:
            lock = os.open(f"{self.root}/{name}/lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def get(self, name: str) -> Bundle:
        """As `open`, for one that is there. Raises: NotFound, BundleBusy."""
        if not _NAME.fullmatch(name) or not os.path.exists(f"{self.root}/{name}/lock"):
            raise NotFound(f"no bundle has the name {name}", cure="ctnr bundle list")
        return self.open(name)


def new_file(image_id: str, image: str, configuration: str, *, named: bool) -> BundleFile:
    """bundle.json of a bundle made now."""
    return BundleFile(
        image_id=image_id, image=image, configuration=configuration, created=time.time(), named=named
    )


def _read(path: str) -> BundleFile | None:
    """None if it is not there, or says nothing; one that can't be read now may name volumes. Raises: OSError."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=BundleFile)
    except (FileNotFoundError, NotADirectoryError, *UNREADABLE):
        return None
