"""Whether the kernel would execute a file of a container: asked before the runtime is, whose answer comes too late.

crun and runc say that a container runs before its process executes the program; what goes wrong then they write
into the program's stderr. So the file's head is looked at (no process, microseconds), and where that looks wrong the
kernel itself is asked: `try_exec` executes it in a traced fork, which ends before its first instruction.
Standard library only, and little of it: init imports it.
"""

from __future__ import annotations

import _signal as signal  # what `signal` itself imports costs milliseconds
import os

from supervisor.sandbox import syscalls

HEAD_BYTES = 4096
DEPTH = 5  # of scripts whose interpreter is a script: the kernel follows as many
_LINE_BYTES = 256  # of `#!` and what follows (BINPRM_BUF_SIZE)
_UNSURE = 255
_PT_INTERP = 3
_MACHINES = {  # ELF's e_machine, 32-bit programs of the same processors included: the kernel may run them
    "x86_64": (62, 3), "aarch64": (183, 40), "riscv64": (243,), "ppc64le": (21,), "s390x": (22,),
}  # fmt: skip


Ids = tuple[int, int, list[int]]  # uid, gid and further groups of who executes it


def find(root: str, paths: list[str], ids: Ids) -> dict[str, object]:
    """The first of `paths` below `root` whose mode lets it be executed, as `examine` tells it, with its path as "text".

    Else "rest" has those that are there.
    """
    directory = _open_root(root)
    unusable = []
    try:
        for path in paths:
            try:
                found = syscalls.open_in_root(directory, path, os.O_PATH)
            except OSError:
                continue
            try:
                if _is_program(found):
                    return {"text": path, **_examine(directory, found, None, ids)}
            finally:
                os.close(found)
            unusable.append(path)
    finally:
        os.close(directory)
    return {"rest": unusable}


def examine(root: str, program: int, head: bytes, ids: Ids) -> dict[str, object]:
    """ "status" is the errno of executing the open file `program` in `root` (0: it can be), "rest" its interpreter.

    `head` is how the file begins: who asks has read it, so that no slow file system holds init up.
    """
    directory = _open_root(root)
    try:
        return _examine(directory, program, head, ids)
    finally:
        os.close(directory)


def _examine(root: int, program: int, head: bytes | None, ids: Ids) -> dict[str, object]:
    suspect, interpreter = _suspect(root, program, head, ids[0], DEPTH)
    return {"status": try_exec(root, program, ids) if suspect else 0, "rest": [interpreter]}


def try_exec(root: int, program: int, ids: Ids) -> int:
    """The errno of executing `program` in `root`, as `ids`; 0 if that works, or if it can't be tried here."""
    pid = os.fork()
    if pid == 0:
        try:
            try:
                os.fchdir(root)
                os.chroot(".")
                os.setgroups(ids[2])
                os.setgid(ids[1])
                os.setuid(ids[0])
                os.set_inheritable(
                    program, True
                )  # else a script would be gone before its interpreter reads it
                syscalls.ptrace_traceme()
            except OSError:
                os._exit(_UNSURE)
            os.execve(program, ["try"], {})
        except OSError as exc:
            os._exit(exc.errno or _UNSURE)
        finally:
            os._exit(_UNSURE)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSTOPPED(status):  # executed: stopped at its first instruction
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return 0
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else _UNSURE
    return 0 if code == _UNSURE else code


def _suspect(root: int, program: int, head: bytes | None, uid: int, depth: int) -> tuple[bool, str]:
    if head is None:
        try:
            head = _read_head(program)
        except OSError:
            return True, ""
    if uid and not _may_reach(root, program):
        return True, ""
    interpreter = interpreter_of(head)
    if interpreter is None:
        return True, ""
    if not interpreter.startswith("/"):  # none; or relative to its working directory: left to the runtime
        return False, interpreter
    try:
        found = syscalls.open_in_root(root, interpreter, os.O_PATH)
    except OSError:
        return True, interpreter
    try:
        if not _is_program(found) or not depth:
            return True, interpreter
        return _suspect(root, found, None, uid, depth - 1)[0], interpreter
    finally:
        os.close(found)


def interpreter_of(head: bytes) -> str | None:
    """What a file that begins so is executed by: a script's interpreter, a program's loader, "" for itself alone.

    None if it is nothing that this machine's kernel knows of itself (binfmt_misc may).
    """
    if head[:2] == b"#!":
        words = head[2:_LINE_BYTES].split(b"\n")[0].split()
        return os.fsdecode(words[0].split(b"\0")[0]) or None if words else None
    if head[:4] != b"\x7fELF" or len(head) < 52 or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    order = "little" if head[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)  # type: ignore[arg-type]

    machines = _MACHINES.get(os.uname().machine)
    if number(16, 2) not in (2, 3) or (machines is not None and number(18, 2) not in machines):
        return None
    wide = head[4] == 2
    table, size, count = (
        (number(32, 8), number(54, 2), number(56, 2))
        if wide
        else (number(28, 4), number(42, 2), number(44, 2))
    )
    if not table or not count or size < 32:
        return None
    for at in range(table, min(table + size * count, len(head) - size + 1), size):
        if number(at, 4) == _PT_INTERP:
            start, length = (number(at + 8, 8), number(at + 32, 8)) if wide else (
                number(at + 4, 4), number(at + 16, 4))  # fmt: skip
            return os.fsdecode(head[start : start + length].split(b"\0")[0])  # beyond the head: ""
    return ""


def _open_root(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _is_program(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return mode & 0o170000 == 0o100000 and mode & 0o111 != 0


def _read_head(program: int) -> bytes:
    opened = os.open(f"/proc/self/fd/{program}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(opened, HEAD_BYTES, 0)
    finally:
        os.close(opened)


def _may_reach(root: int, program: int) -> bool:
    """Whether anybody may execute it, and pass all directories above it."""
    if not os.fstat(program).st_mode & 0o001:
        return False
    top, path = (os.readlink(f"/proc/self/fd/{one}") for one in (root, program))
    while len(path) > len(top) and path.startswith(top):
        path = path.rpartition("/")[0]
        if not os.stat(path or "/").st_mode & 0o001:
            return False
    return True
