"""How init comes into namespaces of its own, and what it finds mounted there. Standard library only."""

from __future__ import annotations

import _socket as socket
import os

from supervisor.sandbox import syscalls
from supervisor.sandbox.wire import reply

RUN_DIR = (
    63  # init's descriptor of its run directory: a short way there from outside, whose end it can't outlive
)

_INERT = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


def enter_namespaces(control: socket.socket, *, userns: bool) -> None:
    """Return in PID 1 of the new namespaces; the process that came in has ended."""
    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC
    if userns:
        syscalls.unshare(flags | syscalls.CLONE_NEWUSER)
        reply(control, {"id": 0, "unshared": os.getpid()})
        if not control.recv(16):  # the supervisor has written the maps, or gone
            os._exit(1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    else:
        syscalls.unshare(flags)
    pid = syscalls.clone_sibling(syscalls.CLONE_NEWPID)
    if pid:
        reply(control, {"id": 0, "init": pid})
        os._exit(0)
    os.setsid()
    try:
        syscalls.join_session_keyring()
    except OSError:
        pass  # forbidden in containers without privileges: theirs is inherited there


def prepare_mounts(run_dir: str) -> None:
    # slave, not private: what the host unmounts must not stay busy here
    syscalls.mount(None, "/", None, syscalls.MS_SLAVE | syscalls.MS_REC)
    try:
        syscalls.mount("proc", "/proc", "proc", _INERT)
    except PermissionError as exc:
        raise OSError(
            exc.errno,
            "mount /proc: the /proc here is covered in part: run the outer container with --privileged",
        ) from None
    syscalls.mount("tmpfs", run_dir, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0700")
    for name in ("netns", "containers", "runtime", "cni", "leases", "tty"):
        os.mkdir(f"{run_dir}/{name}", 0o700)
    opened = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.dup2(opened, RUN_DIR, inheritable=False)
    os.close(opened)
    cgroup = "/sys/fs/cgroup"
    if os.path.isdir(cgroup) and os.stat(cgroup).st_dev == os.stat("/sys/fs").st_dev:
        # nothing is mounted there in a container; crun wants a cgroup2 or a tmpfs even if it makes no cgroups
        _cover(cgroup)
    elif os.path.isdir(f"{cgroup}/unified"):
        # crun refuses hybrid hosts whose cgroup2 has controllers; without a cgroup2 to see it takes them for v1
        _cover(f"{cgroup}/unified")


def _cover(path: str) -> None:
    try:
        syscalls.mount("tmpfs", path, "tmpfs", syscalls.MS_RDONLY | _INERT, "size=0")
    except OSError:
        pass  # then runtime selection finds out that only runc works
