"""The seccomp filter of a container: a distributed profile compiled against its capabilities and this machine.

`/usr/share/containers/seccomp.json` (containers-common; moby's format) is not OCI format: its rules are conditional
on capabilities, architecture and kernel. What comes out here is `linux.seccomp` of the runtime-spec, already encoded,
and for crun the finished BPF program: crun 1.8.1 needs 13 ms per container to make it from 400 syscalls, 1 ms to
take it from an annotation (measured: run 19.8 ms against 6.8 ms). Both go into config.json, so a runtime that does
not know the annotation still filters.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from base64 import b64encode
from collections.abc import Collection
from typing import Any

import msgspec

from ctnr.bundles import bpf
from ctnr.bundles.errors import BundleError
from netconf.decode import UNREADABLE

DEFAULT_PROFILES = (
    "/etc/containers/seccomp.json",
    "/usr/share/containers/seccomp.json",
    f"{__file__.rpartition('/lib/')[0]}/share/containers/seccomp.json",  # of the tree that `make dist` makes
)
BPF_ANNOTATION = "run.oci.seccomp_bpf_data"  # crun(1); base64 of an array of struct sock_filter

_FORMAT = "1"  # of what lies in the cache; raise it when the compiler changes
_PROFILE_LIMIT_BYTES = 4 << 20

# uname's machine → (Go's name, which includes.arches has; libseccomp's, which archMap has)
_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "armv6l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
}


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """A filter ready for config.json: `linux.seccomp`, and the same as base64 BPF where libseccomp could make it."""

    seccomp: msgspec.Raw
    bpf: str | None = None


class SyscallArgument(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    index: int
    value: int
    value_two: int = 0
    op: str


class Syscalls(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SyscallArgument, ...] = ()


class Filter(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`linux.seccomp` (runtime-spec, config-linux.md "Seccomp")."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: tuple[Syscalls, ...] = ()


class _Condition(msgspec.Struct, frozen=True, rename="camel"):
    caps: tuple[str, ...] | None = None
    arches: tuple[str, ...] | None = None
    min_kernel: str | None = None


class _Rule(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    action: str
    name: str | None = None
    names: tuple[str, ...] | None = None
    errno: str | None = None
    errno_ret: int | None = None
    args: tuple[SyscallArgument, ...] | None = None
    includes: _Condition | None = None
    excludes: _Condition | None = None


class _Architecture(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A profile file: moby's and containers-common's format, of which OCI's own is a subset."""

    default_action: str
    default_errno_ret: int | None = None
    default_errno: str | None = None
    architectures: tuple[str, ...] | None = None
    arch_map: tuple[_Architecture, ...] | None = None
    flags: tuple[str, ...] | None = None
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: tuple[_Rule, ...] | None = None


class SeccompProfiles:
    """Compiles profiles, and remembers: in the process, and in `cache_dir` (made at first need) for the next one."""

    def __init__(self, cache_dir: str | None) -> None:
        self._cache_dir = cache_dir
        self._compiled: dict[tuple[object, ...], Compiled] = {}
        machine = os.uname()
        self._machine, self._kernel = machine.machine, machine.release

    def load(self, choice: str | None, capabilities: Collection[str]) -> Compiled | None:
        """The filter for a process with this bounding set; None for `unconfined`.

        `choice` is None for the default profile, "unconfined", or the path of a profile.
        Raises: BundleError if the file can't be read or is no profile.
        """
        if choice == "unconfined":
            return None
        path, stat = _find(choice)
        capabilities = tuple(sorted(capabilities))
        key = (path, stat.st_mtime_ns, stat.st_size, stat.st_ino, capabilities)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = self._load_slowly(path, key, frozenset(capabilities))
        return compiled

    def _load_slowly(self, path: str, key: tuple[object, ...], capabilities: frozenset[str]) -> Compiled:
        facts = (_FORMAT, self._machine, self._kernel, bpf.library_version(), *key)
        name = hashlib.sha256(repr(facts).encode()).hexdigest()
        stored = self._read_cache(name)
        if stored is not None:
            return stored
        oci = compile_profile(_parse(path), capabilities, self._machine, self._kernel)
        program = bpf.assemble(oci)
        compiled = Compiled(
            seccomp=msgspec.Raw(msgspec.json.encode(oci)),
            bpf=None if program is None else b64encode(program).decode("ascii"),
        )
        self._write_cache(name, compiled)
        return compiled

    def _read_cache(self, name: str) -> Compiled | None:
        if self._cache_dir is None:
            return None
        try:
            with open(f"{self._cache_dir}/{name}.json", "rb") as file:
                return msgspec.json.decode(file.read(), type=Compiled)
        except (OSError, *UNREADABLE):
            return None  # no cache, or a damaged one: compiled again

    def _write_cache(self, name: str, compiled: Compiled) -> None:
        if self._cache_dir is None:
            return
        try:
            os.makedirs(self._cache_dir, mode=0o700, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self._cache_dir)
        except OSError:
            return  # a store that can't be written fails where it matters; the cache only saves time
        try:
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(compiled))
            os.replace(temporary, f"{self._cache_dir}/{name}.json")
        except OSError:
            os.unlink(temporary)


