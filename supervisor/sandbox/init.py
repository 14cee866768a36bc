"""init: PID 1 of a sandbox. Standard library only, one thread, started as `python -I -S`; lives as long as its socket.

It is the reason why nothing can leak: when the supervisor goes, by whatever death, the socket reads as closed, init
exits, and the kernel takes the pid namespace, the mounts and the network namespaces with it.

Protocol, over one SOCK_SEQPACKET pair:

    supervisor → init   marshal: {"id": N, "op": NAME, …arguments}, descriptors by SCM_RIGHTS
    init → supervisor   JSON:    {"id": N, …result} or {"id": N, "errno": E, "error": TEXT}, descriptors by SCM_RIGHTS
                                 {"pid": P, "status": S}   process P ended; S is the status of waitpid(2)
    both ways           `long N` in place of a message about N that is longer than MESSAGE_BYTES (wire.py): it lies in a
                        memory file, the last of the descriptors

Requests are marshalled because the supervisor is the trusted side; replies are JSON because init is not.
`json`, `socket`, `signal` and `subprocess` are passed over for the C modules under them: each costs milliseconds.

init never changes a namespace of its own after start: work in another network namespace is done by a fork of it,
which answers by itself.
"""

from __future__ import annotations

import _signal as signal
import _socket as socket
import fcntl
import marshal
import os
import select
import sys

from supervisor.sandbox import syscalls
from supervisor.sandbox.birth import enter_namespaces, prepare_mounts
from supervisor.sandbox.wire import receive, reply, text_of

_RESET_SIGNALS = [s for s in range(1, 32) if s not in (9, 19)]


def main() -> None:
    """Arguments: "userns" or "plain", the run directory, the socket's descriptor. Serves until the socket closes."""
    _, kind, run_dir, number = sys.argv
    os.set_inheritable(int(number), False)
    control = socket.socket(fileno=int(number))
    try:
        enter_namespaces(control, userns=kind == "userns")
        prepare_mounts(run_dir)
    except OSError as exc:
        reply(control, {"id": 0, "errno": exc.errno or 5, "error": text_of(exc)})
        os._exit(1)
    Init(control).serve()


def _executable():
    from supervisor.sandbox import executable  # at first need: a sandbox without it starts faster

    return executable


def _places():
    from supervisor.sandbox import places  # only where something is mounted

    return places


