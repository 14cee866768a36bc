"""Privileged mode: what plugins made in the current network namespace outlives a crash, and is swept at the next start.

Every supervisor writes the records of its attachments into a directory of its own and holds a lock on it. A directory
whose lock is free belongs to one that died: each attachment in it gets its DEL, then the directory goes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
import structlog

from supervisor.network.records import AttachmentRecord, Records
from supervisor.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    from supervisor.network.attach import Networks

log = structlog.get_logger()

# One place for all supervisors of this network namespace's root; /run is cleared by a reboot, as the namespace is.
STATE_DIR = "/run/ctnr"
JOURNAL_DIR = f"{STATE_DIR}/journal"
LEASE_DIR = f"{STATE_DIR}/leases"


class Journal:
    """The records of one supervisor."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    async def sweep(self, sandbox: Sandbox, networks: Networks) -> None:
        """Undo what supervisors that died have left. What can't be undone is logged and tried again next time."""
        for name in os.listdir(JOURNAL_DIR):
            path = os.path.join(JOURNAL_DIR, name)
            lock = _try_lock(path)
            if lock is None:
                continue
            try:
                left = 0
                for record in Records(path).list():
                    left += not await _delete(record, sandbox, networks)
                    Records(path).remove(record.args.container_id, record.args.ifname)
                shutil.rmtree(path)
            finally:
                os.close(lock)


async def _delete(record: AttachmentRecord, sandbox: Sandbox, networks: Networks) -> bool:
    """DEL for an attachment whose container and netns are gone.

    bridge and ptp look up the addresses, whose iptables rules they remove, on the interface in the netns: so they get
    a netns with such an interface.
    """
    netns = f"{sandbox.run_dir}/netns/sweep"
    args = msgspec.structs.replace(record.args, netns=netns)
    try:
        await sandbox.new_netns(netns, tap=args.ifname)
        for ip in record.result.container_ips() if record.result is not None else ():
            await sandbox.run(["ip", "address", "add", ip.address, "dev", args.ifname], netns=netns)
        await networks.plugins.runner.del_network(record.network, args, record.result)
        await networks.plugins.remove_unused_bridge(record)
    except Exception as exc:
        log.warning("sweep_failed", network=record.network.name, container=args.container_id, error=str(exc))
        return False
    finally:
        await sandbox.delete_netns(netns)
    log.info("attachment_swept", network=record.network.name, container=args.container_id)
    return True


@contextmanager
def open_journal() -> Iterator[Journal]:
    """A journal of one's own for as long as the block lasts; the last one clears away what they share."""
    path = os.path.join(JOURNAL_DIR, secrets.token_hex(8))
    with _state_locked():
        os.makedirs(path, 0o700)
        lock = _try_lock(path)
    assert lock is not None
    try:
        yield Journal(path)
    finally:
        with _state_locked():
            if not Records(path).list():
                shutil.rmtree(path, ignore_errors=True)
            if not os.listdir(JOURNAL_DIR):
                shutil.rmtree(JOURNAL_DIR)
                shutil.rmtree(LEASE_DIR, ignore_errors=True)
        os.close(lock)
        with suppress(OSError):
            os.rmdir(STATE_DIR)  # unless it is the service's runtime directory too


@contextmanager
def _state_locked() -> Iterator[None]:
    os.makedirs(STATE_DIR, 0o700, exist_ok=True)
    descriptor = os.open(STATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _try_lock(path: str) -> int | None:
    """An exclusive lock on a directory; None if another process has it, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
