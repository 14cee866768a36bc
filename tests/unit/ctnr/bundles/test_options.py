"""Capabilities, environment, limits, sysctls, devices, mount options, signals: the small parsers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.bundles.capabilities import NAMES, build_capabilities
from ctnr.bundles.defaults import CAPABILITIES
from ctnr.bundles.devices import build_devices, device_filter
from ctnr.bundles.env import build_env
from ctnr.bundles.errors import BundleError
from ctnr.bundles.image import ImageProcess, load_image_config
from ctnr.bundles.init_program import find_init_program
from ctnr.bundles.limits import build_rlimits, build_sysctls, clamp_oom_score_adj
from ctnr.bundles.mount_options import bind_options, parse_options, tmpfs_options
from ctnr.bundles.mounts import parse_mount, parse_tmpfs, parse_volume
from ctnr.bundles.process import build_args, parse_signal, resolve_workdir

ALL = frozenset(NAMES)


def test_capabilities() -> None:
    plain = build_capabilities(ALL)
    assert set(plain.bounding) == set(CAPABILITIES) == set(plain.effective)
    assert plain.inheritable == plain.ambient == ()
    user = build_capabilities(ALL, root=False)
    assert user.bounding == plain.bounding
    assert user.effective == user.permitted == user.ambient == ()
    added = build_capabilities(ALL, add=("net_admin",), drop=("ALL",), root=False)
    assert added.bounding == added.effective == added.ambient == ("CAP_NET_ADMIN",)
    assert set(build_capabilities(ALL, add=("all",), drop=("CAP_SYS_ADMIN",)).bounding) == ALL - {
        "CAP_SYS_ADMIN"
    }
    assert set(build_capabilities(ALL, privileged=True).bounding) == ALL


@pytest.mark.parametrize(
    ("available", "add", "drop"),
    [
        (ALL, ("CAP_NOPE",), ()),
        (ALL, ("CHOWN",), ("cap_chown",)),
        (frozenset({"CAP_CHOWN"}), ("NET_ADMIN",), ()),
    ],
)
def test_bad_capabilities(available: frozenset[str], add: tuple[str, ...], drop: tuple[str, ...]) -> None:
    with pytest.raises(BundleError):
        build_capabilities(available, add=add, drop=drop)


def test_env_order() -> None:
    env = build_env(["A=1", "PATH=/i", "bad"], ["A=2", "A=3", "E="], hostname="h", home="/r", term="vt100")
    assert dict(e.split("=", 1) for e in env) == {
        "PATH": "/i", "HOSTNAME": "h", "container": "ctnr", "TERM": "vt100", "A": "3", "E": "", "HOME": "/r",
    }  # fmt: skip
    assert "HOME=/x" in build_env(["HOME=/x"], [], hostname="h", home="/r", term=None)
    with pytest.raises(BundleError):
        build_env([], ["=x"], hostname="h", home="/", term=None)


def test_args_and_workdir() -> None:
    image = ImageProcess(entrypoint=("e",), cmd=("c",), working_dir="/srv")
    assert build_args(image, None, ()) == ("e", "c")
    assert build_args(image, None, ("x",)) == ("e", "x")
    assert build_args(image, ("n",), ()) == ("n",)
    for entrypoint in ((), ("",)):
        with pytest.raises(BundleError):
            build_args(image, entrypoint, ())
    assert [resolve_workdir(image, w) for w in (None, "a/../b", "/abs", "//x")] == [
        "/srv",
        "/srv/b",
        "/abs",
        "/x",
    ]


def test_image_config_with_nulls() -> None:
    assert load_image_config(b'{"config":null,"os":"linux"}').config == ImageProcess()
    assert load_image_config(b'{"config":{"Env":null,"Volumes":{"/d":{}}}}').config.volumes is not None
    with pytest.raises(BundleError):
        load_image_config(b"[]")


def test_rlimits() -> None:
    hard = {"RLIMIT_NOFILE": 4096}
    (limit,) = build_rlimits((), hard=hard, may_raise=False)
    assert (limit.soft, limit.hard) == (4096, 4096)
    (limit,) = build_rlimits(("nofile=10:20",), hard=hard, may_raise=False)
    assert (limit.soft, limit.hard) == (10, 20)
    with pytest.raises(BundleError, match="hard limit of 4096"):
        build_rlimits(("nofile=-1",), hard=hard, may_raise=False)
    assert build_rlimits(("nofile=-1",), hard=hard, may_raise=True)[0].hard == 2**64 - 1
    for bad in ("nofile", "nofile=2:1", "nope=1", "nofile=a", "nofile=1:2:3"):
        with pytest.raises(BundleError):
            build_rlimits((bad,), hard=hard, may_raise=True)


def test_sysctls() -> None:
    assert build_sysctls((), private_netns=True) == {"net.ipv4.ping_group_range": "0 0"}
    assert build_sysctls((), private_netns=False) == {}
    assert build_sysctls(("net/ipv4/conf/eth0.1/forwarding=1",), private_netns=True)[
        "net.ipv4.conf.eth0/1.forwarding"
    ]
    for bad, private in (
        ("net.x.y=1", False),
        ("kernel.panic=1", True),
        ("vm.swappiness", True),
        ("=1", True),
    ):
        with pytest.raises(BundleError):
            build_sysctls((bad,), private_netns=private)


def test_oom_is_clamped() -> None:
    with open("/proc/self/oom_score_adj") as file:
        current = int(file.read())
    assert clamp_oom_score_adj(-1000, may_lower=False) == current
    assert clamp_oom_score_adj(-1000, may_lower=True) == -1000
    with pytest.raises(BundleError):
        clamp_oom_score_adj(1001, may_lower=True)


def test_devices(tmp_path: Path) -> None:
    assert (
        build_devices(("/dev/null:/dev/nothing:rw",), rootless=True, privileged=False).mounts[0].destination
        == "/dev/nothing"
    )
    node = build_devices(("/dev/null",), rootless=False, privileged=False)
    assert (node.nodes[0].type, node.nodes[0].major, node.nodes[0].minor) == ("c", 1, 3)
    assert node.rules[0].allow is False
    for bad in ("null", "/dev/none-such", str(tmp_path / "f"), "/dev/null:/a:/b", "/dev/null:r"):
        (tmp_path / "f").touch()
        with pytest.raises(BundleError):
            build_devices((bad,), rootless=True, privileged=False)


def test_device_cgroups_only_where_modes_do_not_do() -> None:
    def rules(
        *devices: str, cap: str = "CHOWN", rootless: bool = False, privileged: bool = False
    ) -> list[str]:
        return [
            str(rule) for rule in device_filter(devices, [cap], rootless=rootless, privileged=privileged)
        ]

    assert rules() == rules("/dev/null") == rules("/dev/null:rw") == []
    assert rules("/dev/null:r", "/dev/zero") == ["c 1:3 r", "c 1:5 rwm"]
    assert rules("/dev/null:/dev/x:w", cap="mknod") == ["c 1:3 w"]
    assert rules(cap="ALL") == ["c 136:* rwm"]
    assert rules("/dev/null:r", cap="ALL", privileged=True) == rules("/dev/null:r", rootless=True) == []


def test_mount_options(tmp_path: Path) -> None:
    def bind(*words: str, rootless: bool = False, recursive_ro: bool = True) -> tuple[str, ...]:
        options = parse_options(words, what="v", kind="bind")
        return bind_options(options, str(tmp_path), what="v", rootless=rootless, recursive_ro=recursive_ro)

    assert bind() == ("rbind", "rprivate", "nosuid", "nodev")
    assert bind("ro", "z")[-1] == "rro"
    assert "rro" not in bind("ro", recursive_ro=False)
    assert bind("suid", "bind", "rshared")[:3] == ("bind", "rshared", "suid")
    assert parse_options(("ro", "rw"), what="v", kind="bind").flags == ("rw",)  # the later one wins
    with pytest.raises(BundleError, match=r"5\.12"):
        bind("rro", recursive_ro=False)
    for word in ("O", "idmap", "size=1m", "x"):
        with pytest.raises(BundleError):
            bind(word)
    assert tmpfs_options(parse_options(("size=1m", "exec"), what="t", kind="tmpfs")) == (
        "exec", "nosuid", "nodev", "rprivate", "size=1m", "tmpcopyup",
    )  # fmt: skip


def test_locked_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs("/")
    locked = os.statvfs_result((*tuple(real)[:8], os.ST_NOEXEC, *tuple(real)[9:]))
    monkeypatch.setattr(os, "statvfs", lambda _: locked)
    plain = parse_options((), what="v", kind="bind")
    assert "noexec" in bind_options(plain, "/", what="v", rootless=True, recursive_ro=True)
    wish = parse_options(("exec",), what="v", kind="bind")
    with pytest.raises(BundleError, match="exec is not possible"):
        bind_options(wish, "/", what="v", rootless=True, recursive_ro=True)


@given(st.text(alphabet='/:=,abro.-_ \0"', max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_volume, parse_mount, parse_tmpfs):
        try:
            wish = parse(text)
        except BundleError:
            continue
        assert wish.target.startswith("/")
        assert wish.target != "/"
        assert ".." not in wish.target.split("/")


def test_signals() -> None:
    for text in ("TERM", "sigterm", "15"):
        assert parse_signal(text) == signal.SIGTERM
    assert parse_signal("SIGRTMIN+3") == parse_signal("RTMAX-27") == 37
    for bad in ("", "NOPE", "0", "65", "RTMIN+99", "-9"):
        with pytest.raises(BundleError):
            parse_signal(bad)


def test_no_init_program(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        find_init_program(str(tmp_path))
    assert "apt-get install" in (caught.value.cure or "")