class Init:
    """The loop: requests in, ends of processes out."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.forks: dict[int, int] = {}  # pid of a fork at work → id of its request
        self.at_end: dict[str, tuple[int, bytes]] = {}
        self.wake, wakeup = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (self.wake, wakeup):
            end.setblocking(False)
        self.wakeup = wakeup
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def serve(self) -> None:
        reply(self.control, {"id": 0, "ready": 1})
        poll = select.poll()
        poll.register(self.control.fileno(), select.POLLIN)
        poll.register(self.wake.fileno(), select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self.control.fileno():
                    self.receive()
                else:
                    try:
                        self.wake.recv(4096)
                    except BlockingIOError:
                        pass
            self.reap()

    def receive(self) -> None:
        message, descriptors = receive(self.control)
        if not message:
            self.end()
        request = marshal.loads(message)
        number = request.pop("id")
        operation = getattr(self, "op_" + request.pop("op"))
        outgoing = []
        try:
            answer, outgoing = operation(number, descriptors, **request)
            if answer is not None:
                reply(self.control, answer | {"id": number}, outgoing)
        except OSError as exc:
            reply(self.control, {"id": number, "errno": exc.errno or 5, "error": text_of(exc)})
        finally:
            for descriptor in (*descriptors, *outgoing):
                os.close(descriptor)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self.forks.pop(pid, None)
            if number is None:
                reply(self.control, {"pid": pid, "status": status})
            elif status != 0:
                reply(
                    self.control, {"id": number, "errno": 5, "error": "init's fork died before it answered"}
                )

    # What the supervisor may ask. Each returns (reply, descriptors); (None, []) where a fork answers.

    def op_spawn(self, number, descriptors, argv, env, cwd, targets, netns, joins):
        """Start `argv`; descriptor i of the message becomes `targets[i]` in it, 0 to 2 are /dev/null unless given.

        The last `joins` descriptors are cgroup.procs files: it is in these cgroups from its first instruction.
        """
        if joins or netns is not None:
            own, groups = descriptors[: len(descriptors) - joins], descriptors[len(descriptors) - joins :]
            return self._spawn_forked(netns, groups, own, argv, env, cwd, targets)
        actions, opened = _file_actions(descriptors, targets)
        try:
            if cwd != "/":
                os.chdir(cwd)
            pid = os.posix_spawn(
                argv[0],
                argv,
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=_RESET_SIGNALS,
            )
        finally:
            for descriptor in opened:
                os.close(descriptor)
            if cwd != "/":
                os.chdir("/")
        return {"pid": pid}, []

    def _spawn_forked(self, netns, groups, descriptors, argv, env, cwd, targets):
        """Fork, enter, join, exec; the pipe closes at the exec, or tells what went wrong before it."""
        told, low = os.pipe()
        tell = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 64)  # above every target
        os.close(low)
        pid = os.fork()
        if pid == 0:
            try:
                for group in groups:
                    os.write(group, b"0")
                self._exec_in(netns, descriptors, argv, env, cwd, targets)
            except OSError as exc:
                os.write(tell, str(exc.errno or 5).encode())
            finally:
                os._exit(127)
        os.close(tell)
        error = os.read(told, 16)
        os.close(told)
        if error:
            os.waitpid(pid, 0)
            what = "start in its cgroup" if groups else "start"
            raise OSError(int(error), f"{what}: {os.strerror(int(error))}", argv[0])
        return {"pid": pid}, []

    def op_at_end(self, number, descriptors, name, content):
        """Keep a descriptor, to which `content` is written when the supervisor goes; None gives it up."""
        if content is not None:
            self.at_end[name] = (os.dup(descriptors[0]), content)
        elif name in self.at_end:
            os.close(self.at_end.pop(name)[0])
        return {}, []

    def end(self):
        """The supervisor has gone: so does all of this pid namespace."""
        for descriptor, content in self.at_end.values():
            try:
                os.write(descriptor, content)
            except OSError:
                pass
        os._exit(0)

    def _exec_in(self, netns, descriptors, argv, env, cwd, targets):
        if netns is not None:
            _enter_netns(netns)
        os.setsid()
        os.chdir(cwd)
        actions, _ = _file_actions(descriptors, targets)
        for _, source, target in actions:
            os.dup2(source, target, inheritable=True)
        for one in _RESET_SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        os.execve(argv[0], argv, env)

    def op_kill(self, number, descriptors, pid, signal, group):
        """Signal a process (or its session's group). Its end was not reported yet, so the pid is still its own."""
        if pid <= 1:
            raise OSError(22, f"kill: pid {pid} is not a process of the sandbox")
        try:
            os.killpg(pid, signal) if group else os.kill(pid, signal)
        except ProcessLookupError:
            pass
        return {}, []

    def op_kill_marked(self, number, descriptors, mark):
        from supervisor.sandbox.marked import kill_marked  # most sandboxes never need it

        kill_marked(mark)
        return {}, []

    def op_mount(self, number, descriptors, source, target, kind, flags, data, make):
        if make:
            os.makedirs(target, 0o755, exist_ok=True)
        syscalls.mount(source, target, kind, flags, data)
        return {}, []

    def op_overlay(self, number, descriptors, base, lower, upper, work, target):
        """Mount an overlay; `lower` is relative to `base`, for mount(2) takes one page of options."""
        for path in (upper, work, target):
            os.makedirs(path, 0o755, exist_ok=True)
        os.chdir(base)
        try:
            options = f"lowerdir={':'.join(lower)},upperdir={upper},workdir={work},userxattr"
            syscalls.mount("overlay", target, "overlay", 0, options)
        finally:
            os.chdir("/")
        return {}, []

    def op_umount(self, number, descriptors, target):
        try:
            syscalls.umount2(target, syscalls.MNT_DETACH)
        except OSError as exc:
            if exc.errno not in (2, 22):  # gone already, or not a mount point
                raise
        return {}, []

    def op_read(self, number, descriptors, path, limit):
        with open(path, "rb") as file:
            return {"text": file.read(limit).decode("utf-8", "replace")}, []

    def op_write(self, number, descriptors, files):
        """Write files {path: (mode, bytes)}; an existing file keeps its inode, as bind mounts of it want."""
        for path, (mode, content) in files.items():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            try:
                os.fchmod(descriptor, mode)
                os.ftruncate(descriptor, 0)
                view = memoryview(content)
                while view:
                    view = view[os.write(descriptor, view) :]
            finally:
                os.close(descriptor)
        return {}, []

    def op_make_dirs(self, number, descriptors, paths, mode):
        for path in paths:
            os.makedirs(path, mode, exist_ok=True)
        return {}, []

    def op_open_in_root(self, number, descriptors, root, path, flags):
        directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return {}, [syscalls.open_in_root(directory, path, flags)]
        finally:
            os.close(directory)

    def op_find_executable(self, number, descriptors, root, paths, ids):
        return _executable().find(root, paths, ids), []

    def op_try_executable(self, number, descriptors, root, head, ids):
        return _executable().examine(root, descriptors[0], head, ids), []

    def op_look_in_root(self, number, descriptors, root, paths):
        return {"rest": _places().look(root, paths)}, []

    def op_make_dirs_in_root(self, number, descriptors, root, path, mode):
        flags = os.O_PATH | os.O_DIRECTORY
        top = os.open(root, flags | os.O_CLOEXEC)
        above, done = os.dup(top), ""
        try:
            for name in [part for part in path.split("/") if part]:
                done = f"{done}/{name}"  # from the root on: a link (/var/run → /run) may lead anywhere in it
                try:
                    below = syscalls.open_in_root(top, done, flags)
                except FileNotFoundError:
                    os.mkdir(name, mode, dir_fd=above)
                    below = syscalls.open_in_root(top, done, flags)
                os.close(above)
                above = below
        finally:
            os.close(top)
            os.close(above)
        return {}, []

    def op_remove_small(self, number, descriptors, paths, limit):
        """Remove trees of at most `limit` entries, without a process; answer {"rest": the paths that are larger}."""
        return {"rest": [path for path in paths if not _remove_small(path, limit)]}, []

    def op_listen(self, number, descriptors, path, datagrams):
        kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
        listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
        listener.bind(path)
        if datagrams:
            os.chmod(path, 0o666)  # for whatever user the sender is
        else:
            listener.listen(1)
        return {}, [listener.detach()]

    def op_netns_new(self, number, descriptors, path, tap):
        return self._fork(number, lambda: _new_netns(path, tap))

    def op_tap(self, number, descriptors, netns, tap):
        def make() -> list[int]:
            _enter_netns(netns)
            _new_tap(tap)
            return []

        return self._fork(number, make)

    def op_netns_pin(self, number, descriptors, path):
        """Pin the network namespace that the one descriptor shows."""
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            syscalls.mount(f"/proc/self/fd/{descriptors[0]}", path, None, syscalls.MS_BIND)
        except OSError:
            os.unlink(path)
            raise
        return {}, []

    def op_netns_delete(self, number, descriptors, path):
        try:
            syscalls.umount2(path, syscalls.MNT_DETACH)
        except OSError as exc:
            if exc.errno not in (2, 22):
                raise
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        return {}, []

    def op_sysctl(self, number, descriptors, netns, settings):
        """Write /proc/sys files (relative names with slashes) as seen from the network namespace `netns`."""

        def write() -> list[int]:
            _enter_netns(netns)
            for name, value in settings.items():
                with open(f"/proc/sys/{name}", "w") as file:
                    file.write(value)
            return []

        return self._fork(number, write)

    def op_socket(self, number, descriptors, netns, family, kind, protocol, bind, options):
        """A socket made in `netns` (None: init's own), bound and, if a stream, listening when `bind` is given."""

        def make() -> list[int]:
            if netns is not None:
                _enter_netns(netns)
            made = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            for level, option, value in options:
                made.setsockopt(level, option, value)
            if bind is not None:
                made.bind(tuple(bind))
                if kind == socket.SOCK_STREAM:
                    made.listen(128)
            return [made.detach()]

        return ({}, make()) if netns is None else self._fork(number, make)

    def _fork(self, number, work):
        """Do `work` in a fork, which answers request `number` itself."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                try:
                    outgoing = work()
                    reply(self.control, {"id": number}, outgoing)
                except OSError as exc:
                    reply(self.control, {"id": number, "errno": exc.errno or 5, "error": text_of(exc)})
                code = 0
            finally:
                os._exit(code)
        self.forks[pid] = number
        return None, []


def _enter_netns(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
    os.close(descriptor)


def _new_netns(path: str, tap: str | None) -> list[int]:
    """A network namespace with its loopback up, pinned by a bind mount on `path`; with a tap interface if named."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    _set_up("lo")
    if tap is not None:
        _new_tap(tap)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    syscalls.mount("/proc/self/ns/net", path, None, syscalls.MS_BIND)
    return []


def _new_tap(name: str) -> None:
    """A persistent tap interface: it outlives the death of its slirp4netns, and goes with the netns in no time.

    One that slirp4netns makes itself takes the kernel 30 ms to unregister when slirp4netns ends; this one, 0.
    """
    tap, no_packet_information = 0x0002, 0x1000
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    request = name.encode().ljust(16, b"\0") + (tap | no_packet_information).to_bytes(2, "little").ljust(
        24, b"\0"
    )
    fcntl.ioctl(descriptor, 0x400454CA, request)  # TUNSETIFF
    fcntl.ioctl(descriptor, 0x400454CB, 1)  # TUNSETPERSIST
    os.close(descriptor)
    # up before slirp4netns brings the carrier: the kernel then takes notice at once, not within a second
    _set_up(name)


def _set_up(name: str) -> None:
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    up, running = 0x1, 0x40
    request = name.encode().ljust(16, b"\0") + (up | running).to_bytes(2, "little").ljust(24, b"\0")
    fcntl.ioctl(control.fileno(), 0x8914, request)  # SIOCSIFFLAGS
    control.close()


def _file_actions(
    descriptors: list[int], targets: list[int]
) -> tuple[list[tuple[int, int, int]], list[int]]:
    """dup2 actions for posix_spawn. Received descriptors lie above every target, so that none overwrites another."""
    opened = []
    given = dict(zip(targets, descriptors, strict=True))
    if missing := [target for target in (0, 1, 2) if target not in given]:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        high = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 64)
        os.close(null)
        opened.append(high)
        given.update(dict.fromkeys(missing, high))
    return [(os.POSIX_SPAWN_DUP2, source, target) for target, source in given.items()], opened


def _remove_small(path: str, limit: int) -> bool:
    seen = 0
    try:
        for _, directories, files in os.walk(path):
            seen += len(directories) + len(files)
            if seen > limit:
                return False
        for parent, directories, files in os.walk(path, topdown=False):
            for name in files:
                os.unlink(f"{parent}/{name}")
            for name in directories:
                below = f"{parent}/{name}"
                os.unlink(below) if os.path.islink(below) else os.rmdir(below)
        os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False  # rm(1) tells the reason better
    return True
