"""Options become requests: paths made absolute, the environment resolved, networks told apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctnr.cli.request import read_env_file, resolve_env, resolve_mount, resolve_volume, split_networks, words
from ctnr.client.errors import UsageError

from .conftest import Ctnr


def test_run_says_what_was_typed(ctnr: Ctnr, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "42")
    monkeypatch.setenv("NETCONFPATH", "/nets")
    Path("policy.json").write_text("{}")
    Path("seccomp.json").write_text("{}")
    Path("labels").write_text("# mine\na=1\n\n")
    line = (
        "run -i --rm -b work --update --network=slirp:mtu=1500,cidr=10.9.0.0/24,bridge --net mine -v .:/src:ro"
        " -v data:/d --mount type=bind,source=sub,target=/sub --tmpfs /t:size=1m -e A=1 -e SECRET -w /src -u me:us"
        " --entrypoint sh --hostname h --dns 10.0.2.3 --dns-search lan --dns-opts ndots:2"
        " --hosts-entry a=1.2.3.4 --add-host b:::1"
        " --cap-add NET_ADMIN --cap-drop ALL --seccomp seccomp.json --readonly --image-policy policy.json --pull never"
        " --init --device ./null:/dev/x --ulimit nofile=9 --sysctl net.x=1 --shm-size 64m --label-file labels -l b=2"
        " --annotation c=3 --stop-signal INT --stop-timeout 1m --oom-score-adj -5 -p 8080:80 --platform linux/arm64"
        " --group-add wheel --security-opt no-new-privileges demo echo -n hi"
    )
    assert ctnr(*line.split()) == 7
    asked = ctnr.asked
    assert (asked.image, asked.args) == ("demo", ("echo", "-n", "hi"))
    assert (asked.name, asked.bundle, asked.update, asked.remove, asked.interactive) == (
        "work",
        "work",
        True,
        True,
        True,
    )
    assert asked.networks == ("slirp:mtu=1500,cidr=10.9.0.0/24", "bridge", "mine")
    assert asked.volumes == (f"{tmp_path}:/src:ro", "data:/d")
    assert asked.mounts == (f"type=bind,source={tmp_path}/sub,target=/sub",)
    assert asked.tmpfs == ("/t:size=1m",)
    assert asked.env == ("A=1", "SECRET=42")
    assert (asked.workdir, asked.user, asked.entrypoint, asked.hostname) == ("/src", "me:us", ("sh",), "h")
    assert (asked.dns, asked.dns_search, asked.dns_options) == (("10.0.2.3",), ("lan",), ("ndots:2",))
    assert set(asked.hosts_entries) == {"a=1.2.3.4", "b:::1"}
    assert (asked.cap_add, asked.cap_drop) == (("NET_ADMIN",), ("ALL",))
    assert (asked.seccomp, asked.image_policy) == (f"{tmp_path}/seccomp.json", f"{tmp_path}/policy.json")
    assert (asked.read_only, asked.init, asked.no_new_privileges) == (True, True, True)
    assert (asked.devices, asked.ulimits, asked.sysctls) == (
        (f"{tmp_path}/null:/dev/x",),
        ("nofile=9",),
        ("net.x=1",),
    )
    assert (asked.shm_size, asked.oom_score_adj, asked.stop_timeout) == (64 << 20, -5, 60.0)
    assert (asked.labels, asked.annotations) == (("a=1", "b=2"), ("c=3",))
    assert (asked.stop_signal, asked.pull, asked.platform) == ("INT", "never", "linux/arm64")
    assert (asked.publish, asked.group_add) == (("8080:80",), ("wheel",))
    assert asked.environ["NETCONFPATH"] == "/nets"
    assert "SECRET" not in asked.environ


def test_what_is_not_typed_is_not_sent(ctnr: Ctnr) -> None:
    ctnr("run", "demo")
    asked = ctnr.asked
    assert (asked.networks, asked.entrypoint, asked.name, asked.seccomp, asked.env) == (
        None,
        None,
        None,
        None,
        (),
    )
    ctnr(
        "run",
        "--entrypoint=",
        "--seccomp=unconfined",
        "--image-policy=insecure",
        "-b",
        "x",
        "--name",
        "y",
        "demo",
    )
    asked = ctnr.asked
    assert (asked.entrypoint, asked.seccomp, asked.image_policy) == ((), "unconfined", "insecure")
    assert (asked.bundle, asked.name) == ("x", "y")


def test_bundles_are_run_by_their_name(ctnr: Ctnr) -> None:
    ctnr("bundle", "run", "work", "sh", "-c", "true")
    assert (ctnr.asked.bundle, ctnr.asked.image, ctnr.asked.args) == ("work", None, ("sh", "-c", "true"))
    ctnr("run", "-b", "work")
    assert (ctnr.asked.bundle, ctnr.asked.image, ctnr.asked.args) == ("work", None, ())


def test_proxies_reach_the_container(ctnr: Ctnr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy")
    ctnr("run", "demo")
    assert ctnr.asked.env == ("https_proxy=http://proxy",)
    ctnr("run", "--http-proxy=false", "demo")
    assert ctnr.asked.env == ()


def test_image_references_seen_from_here(
    ctnr: Ctnr, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ctnr("pull", "oci:dir:tag")
    assert ctnr.asked.image == f"oci:{tmp_path}/dir:tag"
    ctnr("pull", "docker://localhost:5000/x")
    assert ctnr.asked.image == "docker://localhost:5000/x"
    ctnr("image", "export", "demo", "dir:out")
    assert ctnr.asked.destination == f"dir:{tmp_path}/out"


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("slirp", ["slirp"]),
        ("a,b", ["a", "b"]),
        ("slirp:mtu=9000,cidr=10.1.0.0/16,bridge", ["slirp:mtu=9000,cidr=10.1.0.0/16", "bridge"]),
        ("slirp:mtu=9000,slirp:mtu=1500,ip6=fd00::/64", ["slirp:mtu=9000", "slirp:mtu=1500,ip6=fd00::/64"]),
        ("bridge,slirp:ipv6=true", ["bridge", "slirp:ipv6=true"]),
        ("a,b=c", ["a", "b=c"]),
    ],
)
def test_networks(text: str, networks: list[str]) -> None:
    assert split_networks(text) == networks


@pytest.mark.parametrize("text", ["", ",", "a,", ",a"])
def test_empty_networks(text: str) -> None:
    with pytest.raises(UsageError):
        split_networks(text)


def test_volumes() -> None:
    here = os.getcwd()
    assert resolve_volume("./a:/b") == f"{here}/a:/b"
    assert resolve_volume("a/b:/b:ro") == f"{here}/a/b:/b:ro"
    assert resolve_volume("..:/b") == f"{here}/..:/b"
    for same in ("/a:/b", "data:/b", "/b"):
        assert resolve_volume(same) == same
    assert resolve_mount("type=volume,source=a,target=/b") == "type=volume,source=a,target=/b"


def test_env(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("LC_TIME", "de")
    assert resolve_env(["LC_*", "NONE", "A=", "B=LC_*", "LC_ALL"]) == [
        "LC_ALL=C",
        "LC_TIME=de",
        "A=",
        "B=LC_*",
        "LC_ALL=C",
    ]


def test_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    file = tmp_path / "env"
    file.write_bytes(b"\xef\xbb\xbf# no\r\n\r\n  A= 'quoted' # kept \r\nHERE\nGONE_AWAY\nB=x=y\nE=")
    assert read_env_file(str(file)) == ["A= 'quoted' # kept ", "HERE=yes", "B=x=y", "E="]
    for wrong in ("=x", "A B=c", "*"):
        file.write_text("A=1\n" + wrong)
        with pytest.raises(UsageError, match=r"env:2: "):
            read_env_file(str(file))


def test_words() -> None:
    assert words('sh -c "a b"') == ["sh", "-c", "a b"]
    assert words('["sh", "-c", "a b"]', split=False) == ["sh", "-c", "a b"]
    assert words("/my program", split=False) == ["/my program"]
    for wrong in ('sh "', "[1]", "[sh]"):
        with pytest.raises(UsageError):
            words(wrong)
