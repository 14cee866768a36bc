"""Volumes on disk: what containers share or keep. Named ones are anybody's; anonymous ones belong to a bundle.

<root>/<name>/_data         what is mounted; its files may belong to subordinate ids
<root>/<name>/volume.json   its labels, and when it was made
<root>/.new-…               being made or removed; whose maker has died goes with the next sweep

Who has a volume stands in the containers' records and in the bundles. Volumes are made and taken away under a lock on
the root, and a container's record is written before its volumes are made: so none is taken that is about to be used.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from ctnr.bundles.build import wishes_of
from ctnr.bundles.errors import BundleError
from ctnr.bundles.mounts import VOLUME_NAME, Wish, unnamed_places
from ctnr.bundles.store import Bundle, BundleStore
from ctnr.images.locks import SUFFIX, claim, dead_claims
from ctnr.records import Record, Records
from netconf.decode import UNREADABLE
from supervisor.errors import NotFound, SupervisorError
from supervisor.lock import locked
from supervisor.sandbox.sandbox import Sandbox

OpenSandbox = Callable[[], Awaitable[Sandbox]]


class VolumeInUse(SupervisorError):
    """A container, running or not, or a bundle has it. `users` are those."""

    def __init__(self, name: str, users: Sequence[User]) -> None:
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        if records := [user.record for user in users if user.record is not None]:
            cure = f"ctnr rm {records[0].name}, or: ctnr volume rm -f {name}"
        else:
            cure = f"ctnr bundle delete {users[0].name}"
        super().__init__(f"volume {name}: in use by {users[0].what}{more}", cure=cure)
        self.users = users


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a volume: a container, with its record, or a named bundle without one."""

    name: str
    record: Record | None

    @property
    def what(self) -> str:
        return f"{'bundle' if self.record is None else 'container'} {self.name}"


class VolumeFile(msgspec.Struct, frozen=True, kw_only=True):
    """volume.json. Times are Unix seconds."""

    created: float
    labels: dict[str, str] = {}
    anonymous: bool = False  # made without a name: mostly for a container that told only a place


