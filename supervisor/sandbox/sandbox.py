"""The sandbox: namespaces around one init, in which everything else runs. Leaving `open_sandbox` ends all of it."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import trio

from supervisor.errors import SandboxError
from supervisor.processes import map_children
from supervisor.sandbox.birth import RUN_DIR
from supervisor.sandbox.capture import open_capture, open_input, read_capture
from supervisor.sandbox.descriptors import close_all
from supervisor.sandbox.idmap import write_maps
from supervisor.sandbox.process import Completed, Process
from supervisor.sandbox.protocol import Channel, Reply

PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY_SECONDS = 20
SMALL_TREE_ENTRIES = 512
TREES_AT_ONCE = 1000  # what du says of them fits into a capture


Ids = tuple[int, int, Sequence[int]]


@dataclass(frozen=True)
class Executable:
    """A file to be executed: the errno with which the kernel refuses (0: it does not), and what executes the file."""

    path: str
    errno: int = 0
    interpreter: str = ""


class Sandbox:
    """What runs inside is started, signalled and waited for through its init.

    Paths mean the same inside as outside, for its mount namespace is a copy of the caller's. `run_dir` is a tmpfs
    that only the sandbox sees: what lies there can't outlive it.
    """

    def __init__(self, channel: Channel, init_pid: int, run_dir: str, *, rootless: bool) -> None:
        self.init_pid = init_pid
        self.run_dir = run_dir
        self.rootless = rootless
        self._channel = channel
        self._processes: dict[int, Process] = {}
        self._kept_ends: list[dict[int, int]] = []
        self._host_pids: dict[int, int] = {}
        self.call_raw = channel.call

    @property
    def gone(self) -> bool:
        return self._channel.gone.is_set()

    async def wait_gone(self) -> None:
        """Until init has ended, for whatever reason."""
        await self._channel.gone.wait()

    @property
    def userns_path(self) -> str | None:
        """Its user namespace for programs outside, or None if it has none of its own."""
        return f"/proc/{self.init_pid}/ns/user" if self.rootless else None

    def outer_path(self, path: str) -> str:
        """A path of the sandbox's mounts as programs outside can open it."""
        return f"/proc/{self.init_pid}/root{path}"

    def outer_socket(self, name: str) -> str:
        """As `outer_path`, of a file in its run directory; a socket's path has 107 bytes at most (unix(7))."""
        return f"/proc/{self.init_pid}/fd/{RUN_DIR}/{name}"

    async def call(self, op: str, **arguments: Any) -> Reply:
        """One request to init that brings back no descriptors. Raises: OSError, SandboxError."""
        reply, descriptors = await self.call_raw(op, **arguments)
        close_all(descriptors)
        return reply

    # Programs

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        pass_fds: Mapping[int, int] | None = None,
        netns: str | None = None,
        joins: Sequence[int] = (),
    ) -> Process:
        """Start a program in a session of its own; descriptors that are not given are /dev/null.

        `pass_fds` maps numbers in the program to descriptors here, which stay the caller's. `netns` is a path in the
        sandbox. `joins` are open cgroup.procs files: it runs in these cgroups from its first instruction on.
        Raises: OSError (FileNotFoundError if it is not there), SandboxError.
        """
        environment = (
            dict(env) if env is not None else {"PATH": DEFAULT_PATH, "HOME": os.environ.get("HOME", "/")}
        )
        descriptors = dict(pass_fds or {})
        descriptors |= {target: own for target, own in enumerate((stdin, stdout, stderr)) if own is not None}
        program = argv[0] if "/" in argv[0] else find_program(argv[0], environment.get("PATH"))
        with self.keep_ends() as ends:
            reply, _ = await self.call_raw(
                "spawn", (*descriptors.values(), *joins), argv=[program, *argv[1:]], env=environment, cwd=cwd,
                targets=list(descriptors), netns=netns, joins=len(joins),
            )  # fmt: skip
            assert reply.pid is not None
            return self.adopt(reply.pid, ends)

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: int | bytes | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        pass_fds: Mapping[int, int] | None = None,
        netns: str | None = None,
    ) -> Completed:
        """Run a program to its end; output that has no descriptor is captured, up to 1 MiB each.

        Cancelled: its process group is killed and reaped first. Raises: as `spawn`.
        """
        owned: list[int] = []

        def own(descriptor: int) -> int:
            owned.append(descriptor)
            return descriptor

        try:
            given = own(open_input(stdin)) if isinstance(stdin, bytes) else stdin
            captures = [own(open_capture()) if one is None else None for one in (stdout, stderr)]
            process = await self.spawn(
                argv, env=env, cwd=cwd, stdin=given, pass_fds=pass_fds, netns=netns,
                stdout=stdout if captures[0] is None else captures[0],
                stderr=stderr if captures[1] is None else captures[1],
            )  # fmt: skip
            try:
                status = await process.wait()
            except trio.Cancelled:
                await process.kill_and_wait()
                raise
            return Completed(status, *(b"" if one is None else read_capture(one) for one in captures))
        finally:
            close_all(owned)

    @contextmanager
    def keep_ends(self) -> Iterator[Mapping[int, int]]:
        """For `adopt`, around the start of a process: how others have ended by pid, for it may be one of them.

        No longer than that: a pid comes again.
        """
        ends: dict[int, int] = {}
        self._kept_ends.append(ends)
        try:
            yield ends
        finally:
            self._kept_ends = [one for one in self._kept_ends if one is not ends]

    def adopt(self, pid: int, ends: Mapping[int, int]) -> Process:
        """A process that init has become (or will become) the parent of, such as a container's first one."""
        process = self._processes.get(pid)
        if process is None:
            process = self._processes[pid] = Process(self, pid)
            if pid in ends:
                self._processes.pop(pid).set_ended(ends[pid])
            elif self.gone:
                self._processes.pop(pid).set_ended(9)
        return process

    def host_pid(self, pid: int) -> int | None:
        """The number here of a child of init's that init counts as `pid`; all are looked up when one is not known."""
        if pid not in self._host_pids:
            self._host_pids = map_children(self.init_pid)
        return self._host_pids.get(pid)

    def on_exit(self, pid: int, wait_status: int) -> None:
        """init reaped a process: a known one, or one whose pid may be about to be told, or nobody's."""
        self._host_pids.pop(pid, None)
        if (process := self._processes.pop(pid, None)) is not None:
            process.set_ended(wait_status)
            return
        for ends in self._kept_ends:
            ends[pid] = wait_status

    def on_gone(self) -> None:
        for process in list(self._processes.values()):
            process.set_ended(9)
        self._processes.clear()

    async def at_end(self, name: str, descriptor: int | None, content: bytes | None = None) -> None:
        """Have init write `content` to a descriptor when the supervisor dies; None takes that back."""
        await self.call_raw(
            "at_end", () if descriptor is None else (descriptor,), name=name, content=content
        )

    # Files and mounts

    async def open_in_root(self, root: str, path: str, flags: int = os.O_RDONLY) -> int | None:
        """Open `path` below `root`, which no `..` or link can leave; None if it is not there. The caller closes it."""
        try:
            _, descriptors = await self.call_raw("open_in_root", root=root, path=path, flags=flags)
        except FileNotFoundError:
            return None
        return descriptors[0]

    async def find_executable(self, root: str, paths: Sequence[str], ids: Ids) -> Executable | None:
        """The first of `paths` below `root` that is there and may be executed; else one that is there; None if none is.

        `ids` are uid, gid and groups of who is to execute it.
        """
        reply = await self.call("find_executable", root=root, paths=list(paths), ids=_plain(ids))
        if not reply.text:
            return Executable(reply.rest[0], errno.EACCES) if reply.rest else None
        return Executable(reply.text, reply.status or 0, reply.rest[0])

    async def try_executable(self, root: str, path: str, program: int, head: bytes, ids: Ids) -> Executable:
        """As `find_executable`, of an open file that will be at `path` and begins with `head` (4096 bytes or all)."""
        reply, descriptors = await self.call_raw(
            "try_executable", (program,), root=root, head=head, ids=_plain(ids)
        )
        close_all(descriptors)
        return Executable(path, reply.status or 0, reply.rest[0])

    async def look_in_root(self, root: str, paths: Sequence[str]) -> list[str]:
        """What lies at each of `paths` below `root`, in the words of `places`. Raises: OSError."""
        return (await self.call("look_in_root", root=root, paths=list(paths))).rest

    async def make_dirs_in_root(self, root: str, path: str, mode: int = 0o755) -> None:
        await self.call("make_dirs_in_root", root=root, path=path, mode=mode)

    async def remove_tree(self, *paths: str) -> None:
        """Remove files and trees, as root of the sandbox. Raises: SandboxError with the first reason of rm's."""
        reply = await self.call("remove_small", paths=list(paths), limit=SMALL_TREE_ENTRIES)
        if reply.rest:
            done = await self.run(["rm", "-rf", "--one-file-system", "--", *reply.rest])
            if done.status:
                raise SandboxError(f"remove {reply.rest[0]}: {done.last_line()}")

    async def tree_sizes(self, paths: Sequence[str]) -> dict[str, int]:
        """Bytes on disk of files and trees, as root of the sandbox sees them; what is not there has none."""
        sizes = dict.fromkeys(paths, 0)
        known = list(sizes)
        for at in range(0, len(known), TREES_AT_ONCE):
            names = b"\0".join(map(os.fsencode, known[at : at + TREES_AT_ONCE]))
            done = await self.run(["du", "-0sxB1", "--files0-from=-"], stdin=names)
            for line in done.stdout.split(b"\0"):
                size, _, path = line.partition(b"\t")
                if path:
                    sizes[os.fsdecode(path)] = int(size)
        return sizes

    async def read_text(self, path: str, limit: int = 65536) -> str:
        return (await self.call("read", path=path, limit=limit)).text

    async def write_files(self, files: Mapping[str, tuple[int, bytes]]) -> None:
        """Write {path: (mode, content)}; files that exist keep their inode."""
        await self.call("write", files=dict(files))

    async def mount(
        self,
        source: str | None,
        target: str,
        kind: str | None = None,
        flags: int = 0,
        data: str | None = None,
    ) -> None:
        await self.call("mount", source=source, target=target, kind=kind, flags=flags, data=data, make=False)

    async def mount_overlay(self, lower: Sequence[str], upper: str, work: str, target: str) -> None:
        """Mount an overlay on `target` (made if need be). `lower` is topmost first, all absolute.

        Raises: OSError.
        """
        base = os.path.commonpath([os.path.dirname(path) for path in lower])
        names = [os.path.relpath(path, base).replace("\\", "\\\\").replace(":", "\\:") for path in lower]
        await self.call("overlay", base=base, lower=names, upper=upper, work=work, target=target)

    async def unmount(self, target: str) -> None:
        """Detach a mount; nothing if there is none."""
        await self.call("umount", target=target)

    # Networks

    async def new_netns(self, path: str, *, tap: str | None = None) -> None:
        """A network namespace with loopback up, pinned at `path` in the sandbox's run directory, and a tap if named."""
        await self.call("netns_new", path=path, tap=tap)

    async def pin_netns(self, descriptor: int, path: str) -> None:
        """Pin a network namespace from outside, opened as a file, at `path`. Raises: OSError."""
        _, descriptors = await self.call_raw("netns_pin", (descriptor,), path=path)
        close_all(descriptors)

    async def new_tap(self, netns: str, name: str) -> None:
        """A persistent tap interface in `netns`. Raises: OSError if /dev/net/tun can't be used."""
        await self.call("tap", netns=netns, tap=name)

    async def delete_netns(self, path: str) -> None:
        """Unpin a network namespace; it ends with its last process. Nothing if it is not there."""
        await self.call("netns_delete", path=path)

    async def open_socket(
        self,
        family: int,
        kind: int,
        protocol: int = 0,
        *,
        netns: str | None = None,
        bind: tuple[Any, ...] | None = None,
        options: Sequence[tuple[int, int, int]] = (),
    ) -> socket.socket:
        """A socket that lives in `netns` (a path in the sandbox; None: where init is). The caller closes it."""
        _, descriptors = await self.call_raw(
            "socket", netns=netns, family=int(family), kind=int(kind), protocol=protocol,
            bind=list(bind) if bind is not None else None, options=[tuple(map(int, one)) for one in options],
        )  # fmt: skip
        return socket.socket(fileno=descriptors[0])

    async def listen(self, path: str) -> socket.socket:
        """A listening Unix stream socket at `path` in the sandbox. The caller closes it."""
        return await self._listen(path, datagrams=False)

    async def listen_datagrams(self, path: str) -> socket.socket:
        """A Unix datagram socket at `path` in the sandbox, for anybody to send to. The caller closes it."""
        return await self._listen(path, datagrams=True)

    async def _listen(self, path: str, *, datagrams: bool) -> socket.socket:
        _, descriptors = await self.call_raw("listen", path=path, datagrams=datagrams)
        return socket.socket(fileno=descriptors[0])


