"""System calls that Python 3.11 lacks, under the kernel's own names. Standard library only: init imports it.

Every function raises OSError with errno, the call and its main argument.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PARENT = 0x00008000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19

MNT_DETACH = 2

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_ONLYDIR = 0x1000000

KEYCTL_JOIN_SESSION_KEYRING = 1

RESOLVE_IN_ROOT = 0x10
RESOLVE_NO_MAGICLINKS = 0x02

_SYS = {  # the same on every architecture since Linux 5.x, but for clone
    "openat2": 437,
}
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
_SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "ppc64le": 120, "s390x": 120}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, call: str, subject: str) -> int:
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{call}: {os.strerror(errno)}", subject)
    return result


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare", hex(flags))


def setns(descriptor: int, kind: int) -> None:
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns", hex(kind))


def mount(
    source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None
) -> None:
    def encoded(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    result = _libc.mount(encoded(source), os.fsencode(target), encoded(kind), flags, encoded(data))
    _check(result, f"mount {kind or source}", target)


def umount2(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), "umount", target)


def syncfs(descriptor: int) -> None:
    """Until all that was written on the file system of `descriptor` is on its disk."""
    _check(_libc.syncfs(ctypes.c_int(descriptor)), "syncfs", str(descriptor))


def inotify_init1(flags: int) -> int:
    """`flags` are O_CLOEXEC and O_NONBLOCK, which IN_CLOEXEC and IN_NONBLOCK are."""
    return _check(_libc.inotify_init1(ctypes.c_int(flags)), "inotify_init1", hex(flags))


def inotify_add_watch(descriptor: int, path: str, mask: int) -> int:
    result = _libc.inotify_add_watch(ctypes.c_int(descriptor), os.fsencode(path), ctypes.c_uint32(mask))
    return _check(result, "inotify_add_watch", path)


def ptrace_traceme() -> None:
    """The next execve(2) of this process stops it for its parent, before the new program's first instruction."""
    _check(_libc.ptrace(ctypes.c_long(0), ctypes.c_long(0), None, None), "ptrace", "TRACEME")


def clone_sibling(flags: int) -> int:
    """Fork with `flags`; the child's parent is the caller's parent (CLONE_PARENT). Returns 0 in the child.

    Only for single-threaded programs: Python's own fork handlers do not run.
    """
    number = _SYS_CLONE[os.uname().machine]
    sigchld = 17
    arguments = [ctypes.c_long(number), ctypes.c_ulong(flags | CLONE_PARENT | sigchld)] + [
        ctypes.c_ulong(0)
    ] * 4
    if os.uname().machine == "s390x":  # there the stack comes first
        arguments[1], arguments[2] = arguments[2], arguments[1]
    return _check(_libc.syscall(*arguments), "clone", hex(flags))


def join_session_keyring() -> None:
    """keyctl(2): a session keyring of our own, new and without a name."""
    number = _SYS_KEYCTL[os.uname().machine]
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(KEYCTL_JOIN_SESSION_KEYRING), ctypes.c_char_p(None)
    )
    _check(result, "keyctl", "join session keyring")


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """openat2(2) with RESOLVE_IN_ROOT: `path`, its `..` and its symlinks can't leave the directory `root`."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    result = _libc.syscall(
        ctypes.c_long(_SYS["openat2"]), ctypes.c_int(root), ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)),
    )  # fmt: skip
    return _check(result, "open", path)
