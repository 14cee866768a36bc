"""The program that decides on devices in a v2 cgroup (BPF_PROG_TYPE_CGROUP_DEVICE, bpf(2)): assembled, attached."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_TYPE_CGROUP_DEVICE = 15
_ATTACH_TYPE_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2  # what a manager above has attached still counts

# opcodes, as linux/bpf.h and linux/bpf_common.h compose them
_LOAD_WORD = 0x61
_AND, _SHIFT_RIGHT, _MOVE_REGISTER, _MOVE = 0x54, 0x74, 0xBC, 0xB7
_JUMP_UNLESS, _JUMP_UNLESS_REGISTER = 0x55, 0x5D
_EXIT = 0x95

_KINDS = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL_ACCESS = 7

_libc = ctypes.CDLL(None, use_errno=True)


def assemble(rules: Iterable[tuple[str, int | None, int | None, str]]) -> bytes:
    """Allow what one of (kind, major, minor, access) allows, deny all else. None is any number.

    Registers: 2 the kind, 3 the access that is wanted, 4 the major, 5 the minor number.
    """
    program = [
        _instruction(_LOAD_WORD, 2, 1, 0),  # access << 16 | kind
        _instruction(_MOVE_REGISTER, 3, 2),
        _instruction(_AND, 2, value=0xFFFF),
        _instruction(_SHIFT_RIGHT, 3, value=16),
        _instruction(_LOAD_WORD, 4, 1, 4),
        _instruction(_LOAD_WORD, 5, 1, 8),
    ]
    for kind, major, minor, access in rules:
        program += _allow(kind, major, minor, sum(_ACCESS[one] for one in set(access)))
    return b"".join([*program, _instruction(_MOVE, 0), _instruction(_EXIT)])


def load_device_program(program: bytes) -> int:
    """A descriptor of the program, the caller's. Raises: OSError (EPERM without CAP_BPF or CAP_SYS_ADMIN)."""
    instructions = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII", _PROG_TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(instructions),
        ctypes.addressof(licence), 0, 0, 0, 0, 0,
    )  # fmt: skip
    descriptor = _bpf(_PROG_LOAD, attributes)
    os.set_inheritable(descriptor, False)
    return descriptor


def attach_device_program(program: int, cgroup: int) -> None:
    """From now on it decides for the cgroup. Raises: OSError."""
    _bpf(_PROG_ATTACH, struct.pack("=IIII", cgroup, program, _ATTACH_TYPE_CGROUP_DEVICE, _ALLOW_MULTI))


def _allow(kind: str, major: int | None, minor: int | None, access: int) -> list[bytes]:
    tests = [(_JUMP_UNLESS, 2, 0, _KINDS[kind])]
    if major is not None:
        tests.append((_JUMP_UNLESS, 4, 0, major))
    if minor is not None:
        tests.append((_JUMP_UNLESS, 5, 0, minor))
    if access != _ALL_ACCESS:  # all that is wanted must be allowed
        tests += [(_MOVE_REGISTER, 1, 3, 0), (_AND, 1, 0, access), (_JUMP_UNLESS_REGISTER, 1, 3, 0)]
    found = []
    for at, (code, target, source, value) in enumerate(tests):
        jumps = code in (_JUMP_UNLESS, _JUMP_UNLESS_REGISTER)
        over = len(tests) - at + 1 if jumps else 0  # what is left of the tests, and the two below
        found.append(_instruction(code, target, source, over, value))
    return [*found, _instruction(_MOVE, 0, value=1), _instruction(_EXIT)]


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, value)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    number = _SYS_BPF[os.uname().machine]
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(buffer)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf: {os.strerror(error)}")
    return int(result)
