"""What is remembered of containers beyond their life: one directory each, `<store>/containers/<id>/`.

A record says what was asked and how it ended. Whether a container runs is never read from here: the supervisor knows.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from contextlib import suppress

import msgspec

from ctnr.requests import Run
from netconf.decode import UNREADABLE
from supervisor.errors import NameInUse, NotFound, SupervisorError
from supervisor.lock import locked


class Record(msgspec.Struct, kw_only=True):
    """A container as asked for. Times are Unix seconds."""

    id: str
    name: str
    owner: str  # whose service: stores are shared with nested containers
    image: str
    image_id: str
    command: tuple[str, ...] = ()
    created: float
    started: float | None = None
    finished: float | None = None
    status: int | None = None
    error: str | None = None
    oom_killed: bool = False
    log_lost: str | None = None  # why its log is not whole
    wanted: bool = False  # to run whenever the service does: its policy lasts, and nobody has stopped it
    restarts: int = 0  # how often its policy had started it again, when it last ended
    bundle: str = ""
    request: Run

    @property
    def last_status(self) -> int | None:
        """How it last ended; None if it never ran. One whose service died untold was killed together with it."""
        return 137 if self.status is None and self.started is not None else self.status


def labels_of(record: Record) -> dict[str, str]:
    """What its events tell of it, as docker's do: its image and its labels."""
    return {"image": record.image, **parse_labels(record.request.labels)}


def parse_labels(labels: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` in order; later ones win."""
    return dict(label.partition("=")[::2] for label in labels)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


class Records:
    """The records of one service (`owner`) in a store that others may share."""

    def __init__(self, root: str, owner: str) -> None:
        self._root = root
        self.owner = owner
        self._records: dict[str, Record] | None = None

    def all(self) -> list[Record]:
        """Newest first."""
        return sorted(self._load().values(), key=lambda record: record.created, reverse=True)

    def new(self, name: str | None, **fields: object) -> Record:
        """A record with a fresh id, on disk. Raises: NameInUse, OSError."""
        known = self._load()
        taken = {record.name: record for record in known.values()}
        if name is None:
            name = next(one for one in iter(_random_name, "") if one not in taken)
        elif name in taken:
            raise NameInUse(
                f"the name {name} is in use by container {taken[name].id[:12]}",
                cure=f"choose another --name, or: ctnr rm -f {name}",
            )
        record = Record(id=secrets.token_hex(32), name=name, owner=self.owner, created=time.time(), **fields)  # type: ignore[arg-type]
        record.bundle = record.bundle or record.id
        known[record.id] = record
        try:
            os.makedirs(self._root, 0o700, exist_ok=True)
            with locked(self._root):  # see _remove_bare
                os.mkdir(self.directory(record), 0o700)
                self.save(record)
        except BaseException:
            self.remove(record)
            raise
        return record

    def rename(self, record: Record, name: str) -> None:
        """Raises: NameInUse, OSError."""
        taken = self.named(name)
        if taken is not None:
            raise NameInUse(f"the name {name} is in use by container {taken.id[:12]}", cure="choose another")
        before, record.name = record.name, name
        try:
            self.save(record)
        except OSError:
            record.name = before
            raise

    def save(self, record: Record) -> None:
        """Write it; readers see the old one or the new one, never half of it. Raises: OSError."""
        path = f"{self.directory(record)}/container.json"
        try:
            with open(f"{path}.new", "wb") as file:
                file.write(_encode(record))
        except OSError as exc:  # a full disk is told without the file's name
            raise OSError(exc.errno, exc.strerror, path) from None
        os.replace(f"{path}.new", path)

    def remove(self, record: Record) -> None:
        self._load().pop(record.id, None)
        with suppress(FileNotFoundError):
            os.unlink(f"{self.directory(record)}/container.json")  # first: a half removed record is none
        shutil.rmtree(self.directory(record), ignore_errors=True)

    def directory(self, record: Record) -> str:
        return f"{self._root}/{record.id}"

    def log_path(self, record: Record) -> str:
        return f"{self.directory(record)}/container.log"

    def named(self, name: str) -> Record | None:
        """The one with exactly that name."""
        return next((record for record in self._load().values() if record.name == name), None)

    def find(self, name_or_id: str) -> Record | None:
        """By name, id, or a prefix of the id. Raises: SupervisorError if the prefix fits several."""
        known = self._load()
        for record in known.values():
            if name_or_id in (record.name, record.id):
                return record
        found = [record for record in known.values() if name_or_id and record.id.startswith(name_or_id)]
        if len(found) > 1:
            raise SupervisorError(
                f"{name_or_id} is the beginning of {len(found)} ids",
                cure="give more of the id, or the name: ctnr ps -a",
            )
        return found[0] if found else None

    def get(self, name_or_id: str) -> Record:
        """As `find`. Raises: NotFound."""
        record = self.find(name_or_id)
        if record is None:
            raise NotFound(f"no container has the name or id {name_or_id}", cure="ctnr ps -a lists them")
        return record

    def of_host(self, hostname: str) -> list[Record]:
        """What services on a host of that name have written here: a container that shares the store is such a host."""
        return [record for record in self._strangers() if record.owner.partition(":")[0] == hostname]

    def everybody(self) -> list[Record]:
        """All, also those of other services on this store."""
        return [*self._load().values(), *self._strangers()]

    def bundles(self) -> set[str]:
        """Names of the bundles that a container has, also those of other services' containers."""
        return {record.bundle for record in self.everybody()}

    def _strangers(self) -> list[Record]:
        strangers = set(os.listdir(self._root) if os.path.isdir(self._root) else ()) - self._load().keys()
        return [record for name in strangers if (record := _read(f"{self._root}/{name}/container.json"))]

    def _load(self) -> dict[str, Record]:
        # Read once: only this service writes its records.
        if self._records is None:
            self._records = {}
            if os.path.isdir(self._root):
                for name in os.listdir(self._root):
                    record = _read(f"{self._root}/{name}/container.json")
                    if record is not None and record.owner == self.owner:
                        self._records[record.id] = record
                self._remove_bare()
        return self._records

    def _remove_bare(self) -> None:
        """Remove directories without a record: whoever was making or removing them, on whichever service, was killed.

        A service that is about to write a record holds the lock.
        """
        bare = [name for name in os.listdir(self._root) if _is_bare(f"{self._root}/{name}")]
        if bare:
            with suppress(OSError), locked(self._root):
                for name in bare:
                    if _is_bare(f"{self._root}/{name}"):
                        shutil.rmtree(f"{self._root}/{name}", ignore_errors=True)


def _is_bare(directory: str) -> bool:
    try:
        return "container.json" not in os.listdir(directory)
    except OSError:
        return False  # gone, no directory, or another user's


def _read(path: str) -> Record | None:
    try:
        with open(path, "rb") as file:
            return _decode(file.read())
    except (OSError, *UNREADABLE):
        return None  # another version's, or another user's


def _random_name() -> str:
    return f"{secrets.choice(_LEFT)}_{secrets.choice(_RIGHT)}_{secrets.randbelow(1000)}"


_LEFT = (
    "amber",
    "brave",
    "calm",
    "deft",
    "eager",
    "fair",
    "glad",
    "keen",
    "lucid",
    "merry",
    "neat",
    "quick",
    "sunny",
)
_RIGHT = (
    "ash",
    "birch",
    "cedar",
    "elm",
    "fir",
    "hazel",
    "larch",
    "maple",
    "oak",
    "pine",
    "rowan",
    "spruce",
    "willow",
)
