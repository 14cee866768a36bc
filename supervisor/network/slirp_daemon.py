"""slirp4netns without a supervisor: a daemon per attachment and the record by which a later program finds
it.

For the CNI plugin executable, which is a new process for every command; standard library and msgspec, no
trio, one thread. A record lies in a directory of the user's own (0700) and names boot id, pid, start time
and netns: after a reboot, or if the pid belongs to another process by now, it counts as ended. It is written
before the process is started, and the process can be found by the record's id in its command line, so that a
plugin that is killed in between leaves nothing that DEL can't end.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from netconf.decode import UNREADABLE
from supervisor.errors import SlirpError
from supervisor.network.slirp_conf import (
    Program,
    SlirpOptions,
    bounded_memfd,
    build_argv,
    explain_death,
    find_program,
    read_memfd,
    sandbox_may_work,
    tidy,
)

READY_SECONDS = 10.0
TERM_SECONDS, KILL_SECONDS = 1.0, 5.0


class Record(msgspec.Struct, kw_only=True):
    """One attachment's slirp4netns. `pid` is 0 until it is ready."""

    network: str
    container: str
    ifname: str
    boot: str
    pid: int = 0
    start: int = 0  # clock ticks after boot, /proc/PID/stat field 22
    netns: tuple[int, int]  # device and inode
    mac: str
    address: str
    ports: tuple[dict[str, Any], ...] = ()


class Store:
    """The records of this user."""

    def __init__(self, directories: list[str] | None = None) -> None:
        self._directories = directories if directories is not None else _candidates()

    def path(self, network: str, container: str, ifname: str) -> str:
        """Where that attachment's record is, or would be. Raises: OSError if no directory can be had."""
        name = record_id(network, container, ifname) + ".json"
        for directory in self._existing():
            if os.path.exists(f"{directory}/{name}"):
                return f"{directory}/{name}"
        return f"{self._usable()}/{name}"

    def read(self, network: str, container: str, ifname: str) -> tuple[str, Record] | None:
        """The record with its path. One that can't be read counts as one whose process is not known."""
        name = record_id(network, container, ifname) + ".json"
        for directory in self._existing():
            with suppress(FileNotFoundError):
                return f"{directory}/{name}", _load(f"{directory}/{name}", network, container, ifname)
        return None

    def all(self) -> Iterator[tuple[str, Record]]:
        for directory in self._existing():
            for name in sorted(os.listdir(directory)):
                if name.endswith(".json"):
                    with suppress(FileNotFoundError):
                        yield f"{directory}/{name}", _load(f"{directory}/{name}", "", "", "")

    def write(self, path: str, record: Record) -> None:
        temporary = f"{path}.{os.getpid()}"
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
        ) as file:
            file.write(msgspec.json.encode(record))
        os.rename(temporary, path)

    def remove(self, path: str) -> None:
        for name in (path, socket_path(path)):
            with suppress(FileNotFoundError):
                os.unlink(name)

    def _existing(self) -> list[str]:
        return [directory for directory in self._directories if _is_private(directory)]

    def _usable(self) -> str:
        for directory in self._directories:
            with suppress(OSError):
                os.mkdir(directory, 0o700)
            if _is_private(directory) and os.access(directory, os.W_OK):
                return directory
        where = ", ".join(self._directories)
        raise OSError(
            errno.EACCES, f"none of {where} is, or can become, a private directory (0700) of this user"
        )


def record_id(network: str, container: str, ifname: str) -> str:
    return hashlib.sha256("/".join((network, container, ifname)).encode()).hexdigest()[:24]


def socket_path(record_path: str) -> str:
    return record_path.removesuffix(".json") + ".sock"


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_daemon(
    options: SlirpOptions,
    *,
    record_path: str,
    netns_path: str,
    userns_fd: int | None,
    ifname: str,
    mac: str | None,
) -> int:
    """Start slirp4netns in a session of its own and wait until the interface works; its pid.

    It holds no descriptor of ours but a memfd for its stderr. Raises: SlirpError, and nothing runs then.
    """
    program = find_program()
    sandboxes = [True, False] if "--enable-sandbox" in program.flags and sandbox_may_work() else [False]
    for sandbox in sandboxes:
        try:
            return _start(program, options, record_path, netns_path, userns_fd, ifname, mac, sandbox=sandbox)
        except SlirpError:
            if not sandbox or len(sandboxes) == 1:
                raise
    raise AssertionError("not reached")


def is_running(record: Record) -> bool:
    pidfd = _open_process(record)
    if pidfd is None:
        return False
    with os.fdopen(pidfd):
        return not select.select([pidfd], [], [], 0)[0]


def end_daemon(path: str, record: Record) -> None:
    """Gone when this returns; nothing happens if it is gone already. Raises: SlirpError if it can't be
    killed.
    """
    if record.boot != boot_id():
        return
    if record.pid == 0:
        for pid in _find_by_socket(socket_path(path)):
            with suppress(ProcessLookupError):
                _end(os.pidfd_open(pid), pid)
        return
    pidfd = _open_process(record)
    if pidfd is not None:
        _end(pidfd, record.pid)


