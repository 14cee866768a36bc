"""Privileged mode: what plugins made in the current network namespace outlives a crash, and is swept at the next start.

Every supervisor writes the records of its attachments into a directory of its own and holds a lock on it. A directory
whose lock is free belongs to one that died: each attachment in it gets its DEL, then the directory goes.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from supervisor.lock import locked, try_lock
from supervisor.network.garbage import Collected, release
from supervisor.network.records import AttachmentRecord, Records

if TYPE_CHECKING:
    from supervisor.network.attach_plugins import PluginNetworks

# One place for all supervisors of this network namespace's root; /run is cleared by a reboot, as the namespace is.
STATE_DIR = "/run/ctnr"
JOURNAL_DIR = f"{STATE_DIR}/journal"
LEASE_DIR = f"{STATE_DIR}/leases"


class Journal:
    """The records of one supervisor. `lock` is a descriptor of what all of them lock: see Turns."""

    def __init__(self, directory: str, lock: int) -> None:
        self.directory = directory
        self.lock = lock

    async def sweep(self, networks: PluginNetworks) -> list[Collected]:
        """Undo what supervisors that died have left. What can't be undone is logged, and tried again next time."""
        swept: list[Collected] = []
        for name in os.listdir(JOURNAL_DIR):
            path = os.path.join(JOURNAL_DIR, name)
            lock = _try_lock_settled(path)
            if lock is None:
                continue
            try:
                records = Records(path)
                swept += [await release(networks, records, record) for record in records.list()]
                if not records.list():
                    shutil.rmtree(
                        path, ignore_errors=True
                    )  # its owner may be at it, who has given up the lock
            finally:
                os.close(lock)
        return swept

    def of_others(self) -> list[AttachmentRecord]:
        """What is on record of supervisors that live."""
        found: list[AttachmentRecord] = []
        for name in os.listdir(JOURNAL_DIR):
            path = os.path.join(JOURNAL_DIR, name)
            lock = _try_lock_settled(path)
            if lock is not None:
                os.close(lock)
            elif path != self.directory:
                found += Records(path).list()
        return found


@contextmanager
def open_journal() -> Iterator[Journal]:
    """A journal of one's own for as long as the block lasts; the last one clears away what they share."""
    path = os.path.join(JOURNAL_DIR, secrets.token_hex(8))
    with ExitStack() as undo:
        undo.callback(_clear_state)
        with _state_locked():
            undo.callback(_remove_if_empty, path)
            os.makedirs(path, 0o700)
            lock = try_lock(path)
            assert lock is not None
            undo.callback(os.close, lock)
        shared = os.open(JOURNAL_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, shared)
        yield Journal(path, shared)


def _try_lock_settled(path: str) -> int | None:
    """As `try_lock`, but never of one that is being made, whose maker has not locked it yet. Raises: OSError."""
    with _state_locked():
        return try_lock(path)


def _remove_if_empty(path: str) -> None:
    """Unless something is on record there: then it is the next start's."""
    if not Records(path).list():
        shutil.rmtree(path, ignore_errors=True)


def _clear_state() -> None:
    """The last one takes away what all shared; tried twice, as every undo is.

    Nothing fails for it: whoever comes next is the last one again.
    """
    for _ in range(2):
        with suppress(OSError):
            with _state_locked():
                if os.path.isdir(JOURNAL_DIR) and not os.listdir(JOURNAL_DIR):
                    shutil.rmtree(JOURNAL_DIR)
                    shutil.rmtree(LEASE_DIR, ignore_errors=True)
                with suppress(OSError):
                    os.rmdir(STATE_DIR)  # unless it is the service's runtime directory too
            break


@contextmanager
def _state_locked() -> Iterator[None]:
    with ExitStack() as held:
        while not _lock_state(held):
            pass
        yield


def _lock_state(held: ExitStack) -> bool:
    """False if the last one has taken the directory away before we had its lock. Raises: OSError."""
    with suppress(FileExistsError):
        os.mkdir(STATE_DIR, 0o700)
    with ExitStack() as lock, suppress(FileNotFoundError):
        descriptor = lock.enter_context(locked(STATE_DIR))
        if os.path.samestat(os.fstat(descriptor), os.stat(STATE_DIR)):
            held.push(lock.pop_all())
            return True
    return False
