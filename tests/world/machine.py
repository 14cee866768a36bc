"""The machine under test: pytest's own private network and mount namespaces, entered once before the first test.

Nothing of the real machine is edited: `/etc` and `/var/lib` are overlays whose upper side dies with pytest, `/run` and
`/dev/shm` are fresh tmpfs, `/tmp` and `/var/tmp` are directories of its own, the network starts with nothing but `lo`,
and `/dev/net/tun` is a node of its own with the mode that distributions give it. So tests may write `/etc/resolv.conf`,
add users and pin netns as a real machine's root does, and whatever they leave behind is told from what was there before
(tests/world/leaks.py). Several machines may run side by side, one for each worker of pytest-xdist: what the kernel
counts by user is told apart by the users' ids.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.world import cgroups

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_BIND, MS_REC = 0x1000, 0x4000
PR_SET_CHILD_SUBREAPER = 36

USER_NAME = "ctnr-test"
FIRST_USER_ID = 4242
FIRST_SUBID, SUBID_COUNT = 700_000, 65_536
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
CHECKOUT = Path(__file__).parents[2]

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Machine:
    """Where things are in the world. `root` is on disk: an overlay's upper side can't always lie on a tmpfs."""

    root: Path
    user_id: int
    first_subid: int
    python: Path
    etc_upper: Path = Path("/run/.world/etc")
    var_lib_upper: Path = Path("/run/.world/lib")
    _outside: list[int] = field(default_factory=list)
    _cgroups_before: dict[str, Path] = field(default_factory=dict)

    @property
    def bin(self) -> Path:
        """The installed programs (`ctnr`, …), readable by everybody."""
        return self.python.parent

    def outside(self, argv: Sequence[str]) -> None:
        """Run a program where pytest came from, for the few that need the machine's package mirror.

        Raises: AssertionError with the program's stderr.
        """
        mount, net = self._outside
        enter = ["nsenter", f"--mount=/proc/{os.getpid()}/fd/{mount}", f"--net=/proc/{os.getpid()}/fd/{net}"]
        run([*enter, "--", *argv])

    def close(self) -> None:
        """Remove what lies on disk; the namespaces go with the process."""
        for fd in self._outside:
            os.close(fd)
        cgroups.leave_own(self._cgroups_before)
        for target in (self.python.parent.parent / "lib", *TEMPORARY):
            subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)


def enter_machine(keep: Iterable[Path] = (), number: int = 0) -> Machine:
    """Move this process into a new machine. Must come before any thread is started, as root.

    `keep` are directories that stay where they are though that be below `/tmp`, as the checkout does; `number` tells
    machines apart that are there at the same time.

    Raises: OSError, AssertionError.
    """
    outside = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("mnt", "net")]
    if _libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare the mount and network namespaces")
    # Orphans come to us instead of PID 1, so that "everything the tests started" is "our descendants".
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    run(["mount", "--make-rprivate", "/"])
    resolv_conf = Path(os.path.realpath("/etc/resolv.conf"))
    tun_node = _fresh_run()
    _overlay("/etc", Path("/run/.world/etc"))
    _overlay("/var/lib", Path("/run/.world/lib"))
    shutil.rmtree("/var/lib/cni", ignore_errors=True)
    run(["mount", "--bind", str(tun_node), "/dev/net/tun"])
    for verb in ("add", "delete"):  # ip makes /run/netns a shared mount at first use, and leaves it
        run(["ip", "netns", verb, "first"])
    run(["mount", "-t", "tmpfs", "-o", "mode=1777", "shm", "/dev/shm"])
    resolv_conf.parent.mkdir(parents=True, exist_ok=True)  # a link into /run on hosts with systemd-resolved
    resolv_conf.write_text("# no name server yet\n")
    run(["ip", "link", "set", "lo", "up"])
    for switch in ("all", "default"):  # no "tentative" seconds in the comparison of addresses
        _write_sysctl(f"/proc/sys/net/ipv6/conf/{switch}/accept_dad", "0")
    containers_conf = Path("/etc/containers/registries.conf")
    containers_conf.parent.mkdir(exist_ok=True)
    containers_conf.write_bytes(containers_conf.read_bytes() if containers_conf.exists() else b"")

    root = Path(tempfile.mkdtemp(prefix="ctnr-world-", dir="/var/tmp"))
    root.chmod(0o755)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    _own_temporary(root / "temporary", [root, CHECKOUT, Path(sys.prefix), *keep])
    python = _share_installation(root / "venv")
    before = cgroups.enter_own()
    user_id, first_subid = _add_user(number)
    return Machine(root, user_id, first_subid, python, _outside=outside, _cgroups_before=before)


def run(argv: Sequence[str], *, stdin: bytes | None = None) -> bytes:
    """Run a set-up program and give its stdout.

    Raises: AssertionError with the program's stderr.
    """
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        raise AssertionError(
            f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.decode(errors='replace').strip()}"
        )
    return done.stdout


def _fresh_run() -> Path:
    run(["mount", "-t", "tmpfs", "-o", "mode=755", "run", "/run"])
    for name in ("lock", "netns", "user", ".world"):
        Path("/run", name).mkdir()
    os.chmod("/run/lock", 0o1777)
    os.chmod("/run/.world", 0o700)
    # xtables makes its lock file at first use and never removes it: furniture, not a leak
    Path("/run/xtables.lock").touch(0o600)
    node = Path("/run/.world/tun")
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(10, 200))
    node.chmod(0o666)
    if not Path("/dev/net/tun").exists():
        raise OSError("open /dev/net/tun: the kernel has no tun device; load it with: modprobe tun")
    return node


def _overlay(target: str, upper: Path) -> None:
    work = upper.with_name(upper.name + ".work")
    upper.mkdir()
    work.mkdir()
    run(
        [
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            f"lowerdir={target},upperdir={upper},workdir={work}",
            target,
        ]
    )


def _own_temporary(own: Path, keep: Iterable[Path]) -> None:
    """Directories below `own` in the place of the whole machine's temporary ones, with `keep` put back."""
    below = {path.resolve() for path in keep if any(path.resolve().is_relative_to(top) for top in TEMPORARY)}
    for top in TEMPORARY:
        (own / top.relative_to("/")).mkdir(parents=True)
        (own / top.relative_to("/")).chmod(0o1777)
    sources = {path: path for path in below} | {top: own / top.relative_to("/") for top in TEMPORARY}
    # all are opened first: a source is not to be found by its name once something lies over /var/tmp
    opened = {
        target: os.open(source, os.O_PATH | os.O_CLOEXEC) for target, source in sorted(sources.items())
    }
    for target, fd in opened.items():
        target.mkdir(parents=True, exist_ok=True)
        if _libc.mount(f"/proc/self/fd/{fd}".encode(), bytes(target), None, MS_BIND | MS_REC, None) != 0:
            raise OSError(ctypes.get_errno(), f"bind a directory over {target}")
        os.close(fd)