def _plain(ids: Ids) -> tuple[int, int, list[int]]:
    return ids[0], ids[1], list(ids[2])


def python_argv(module: str, *args: str) -> list[str]:
    """`main()` of a module of ours as a program with the standard library and our packages only, in a sandbox or out.

    The interpreter itself, not the venv's link to it: the link may lie where root of the sandbox can't look.
    """
    code = f"import sys;sys.path.append(sys.argv.pop(1));from {module} import main;main()"
    return [os.path.realpath(sys.executable), "-I", "-S", "-X", "utf8", "-c", code, PACKAGES, *args]


def find_program(name: str, path: str | None = None) -> str:
    """The absolute path of a program. Raises: FileNotFoundError."""
    found = shutil.which(name, path=f"{path or ''}:{DEFAULT_PATH}")
    if found is None:
        raise FileNotFoundError(2, "not found in PATH", name)
    return found


@asynccontextmanager
async def open_sandbox(run_dir: str, *, rootless: bool) -> AsyncIterator[Sandbox]:
    """A sandbox for as long as the block lasts. With `rootless` it has a user namespace of its own.

    `run_dir` is an existing directory of the caller's; inside, a tmpfs covers it. Leaving kills everything inside and
    returns when the kernel has taken it all. Raises: SandboxError, with the cure where one is known.
    """
    own_end, init_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sandbox: Sandbox | None = None

    def on_exit(pid: int, status: int) -> None:
        if sandbox is not None:
            sandbox.on_exit(pid, status)

    channel = Channel(own_end, on_exit)
    with ExitStack() as undo:
        undo.callback(channel.close)
        with init_end:
            stderr = open_capture()
            undo.callback(os.close, stderr)
            starter = _start(init_end, run_dir, stderr, rootless=rootless)
        undo.pop_all()
    try:
        try:
            with trio.fail_after(READY_SECONDS):
                await _handshake(channel, starter.pid)
        except trio.TooSlowError:
            raise SandboxError(f"sandbox: not ready after {READY_SECONDS} s") from None
        except SandboxError as exc:
            for line in read_capture(stderr).decode(errors="replace").splitlines():
                exc.add_note(f"init: {line}")
            raise
        assert channel.init_pid is not None
        await _reap(starter.pid, starter)  # it ends with its message; no zombie for as long as we live
        sandbox = Sandbox(channel, channel.init_pid, run_dir, rootless=rootless)
        # shielded: while those in the block clean up, init must still be heard
        listening = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_receive, channel, sandbox, listening)
            try:
                yield sandbox
            finally:
                listening.cancel()
    finally:
        channel.end()
        os.close(stderr)
        try:
            with trio.CancelScope(shield=True):
                await _reap(starter.pid, starter)
                if channel.init_pid is None:  # cancelled before its starter's message was read
                    await channel.drain()
                if channel.init_pid is not None:
                    await _reap(channel.init_pid, None)
        finally:
            channel.close()
            if sandbox is not None:
                sandbox.on_gone()


