"""Where the service is looked for, and what is refused on the way."""

from __future__ import annotations

import hashlib
import os
import socket
import tomllib
from pathlib import Path

import pytest

import ctnr
from ctnr.client import connect
from ctnr.client.connect import Service, base_runtime_dir, check_private, default_store_dir
from ctnr.client.environ import absolute, lookup
from ctnr.client.errors import ClientError

ROOT = Path(__file__).parents[4]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CTNR_STORE_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CTNR_RUNTIME_DIR", f"{tmp_path}/run/")
    return tmp_path


def test_the_version_is_told_once() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == ctnr.__version__


def test_directories(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_store_dir() == f"{home}/.ctnr"
    assert Service().runtime_dir == Service(f"{home}/.ctnr/").runtime_dir == f"{home}/run"
    monkeypatch.chdir(home)
    digest = hashlib.sha256(f"{home}/other".encode()).hexdigest()[:12]
    assert Service("other").runtime_dir == f"{home}/run/{digest}"
    monkeypatch.setenv("CTNR_STORE_DIR", f"{home}/other")
    assert Service().store_dir == f"{home}/other"
    assert Service("mine").store_dir == f"{home}/mine"


def test_runtime_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTNR_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    assert base_runtime_dir() == f"{home}/ctnr"
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{home}/missing")
    assert base_runtime_dir() in ("/run/ctnr", f"/tmp/ctnr-{os.geteuid()}")


def test_roots_service_does_not_go_at_logout(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTNR_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0/")
    monkeypatch.setattr(connect.os, "geteuid", lambda: 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(connect.os, "access", lambda path, mode: path == "/run")  # type: ignore[attr-defined]
    assert base_runtime_dir() == "/run/ctnr"


def test_only_private_directories_will_do(home: Path) -> None:
    directory = home / "run"
    assert not check_private(str(directory))
    directory.mkdir(mode=0o755)
    with pytest.raises(ClientError, match="open to others") as caught:
        check_private(str(directory))
    assert caught.value.cure == f"chmod 700 {directory}"
    directory.chmod(0o700)
    assert check_private(str(directory))
    (home / "link").symlink_to(directory)
    (home / "file").touch()
    for wrong in ("link", "file"):
        with pytest.raises(ClientError, match="not a directory"):
            check_private(str(home / wrong))


def test_nobody_there(home: Path) -> None:
    assert Service().connect() is None
    (home / "run").mkdir(mode=0o700)
    assert Service().connect() is None
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(f"{home}/run/service.sock")
    assert Service().connect() is None


def test_a_path_longer_than_sockets_allow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = home / ("x" * 120)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("CTNR_RUNTIME_DIR", str(deep))
    monkeypatch.chdir(deep)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("service.sock")
        listener.listen()
        channel = Service().connect()
        assert channel is not None
        channel.close()


def test_paths_from_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    assert absolute("/a") == "/a"
    assert absolute("a") == absolute("./a") == absolute(".//a") == f"{home}/a"
    assert absolute(".") == absolute("./") == absolute("") == str(home)
    assert absolute("../a") == f"{home}/../a"


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRÜN", "\udcff")
    assert lookup("GRÜN") == "\udcff"
    assert lookup("NOT_THERE") is None
