"""The plugin's protocol without a process. Real ADD to DEL: tests/ns/network/test_slirp_plugin.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.network import slirp_daemon
from supervisor.network.slirp_plugin import _merge_dns, answer


def reply(env: dict[str, str], stdin: bytes) -> tuple[int, dict[str, Any]]:
    status, out = answer(env, stdin)
    return status, json.loads(out) if out else {}


@given(
    st.sampled_from(["VERSION", "STATUS", "CHECK", "GC", "", "add"]),
    st.dictionaries(
        st.sampled_from(
            ["cniVersion", "name", "mtu", "prevResult", "runtimeConfig", "cni.dev/valid-attachments", "x"]
        ),
        st.one_of(
            st.none(), st.integers(), st.text(max_size=8), st.sampled_from(["1.1.0", "0.4.0"]), st.just({})
        ),
    ),
)
def test_whatever_comes_the_answer_is_one_of_the_spec(command: str, conf: dict[str, Any]) -> None:
    status, told = reply({"CNI_COMMAND": command, "PATH": "/nowhere"}, json.dumps(conf).encode())
    if status:
        assert told["code"] > 0
        assert told["msg"]
        assert told["cniVersion"]


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.just("10.9.0.2/24"))
KEYS = st.sampled_from(
    ["interfaces", "ips", "routes", "dns", "address", "name", "sandbox", "nameservers", "search", "servers",
     "portMappings", "hostPort", "mac", "interface", "cniVersion"]
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(["ADD", "CHECK"]), TREES, TREES, TREES)
def test_no_shape_of_what_a_runtime_hands_on_breaks_it(
    command: str, previous: Any, runtime: Any, told: Any
) -> None:
    env = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c",
        "CNI_IFNAME": "cni0",
        "CNI_NETNS": "/no/such/netns",
    }
    conf = {"cniVersion": "1.0.0", "name": "n", "type": "slirp", "prevResult": previous, "runtimeConfig": runtime,
            "dns": told}  # fmt: skip
    status, answered = reply(env, json.dumps(conf).encode())
    assert status == 1, "there is no such netns"
    assert answered["code"] in (3, 7, 100), answered


@given(st.binary(max_size=50))
def test_any_bytes(stdin: bytes) -> None:
    status, _ = reply({"CNI_COMMAND": "ADD"}, stdin)
    assert status == 1


def test_dns_is_merged() -> None:
    first = {"nameservers": ["a", "b"], "domain": "one"}
    second = {"nameservers": ["b", "c"], "domain": "two", "search": ["s"]}
    assert _merge_dns(first, second) == {"nameservers": ["a", "b", "c"], "domain": "one", "search": ["s"]}
    assert _merge_dns({}, {}) == {}


def test_starts_without_trio_and_says_what_it_is() -> None:
    program = "import sys, supervisor.network.slirp_plugin as p; p.main(); print('trio' in sys.modules)"
    env = {key: value for key, value in os.environ.items() if not key.startswith("CNI_")}
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root, env=env
    )
    assert done.stdout == "False\n"
    assert done.stderr.startswith("CNI plugin slirp; CNI versions: ")


def test_records_are_private(tmp_path: Path) -> None:
    store = slirp_daemon.Store([str(tmp_path / "a")])
    path = store.path("net", "c", "cni0")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    record = slirp_daemon.Record(
        network="net",
        container="c",
        ifname="cni0",
        boot="b",
        pid=1,
        start=2,
        netns=(3, 4),
        mac="m",
        address="a",
    )
    store.write(path, record)
    assert store.read("net", "c", "cni0") == (path, record)
    assert list(store.all()) == [(path, record)]
    assert not slirp_daemon.is_running(record)  # of another boot
    Path(path).write_bytes(b"")
    found = store.read("net", "c", "cni0")
    assert found is not None
    assert (found[1].pid, found[1].network) == (0, "net")
    store.remove(path)
    store.remove(path)
    assert store.read("net", "c", "cni0") is None


def test_a_directory_of_others_or_open_to_them_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    store = slirp_daemon.Store([str(tmp_path / "open"), str(tmp_path / "link"), str(tmp_path / "good")])
    assert store.path("n", "c", "i").startswith(str(tmp_path / "good"))
    with pytest.raises(OSError, match="private directory"):
        slirp_daemon.Store([str(tmp_path / "open")]).path("n", "c", "i")