async def _receive(channel: Channel, sandbox: Sandbox, scope: trio.CancelScope) -> None:
    try:
        with scope:
            await channel.receive_forever()
    finally:
        sandbox.on_gone()


def _start(init_end: socket.socket, run_dir: str, stderr: int, *, rootless: bool) -> subprocess.Popen[bytes]:
    kind = "userns" if rootless else "plain"
    argv = python_argv("supervisor.sandbox.init", kind, run_dir, str(init_end.fileno()))
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, pass_fds=(init_end.fileno(),),
        start_new_session=True, cwd="/", env={"PATH": DEFAULT_PATH},
    )  # fmt: skip


async def _handshake(channel: Channel, starter_pid: int) -> None:
    """Follow init through its stages until it serves and its pid is known."""
    is_ready = False  # said by init itself, and its pid by its parent: either may be faster
    while (message := await channel.receive()) is not None:
        reply, descriptors = message
        close_all(descriptors)
        if reply.errno is not None:
            raise _explain(reply)
        if reply.unshared is not None:
            await write_maps(starter_pid)
            await channel.send(b"mapped")
        is_ready = is_ready or bool(reply.ready)
        if is_ready and channel.init_pid is not None:
            return
    raise SandboxError("sandbox: its init died before it was ready")


def _explain(reply: Reply) -> SandboxError:
    cure = None
    if reply.error.startswith("0x") and reply.errno == 1:
        cure = (
            "user namespaces are switched off here: sudo sysctl -w kernel.unprivileged_userns_clone=1 "
            "kernel.apparmor_restrict_unprivileged_userns=0"
        )
    elif reply.error.startswith("0x") and reply.errno == 28:
        cure = "no user namespace left: sudo sysctl -w user.max_user_namespaces=15000"
    return SandboxError(f"sandbox: {reply.error}", cure=cure)


async def _reap(pid: int, process: subprocess.Popen[bytes] | None) -> None:
    """Wait for a child without blocking the loop: its pidfd becomes readable when it has ended."""
    if process is not None and process.returncode is not None:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # no descriptor is left: it has to be waited for all the same
        with suppress(ChildProcessError):
            while not (process.poll() is not None if process else os.waitpid(pid, os.WNOHANG)[0]):  # noqa: ASYNC110, ASYNC222
                await trio.sleep(0.01)
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
        if process is not None:
            process.wait()
        else:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)  # noqa: ASYNC222 -- it has ended
    except ChildProcessError:
        pass
    finally:
        trio.lowlevel.notify_closing(pidfd)
        os.close(pidfd)