def start_time(pid: int) -> int:
    """Raises: OSError if there is no such process."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _start(
    program: Program,
    options: SlirpOptions,
    record_path: str,
    netns_path: str,
    userns_fd: int | None,
    ifname: str,
    mac: str | None,
    *,
    sandbox: bool,
) -> int:
    ready_r, ready_w = os.pipe()
    stderr = bounded_memfd()
    try:
        argv = build_argv(
            program,
            options,
            netns_path=netns_path,
            userns_path=None if userns_fd is None else f"/proc/self/fd/{userns_fd}",
            ifname=ifname,
            mac=mac,
            ready_fd=ready_w,
            exit_fd=None,
            api_socket=socket_path(record_path),
            sandbox=sandbox,
        )
        try:
            process = subprocess.Popen(
                argv,
                pass_fds=[ready_w] if userns_fd is None else [ready_w, userns_fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                cwd="/",
            )
        except OSError as exc:
            raise SlirpError(f"start slirp4netns: {exc}") from exc
        finally:
            os.close(ready_w)
            ready_w = -1
        if select.select([ready_r], [], [], READY_SECONDS)[0]:
            if os.read(ready_r, 1):
                process.returncode = 0  # it is a daemon now: Popen shall not warn that it still runs
                return process.pid
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(TERM_SECONDS)
                raise explain_death(read_memfd(stderr), status, ifname=ifname, netns_path=netns_path)
        process.kill()
        process.wait()
        raise SlirpError(f"slirp4netns is not ready after {READY_SECONDS:g} s: {tidy(read_memfd(stderr))}")
    finally:
        os.close(ready_r)
        os.close(stderr)
        if ready_w != -1:
            os.close(ready_w)


def _open_process(record: Record) -> int | None:
    """A pidfd of the record's process, None if that one has ended. The pidfd first, then the start time: no
    race.
    """
    if record.pid == 0 or record.boot != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(record.pid)
    except OSError:
        return None
    try:
        if start_time(record.pid) == record.start:
            return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None


def _end(pidfd: int, pid: int) -> None:
    with os.fdopen(pidfd):
        for number, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            try:
                signal.pidfd_send_signal(pidfd, number)
            except ProcessLookupError:
                return
            if select.select([pidfd], [], [], seconds)[0]:
                return
    raise SlirpError(f"slirp4netns (process {pid}) can't be killed")


def _find_by_socket(path: str) -> list[int]:
    """Processes of ours with that API socket in their command line."""
    wanted, found = f"--api-socket={path}".encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if wanted in file.read().split(b"\0") and os.stat(f"/proc/{name}").st_uid in (
                    os.geteuid(),
                    0,
                ):
                    found.append(int(name))
    return found


def _load(path: str, network: str, container: str, ifname: str) -> Record:
    with open(path, "rb") as file:
        raw = file.read()
    try:
        return msgspec.json.decode(raw, type=Record)
    except UNREADABLE:
        return Record(
            network=network,
            container=container,
            ifname=ifname,
            boot=boot_id(),
            netns=(0, 0),
            mac="",
            address="",
        )


def _is_private(directory: str) -> bool:
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _candidates() -> list[str]:
    """In this order; all are on a tmpfs that a reboot clears, but for /tmp on some systems (hence the boot
    id).
    """
    parents = ["/run"] if os.geteuid() == 0 else []
    outer = _outer_uid()
    parents.append(f"/run/user/{outer}")
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        parents.append(given)
    directories = [f"{parent}/ctnr-slirp" for parent in dict.fromkeys(parents)]
    return [*directories, f"/tmp/ctnr-slirp-{outer}"]


def _outer_uid() -> int:
    """Who we are outside of our user namespace: root of two users' namespaces must not share a directory in
    /tmp.
    """
    uid = os.geteuid()
    with suppress(OSError, ValueError), open("/proc/self/uid_map", encoding="ascii") as file:
        for line in file:
            inside, outside, count = map(int, line.split())
            if inside <= uid < inside + count:
                return outside + uid - inside
    return uid


def run_inside(netns_fd: int, userns_fd: int | None, job: Callable[[], Any]) -> Any:
    """`job()` in a child process inside the netns (and its user namespace); its JSON-able result.

    Raises: OSError with what went wrong in there.
    """
    from supervisor.sandbox.syscalls import CLONE_NEWNET, CLONE_NEWUSER, setns

    read, write = os.pipe()
    child = os.fork()  # this program has one thread
    if child == 0:
        try:
            if userns_fd is not None:
                setns(userns_fd, CLONE_NEWUSER)
            setns(netns_fd, CLONE_NEWNET)
            answer: dict[str, Any] = {"value": job()}
        except BaseException as exc:
            answer = {"errno": getattr(exc, "errno", None) or errno.EIO, "text": str(exc)}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(child, 0)
    told = json.loads(raw) if raw else {"errno": errno.EIO, "text": "the child process died"}
    if "errno" in told:
        raise OSError(told["errno"], told["text"])
    return told["value"]


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