def compile_profile(profile: Profile, capabilities: Collection[str], machine: str, kernel: str) -> Filter:
    """The OCI filter for a bounding set, a machine (`x86_64`) and a kernel release (`6.1.0-18-amd64`).

    A rule counts if all `includes` hold and no `excludes` does. Raises: BundleError for contradictory fields.
    """
    go_name, native = _MACHINES.get(machine, (machine, f"SCMP_ARCH_{machine.upper()}"))
    if profile.architectures and profile.arch_map:
        raise BundleError(
            "seccomp profile: has both architectures and archMap", cure="leave out one of the two"
        )
    rules: list[Syscalls] = []
    for rule in profile.syscalls or ():
        if not _applies(rule, capabilities, go_name, kernel):
            continue
        if rule.name and rule.names:
            raise BundleError(
                f"seccomp profile: a rule has both name ({rule.name}) and names", cure="use names only"
            )
        rules.append(
            Syscalls(
                names=(rule.name,) if rule.name else rule.names or (),
                action=rule.action,
                errno_ret=_errno(rule.errno, rule.errno_ret) if rule.action in _WITH_ERRNO else None,
                args=rule.args or (),
            )
        )
    return Filter(
        default_action=profile.default_action,
        default_errno_ret=(
            _errno(profile.default_errno, profile.default_errno_ret)
            if profile.default_action in _WITH_ERRNO
            else None
        ),
        architectures=profile.architectures or _architectures(profile, native),
        flags=profile.flags or (),
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=tuple(rules),
    )


_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")  # runtimes refuse a number with any other action


def _applies(rule: _Rule, capabilities: Collection[str], arch: str, kernel: str) -> bool:
    if rule.excludes is not None:
        if any(name in capabilities for name in rule.excludes.caps or ()):
            return False
        if arch in (rule.excludes.arches or ()):
            return False
        if rule.excludes.min_kernel and _version(kernel) >= _version(rule.excludes.min_kernel):
            return False
    if rule.includes is None:
        return True
    if any(name not in capabilities for name in rule.includes.caps or ()):
        return False
    if rule.includes.arches and arch not in rule.includes.arches:
        return False
    return not rule.includes.min_kernel or _version(kernel) >= _version(rule.includes.min_kernel)


def _architectures(profile: Profile, native: str) -> tuple[str, ...]:
    for entry in profile.arch_map or ():
        if entry.architecture == native:
            return (native, *(entry.sub_architectures or ()))
    return ()  # the runtime then filters its own


def _errno(name: str | None, number: int | None) -> int | None:
    """The name wins, as in containers-common; it may also be a number in digits."""
    if not name:
        return number
    if name.isdecimal():
        return int(name)
    value: Any = getattr(errno, name, None)
    if not isinstance(value, int):
        raise BundleError(f"seccomp profile: unknown errno {name!r}", cure="errno(3) has the names")
    return value


def _version(release: str) -> tuple[int, int]:
    numbers = [part for part in release.replace("-", ".").split(".") if part.isdecimal()]
    return (int(numbers[0]), int(numbers[1])) if len(numbers) > 1 else (0, 0)


def _find(choice: str | None) -> tuple[str, os.stat_result]:
    for path in DEFAULT_PROFILES if choice is None else (choice,):
        try:
            return path, os.stat(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BundleError(f"seccomp profile {path}: {error.strerror}") from error
    if choice is None:
        raise BundleError(
            f"no default seccomp profile: {DEFAULT_PROFILES[1]} is missing",
            cure="sudo apt-get install golang-github-containers-common, or pass --seccomp=unconfined (less safe)",
        )
    raise BundleError(
        f"seccomp profile {choice}: no such file",
        cure="give the path of a profile, or --seccomp=unconfined (less safe)",
    )


def _parse(path: str) -> Profile:
    try:
        with open(path, "rb") as file:
            data = file.read(_PROFILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise BundleError(f"seccomp profile {path}: {error.strerror}") from error
    if len(data) > _PROFILE_LIMIT_BYTES:
        raise BundleError(f"seccomp profile {path}: longer than {_PROFILE_LIMIT_BYTES >> 20} MiB")
    try:
        return msgspec.json.decode(data, type=Profile)
    except UNREADABLE as error:
        raise BundleError(
            f"seccomp profile {path}: {error}", cure="see /usr/share/containers/seccomp.json for the format"
        ) from error
