"""Profiles compiled against capabilities, architecture and kernel; the two caches."""

from __future__ import annotations

import os
from base64 import b64decode
from pathlib import Path

import msgspec
import pytest

from ctnr.bundles import bpf
from ctnr.bundles.defaults import CAPABILITIES
from ctnr.bundles.errors import BundleError
from ctnr.bundles.seccomp import Filter, Profile, SeccompProfiles, compile_profile

PROFILE = b"""{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"defaultErrno":"ENOSYS",
"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
"syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":null},
{"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
{"names":["bpf"],"action":"SCMP_ACT_ERRNO","errnoRet":1,"errno":"EPERM","excludes":{"caps":["CAP_SYS_ADMIN"]}},
{"names":["arch_prctl"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64"]}},
{"names":["ptrace"],"action":"SCMP_ACT_ALLOW","errnoRet":1,"includes":{"minKernel":"4.8"}},
{"name":"personality","action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"valueTwo":0,"op":"SCMP_CMP_EQ"}]}]}"""


def _compile(*caps: str, machine: str = "x86_64", kernel: str = "6.1.0-18-amd64") -> Filter:
    return compile_profile(msgspec.json.decode(PROFILE, type=Profile), caps, machine, kernel)


def _actions(compiled: Filter) -> dict[str, tuple[str, int | None]]:
    return {name: (rule.action, rule.errno_ret) for rule in compiled.syscalls for name in rule.names}


def test_conditions() -> None:
    assert _actions(_compile())["bpf"] == ("SCMP_ACT_ERRNO", 1)
    assert _actions(_compile("CAP_SYS_ADMIN"))["bpf"] == ("SCMP_ACT_ALLOW", None)
    assert "arch_prctl" not in _actions(_compile(machine="aarch64"))
    assert "ptrace" not in _actions(_compile(kernel="4.4.0"))
    assert _actions(_compile())["ptrace"] == (
        "SCMP_ACT_ALLOW",
        None,
    )  # a number with ALLOW is refused by runtimes


def test_defaults_and_architectures() -> None:
    compiled = _compile()
    assert compiled.default_errno_ret == 38
    assert compiled.architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")
    assert _compile(machine="s390x").architectures == ()


def test_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "p.json"
    profile.write_bytes(PROFILE)
    first = SeccompProfiles(str(tmp_path / "cache")).load(str(profile), CAPABILITIES)
    assert first is not None
    monkeypatch.setattr("ctnr.bundles.seccomp.compile_profile", lambda *_: pytest.fail("compiled again"))
    profiles = SeccompProfiles(str(tmp_path / "cache"))
    again = profiles.load(str(profile), CAPABILITIES)
    assert again is not None
    assert (bytes(again.seccomp), again.bpf) == (bytes(first.seccomp), first.bpf)
    assert profiles.load(str(profile), CAPABILITIES) is again
    assert profiles.load("unconfined", CAPABILITIES) is None
    os.utime(profile, (1, 1))
    with pytest.raises(pytest.fail.Exception, match="compiled again"):
        profiles.load(str(profile), CAPABILITIES)


@pytest.mark.parametrize(
    "content", [b"{", b'{"syscalls":[]}', b'{"defaultAction":"SCMP_ACT_ERRNO","defaultErrno":"X"}']
)
def test_bad_profile(tmp_path: Path, content: bytes) -> None:
    profile = tmp_path / "p.json"
    profile.write_bytes(content)
    with pytest.raises(BundleError, match="seccomp profile"):
        SeccompProfiles(None).load(str(profile), ())


def test_missing_profile(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        SeccompProfiles(None).load(str(tmp_path / "none"), ())


@pytest.mark.skipif(bpf.library_version() == "none", reason="libseccomp.so.2 is not installed")
def test_program_is_bpf(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_bytes(PROFILE)
    compiled = SeccompProfiles(None).load(str(profile), ())
    assert compiled is not None
    assert compiled.bpf is not None
    assert len(b64decode(compiled.bpf)) % 8 == 0  # struct sock_filter
    assert bpf.assemble(Filter(default_action="SCMP_ACT_NOTIFY")) is None  # needs a listener: the runtime's
    assert bpf.assemble(Filter(default_action="SCMP_ACT_ALLOW", listener_path="/x")) is None