def _write_sysctl(path: str, value: str) -> None:
    if os.path.exists(path):
        Path(path).write_text(value)


def _add_user(number: int) -> tuple[int, int]:
    """An ordinary user's id and the first of the further ones that belong to it: others than in other machines."""
    passwd = Path("/etc/passwd")
    taken = {int(line.split(":")[2]) for line in passwd.read_text().splitlines() if line.count(":") == 6}
    uid = next(n for n in range(FIRST_USER_ID + number * 100, 60_000) if n not in taken)
    first_subid = FIRST_SUBID + number * SUBID_COUNT
    with passwd.open("a") as file:
        file.write(f"{USER_NAME}:x:{uid}:{uid}::/nonexistent:/bin/sh\n")
    with Path("/etc/group").open("a") as file:
        file.write(f"{USER_NAME}:x:{uid}:\n")
    for name in ("/etc/subuid", "/etc/subgid"):
        Path(name).write_text(f"{USER_NAME}:{first_subid}:{SUBID_COUNT}\n")
    return uid, first_subid


def _share_installation(target: Path) -> Path:
    """The virtual environment that runs the tests, at a path that every user can read.

    A checkout may lie in somebody's private home; a bind mount is reached without walking through it. Only the scripts
    are copied, because their first line names their interpreter.
    """
    venv = Path(sys.prefix)
    (target / "bin").mkdir(parents=True)
    (target / "lib").mkdir()
    shutil.copy(venv / "pyvenv.cfg", target)
    run(["mount", "--bind", str(venv / "lib"), str(target / "lib")])
    python = target / "bin/python"
    python.symlink_to(os.path.realpath(sys.executable))
    python.with_name("python3").symlink_to("python")
    for script in (venv / "bin").iterdir():
        if script.is_file() and not script.is_symlink() and script.stat().st_size < 65_536:
            copy = target / "bin" / script.name
            copy.write_bytes(script.read_bytes().replace(str(venv).encode(), str(target).encode()))
            copy.chmod(0o755)
    for folder in (target, target / "bin"):
        folder.chmod(0o755)
    return python
