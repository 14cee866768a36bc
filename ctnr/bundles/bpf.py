"""A seccomp filter as BPF, assembled by the libseccomp that the OCI runtime uses too (seccomp_init(3) and friends)."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctnr.bundles.seccomp import Filter, SyscallArgument

_EPERM = 1
_UNKNOWN_SYSCALL = -1  # __NR_SCMP_ERROR
_EEXIST = -17
_ARGUMENTS = 6  # of a system call

# include/uapi/linux/seccomp.h: SECCOMP_RET_*. ERRNO and TRACE carry a number in the low 16 bits.
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
# enum scmp_compare
_OPERATORS = {
    f"SCMP_CMP_{name}": number
    for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), start=1)
}


class _Comparison(ctypes.Structure):
    _fields_ = (  # struct scmp_arg_cmp
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


def assemble(wanted: Filter) -> bytes | None:
    """The program as struct sock_filter[], or None where the runtime has to do it.

    That is without libseccomp, and for what an annotation can't carry (a listener, flags), or this file does not know.
    """
    library = _library()
    if library is None or wanted.listener_path or wanted.flags:
        return None
    default = _action(wanted.default_action, wanted.default_errno_ret)
    if default is None:
        return None
    context = library.seccomp_init(default)
    if not context:
        return None
    try:
        if not _fill(library, context, wanted, default):
            return None
        return _export(library, context)
    finally:
        library.seccomp_release(context)


@cache
def library_version() -> str:
    """libseccomp's version, "none" without it: part of the key under which a program is kept."""
    library = _library()
    if library is None:
        return "none"
    version = library.seccomp_version().contents
    return f"{version.major}.{version.minor}.{version.micro}"


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


def _fill(library: Any, context: int, wanted: Filter, default: int) -> bool:
    for name in wanted.architectures:
        token = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
        if token == 0 or library.seccomp_arch_add(context, token) not in (0, _EEXIST):
            return False
    for rule in wanted.syscalls:
        action = _action(rule.action, rule.errno_ret)
        if action is None:
            return False
        if action == default:
            continue  # libseccomp refuses such a rule (EACCES)
        groups = _comparisons(rule.args)
        if groups is None:
            return False
        for name in rule.names:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == _UNKNOWN_SYSCALL:
                continue  # newer than this libseccomp: the default action is its answer
            for array in groups:
                if library.seccomp_rule_add_array(context, action, number, len(array), array) < 0:
                    return False
    return True


def _action(name: str, number: int | None) -> int | None:
    base = _ACTIONS.get(name)
    if base is None:
        return None  # SCMP_ACT_NOTIFY wants a listener; anything else, the runtime's error message
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return base | ((_EPERM if number is None else number) & 0xFFFF)
    return base


def _comparisons(arguments: tuple[SyscallArgument, ...]) -> list[ctypes.Array[_Comparison]] | None:
    """One rule that compares all, or one rule each if an argument occurs twice (as crun and runc read it: or)."""
    if len(arguments) > _ARGUMENTS:
        return None
    parts = []
    for argument in arguments:
        operator = _OPERATORS.get(argument.op)
        if operator is None or not 0 <= argument.index < _ARGUMENTS:
            return None
        parts.append(_Comparison(argument.index, operator, argument.value, argument.value_two))
    if len({part.arg for part in parts}) < len(parts):
        return [(_Comparison * 1)(part) for part in parts]
    return [(_Comparison * len(parts))(*parts)]


def _export(library: Any, context: int) -> bytes | None:
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        if library.seccomp_export_bpf(context, descriptor) < 0:
            return None
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0) or None
    finally:
        os.close(descriptor)