class VolumeStore:
    """All volumes of a store, which several processes may use at once."""

    def __init__(self, root: str, records: Records, bundles: BundleStore) -> None:
        self.root = root
        self._records = records
        self._bundles = bundles

    def path(self, name: str) -> str:
        """What is mounted of it."""
        return f"{self.root}/{name}/_data"

    def all(self) -> dict[str, VolumeFile]:
        """By name, sorted."""
        names = sorted(os.listdir(self.root)) if os.path.isdir(self.root) else []
        found = {name: self._read(name) for name in names if VOLUME_NAME.fullmatch(name)}
        return {name: file for name, file in found.items() if file is not None}

    def find(self, text: str) -> str | None:
        """The name of the volume that has this one, or the only anonymous one whose name begins so."""
        if VOLUME_NAME.fullmatch(text) and os.path.isdir(f"{self.root}/{text}"):
            return text
        known = self.all() if text else {}
        found = [name for name, file in known.items() if file.anonymous and name.startswith(text)]
        return found[0] if len(found) == 1 else None

    def get(self, text: str) -> tuple[str, VolumeFile]:
        """Raises: NotFound."""
        name = self.find(text)
        file = self._read(name) if name is not None else None
        if name is None or file is None:
            raise NotFound(f"no volume has the name {text}", cure="ctnr volume ls lists them")
        return name, file

    def create(self, name: str | None, labels: Mapping[str, str], *, ignore: bool = False) -> str:
        """Make one, under a random name if need be; with `ignore` one that exists is fine. Returns its name.

        Raises: BundleError for what is no name, SupervisorError if it exists, OSError.
        """
        file = VolumeFile(created=time.time(), labels=dict(labels), anonymous=name is None)
        name = secrets.token_hex(32) if name is None else name
        if not VOLUME_NAME.fullmatch(name):
            raise BundleError(
                f"volume name {name!r}: not letters, digits, _ . -, beginning with a letter or digit",
                cure="for example: ctnr volume create data",
            )
        if not self._make(name, file) and not ignore:
            raise SupervisorError(
                f"volume {name}: it exists already", cure="choose another name, or --ignore"
            )
        return name

    def ensure(self, name: str, *, anonymous: bool = False) -> None:
        """Make it unless it is there. Raises: OSError."""
        if not os.path.isdir(self.path(name)):
            self._make(name, VolumeFile(created=time.time(), anonymous=anonymous))

    def provide(self, bundle: Bundle, wishes: Sequence[Wish]) -> None:
        """The volumes that a container wishes, made now; its record is on disk. Raises: OSError."""
        anonymous = bundle.name_volumes(unnamed_places(wishes))
        try:
            for wish in wishes:
                if wish.kind == "volume":
                    self.ensure(wish.source or anonymous[wish.target], anonymous=not wish.source)
        except OSError:
            for name in anonymous.values():
                _remove_empty(f"{self.root}/{name}")
            raise

    def users(self) -> dict[str, list[User]]:
        """Who has which volume, those of other services on this store too."""
        found: dict[str, list[User]] = {}
        owned = {name: file.volumes for name, file in self._bundles.all().items()}
        for record in self._records.everybody():
            user = User(name=record.name, record=record)
            for name in (*_named_by(record), *owned.pop(record.bundle, {}).values()):
                found.setdefault(name, []).append(user)
        for bundle, volumes in owned.items():
            for name in volumes.values():
                found.setdefault(name, []).append(User(name=bundle, record=None))
        return found

    async def remove(self, name: str, *, sandbox: OpenSandbox) -> None:
        """Raises: NotFound, VolumeInUse, SandboxError, OSError."""

        def check() -> None:
            if users := self.users().get(name):
                raise VolumeInUse(name, users)

        await self._remove(name, check, sandbox)

    async def drop(self, bundle: Bundle, *, sandbox: OpenSandbox) -> None:
        """Remove the anonymous volumes of a bundle, but none that a container has by its name.

        Raises: SandboxError, OSError.
        """
        file = bundle.file
        for name in file.volumes.values() if file is not None else ():

            def check(name: str = name) -> None:
                users = [one for one in self._records.everybody() if name in _named_by(one)]
                if users:
                    raise VolumeInUse(name, [User(name=one.name, record=one) for one in users])

            with suppress(NotFound, VolumeInUse):
                await self._remove(name, check, sandbox)

    async def _remove(self, name: str, check: Callable[[], None], sandbox: OpenSandbox) -> None:
        with ExitStack() as stack:
            with self._locked():
                if not os.path.isdir(f"{self.root}/{name}"):
                    raise NotFound(f"no volume has the name {name}", cure="ctnr volume ls lists them")
                check()
                aside = stack.enter_context(claim(self.root))
                os.rename(f"{self.root}/{name}", aside)  # from here on nobody finds it
            if not _remove_empty(aside):
                await (await sandbox()).remove_tree(aside)

    async def sweep(self, *, sandbox: OpenSandbox) -> None:
        """Remove what was being made or removed when its process died. Raises: SandboxError, OSError."""
        for path in dead_claims(self.root):
            if os.path.lexists(path) and not _remove_empty(path):
                await (await sandbox()).remove_tree(path)
            with suppress(FileNotFoundError):
                os.unlink(path + SUFFIX)

    def _make(self, name: str, file: VolumeFile) -> bool:
        """False if it was there, and whole. Raises: OSError."""
        with self._locked():
            if os.path.isdir(f"{self.root}/{name}"):
                is_whole = os.path.isdir(self.path(name))
                os.makedirs(self.path(name), exist_ok=True)
                return not is_whole
            with claim(self.root) as new:
                try:
                    os.mkdir(new, 0o711)
                    os.mkdir(f"{new}/_data")
                    os.chmod(
                        f"{new}/_data", 0o755
                    )  # whatever the umask: users of a container have to get in
                    with open(f"{new}/volume.json", "wb") as opened:
                        opened.write(msgspec.json.encode(file))
                    os.rename(new, f"{self.root}/{name}")
                except BaseException:
                    shutil.rmtree(new, ignore_errors=True)
                    raise
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        os.makedirs(os.path.dirname(self.root), 0o700, exist_ok=True)
        os.makedirs(self.root, 0o711, exist_ok=True)
        with locked(self.root):
            yield

    def _read(self, name: str) -> VolumeFile | None:
        """None if there is no such volume. One that a store of an older version has counts, too."""
        directory = f"{self.root}/{name}"
        try:
            with open(f"{directory}/volume.json", "rb") as opened:
                return msgspec.json.decode(opened.read(), type=VolumeFile)
        except (OSError, *UNREADABLE):
            with suppress(OSError):
                return VolumeFile(created=os.stat(directory).st_ctime)
        return None


def _named_by(record: Record) -> set[str]:
    """The volumes that a container has by name."""
    if not record.request.volumes and not record.request.mounts:
        return set()
    try:
        return {wish.source for wish in wishes_of(record.request) if wish.kind == "volume" and wish.source}
    except BundleError:
        return set()  # another version's


def _remove_empty(directory: str) -> bool:
    """Remove a volume's directory if nothing is in it; that needs no sandbox."""
    try:
        with suppress(FileNotFoundError):
            os.rmdir(f"{directory}/_data")
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/volume.json")
        os.rmdir(directory)
    except OSError:
        return False
    return True
