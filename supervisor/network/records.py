"""What is remembered of each attachment from before its ADD to after its DEL: config, arguments, result.

One directory per attachment, `ROOT/CONTAINER/IFNAME/`, for whoever needs to look (0700, files 0600). What comes later
to the same interface as a network of its own, such as rules for ports, is a part: `ROOT/CONTAINER/IFNAME+PART/`.

    config.conflist   the network as it was at ADD: CHECK and DEL must use it even if the file has changed since
    attachment.json   container, ifname, netns, CNI_ARGS, capability args, plugin path; makes the record valid
    result.json       the last plugin's answer, byte for byte; not there until ADD has ended well

Nothing is synced to disk: a crash of the machine takes the networks with it, and the record is then worthless.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

import msgspec
import structlog

from netconf.conf import NetworkList
from netconf.decode import decode
from netconf.errors import NetconfError
from netconf.names import check_container_id, check_ifname
from netconf.request import AttachmentArgs
from netconf.result import Result, parse_result

_log = structlog.get_logger()
_CONFIG, _ATTACHMENT, _RESULT = "config.conflist", "attachment.json", "result.json"


Key = tuple[str, str]  # container id and interface: CNI's name of an attachment


class AttachmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`result` is None for an attachment whose ADD has not ended, or failed: it owes a DEL all the same."""

    network: NetworkList
    args: AttachmentArgs
    result: Result | None = None
    part: str = ""

    @property
    def key(self) -> Key:
        return self.args.container_id, self.args.ifname


class Records:
    """The records below one directory, which is made if it is not there."""

    def __init__(self, root: str) -> None:
        self.root = root

    def save(self, record: AttachmentRecord) -> None:
        """Write the record, or what it has become, atomically. Raises: OSError, NetconfError for a bad name."""
        directory = self._directory(record.args.container_id, record.args.ifname, record.part)
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        for made in (os.path.dirname(directory), directory):
            with contextlib.suppress(FileExistsError):
                os.mkdir(made, 0o700)
        attachment = _Attachment(source=record.network.source, args=record.args)
        if record.result is None:
            # An older result must not be taken for this attachment's.
            _unlink(os.path.join(directory, _RESULT))
        else:
            _write(os.path.join(directory, _RESULT), bytes(record.result.raw))
        _write(os.path.join(directory, _CONFIG), bytes(record.network.raw))
        _write(os.path.join(directory, _ATTACHMENT), msgspec.json.encode(attachment))

    def load(self, container_id: str, ifname: str, part: str = "") -> AttachmentRecord | None:
        """The record, None if there is none. Raises: NetconfError if it can't be read."""
        directory = self._directory(container_id, ifname, part)
        raw = _read(os.path.join(directory, _ATTACHMENT))
        if raw is None:
            return None
        path = os.path.join(directory, _ATTACHMENT)
        attachment = decode(raw, _Attachment, file=path)
        if (attachment.args.container_id, attachment.args.ifname) != (container_id, ifname):
            raise NetconfError("is the record of another attachment", file=path)
        network = NetworkList.from_bytes(_read(os.path.join(directory, _CONFIG)) or b"", attachment.source)
        result = _read(os.path.join(directory, _RESULT))
        return AttachmentRecord(
            network=network,
            args=attachment.args,
            part=part,
            result=None if result is None else parse_result(result, source=os.path.join(directory, _RESULT)),
        )

    def list(self, container_id: str | None = None) -> tuple[AttachmentRecord, ...]:
        """All records, or those of one container, sorted; one that can't be read is logged and left out."""
        records = []
        for container, name in self._names(container_id):
            ifname, _, part = name.partition("+")
            try:
                record = self.load(container, ifname, part)
            except (NetconfError, OSError) as exc:
                _log.warning("record_unreadable", container=container, ifname=name, error=str(exc))
                continue
            if record is not None:
                records.append(record)
        return tuple(records)

    def remove(self, container_id: str, ifname: str, part: str = "") -> None:
        """Forget the attachment, as after a DEL; nothing if there is none. Raises: OSError."""
        directory = self._directory(container_id, ifname, part)
        _unlink(os.path.join(directory, _ATTACHMENT))  # first: a half removed record is none
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
        with contextlib.suppress(OSError):  # other attachments of the container are still there
            os.rmdir(os.path.dirname(directory))

    def _directory(self, container_id: str, ifname: str, part: str) -> str:
        name = f"{check_ifname(ifname)}+{check_ifname(part)}" if part else check_ifname(ifname)
        return os.path.join(self.root, check_container_id(container_id), name)

    def _names(self, container_id: str | None) -> Iterator[tuple[str, str]]:
        containers = _entries(self.root) if container_id is None else [check_container_id(container_id)]
        for container in containers:
            for ifname in _entries(os.path.join(self.root, container)):
                yield container, ifname


class _Attachment(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    args: AttachmentArgs


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write(path: str, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")  # 0600
    try:
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        _unlink(temporary)
        raise


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
