"""`net check` and `net gc`: what plugins say of themselves, and what is left of containers that are gone."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_service import wait_until
from tests.world.leaks import descendants
from tests.world.people import Person, Result
from tests.world.plugins import MODERN, NoopPlugin, failing

BRIDGE = {
    "type": "bridge", "bridge": "ctnr-upkeep", "isGateway": True, "ipMasq": True,
    "ipam": {"type": "host-local", "subnet": "10.78.0.0/28", "routes": [{"dst": "0.0.0.0/0"}]},
}  # fmt: skip


class Shop:
    """Somebody's own plugins and networks."""

    def __init__(self, me: Person) -> None:
        self.me = me
        folder = Path(tempfile.mkdtemp(dir=me.home))
        self.programs, self.configs = folder / "plugins", folder / "net.d"
        self.configs.mkdir()
        self.keeper = NoopPlugin(self.programs, "keeper", "/usr/bin/python3")
        self.keeper.tell(VERSION=MODERN)
        for name in ("bridge", "host-local", "portmap", "tuning"):
            (self.programs / name).symlink_to(f"/usr/lib/cni/{name}")
        self.hand_over()

    def hide(self, hidden: bool = True) -> None:
        """Plugin host-local, or show it again."""
        away, there = self.programs / "away", self.programs / "host-local"
        if away.is_symlink() != hidden:
            (there if hidden else away).rename(away if hidden else there)

    def hand_over(self) -> None:
        subprocess.run(["chown", "-R", str(self.me.uid), self.programs.parent], check=True)

    def network(self, name: str, *plugins: dict[str, Any], version: str = "1.1.0", **more: Any) -> None:
        conf = {"cniVersion": version, "name": name, "plugins": plugins, **more}
        (self.configs / f"{name}.conflist").write_text(json.dumps(conf))

    def ctnr(self, *args: str, env: Mapping[str, str] | None = None) -> Result:
        ours = {"NETCONFPATH": str(self.configs), "CNI_PATH": str(self.programs)}
        return self.me.ctnr(*args, env={**ours, **(env or {})}, seconds=30)

    def gc(self) -> tuple[int, list[dict[str, str]]]:
        done = self.ctnr("net", "gc", "--format=json")
        return done.status, json.loads(done.stdout)


@pytest.fixture
def shop(me: Person) -> Iterator[Shop]:
    shop = Shop(me)
    yield shop
    shop.hide(False)
    shop.keeper.tell()
    assert shop.gc()[0] == 0
    known = [file.stem for file in shop.configs.iterdir()]
    me.ctnr("rm", "-f", *shop.ctnr("ps", "-aq").stdout.split())
    if known:
        shop.ctnr("net", "rm", *known).ok  # noqa: B018 -- and with them the books of their leases


def test_a_failed_del_is_made_up_for(shop: Shop) -> None:
    """host-local is not to be found when the container ends: its lease stays, until garbage is collected."""
    shop.network("mixed", BRIDGE, {"type": "keeper"})
    shop.hide()
    assert shop.ctnr("run", "--rm", "--network=mixed", "demo", "true").status == 125
    shop.hide(False)
    assert [one["network"] for one in shop.gc()[1]] == ["mixed"], "it could not tell whether it had a lease"
    hide = f"mv {shop.programs}/host-local {shop.programs}/away"
    shop.keeper.tell(VERSION=MODERN, DEL={"run": hide} | failing(111, "not today"))
    shop.ctnr("run", "--rm", "--network=mixed", "demo", "true").ok  # noqa: B018
    status, [told] = shop.gc()
    assert (status, told["network"], told["ifname"]) == (1, "mixed", "cni0")
    assert "not today" in told["error"]
    assert "host-local" in told["error"]
    shop.hide(False)
    shop.keeper.tell(VERSION=MODERN)
    status, [told] = shop.gc()
    assert (status, told.keys()) == (0, {"network", "container_id", "ifname"})
    assert shop.gc() == (0, [])
    attached = shop.keeper.calls("ADD")[-1]["env"]
    assert told["container_id"] == attached["CNI_CONTAINERID"]
    assert "GC" not in shop.keeper.commands(), "bridge is too old to be asked for it"
    last = shop.keeper.calls("DEL")[-1]
    assert last["env"]["CNI_CONTAINERID"] == attached["CNI_CONTAINERID"]
    assert json.loads(last["stdin"])["prevResult"]["ips"][0]["address"] == "10.78.0.2/28"
    [address] = shop.ctnr(
        "run", "--rm", "--network=mixed:ip=10.78.0.2", "demo", "hostname", "-i"
    ).ok.stdout.split()
    assert address == "10.78.0.2", "its lease is free again"


def test_what_lives_is_left_alone(shop: Shop, names: list[str]) -> None:
    shop.network("mixed", BRIDGE, {"type": "keeper"})
    names.append("a")
    words = ["run", "-d", "--name=a", "--network=mixed,bridge,slirp", "-p=127.0.0.1:8124:80"]
    shop.ctnr(*words, "demo", "httpd", "-f", "-h", "/etc").ok  # noqa: B018
    shop.ctnr("port", "add", "a", "127.0.0.1:8125:80").ok  # noqa: B018
    before = shop.keeper.commands()
    assert shop.gc() == (0, [])
    assert before == shop.keeper.commands()
    shop.ctnr("net", "check", "mixed", "bridge", "slirp").ok  # noqa: B018
    for port in (8124, 8125):
        assert (
            "root" in shop.me.run(["busybox", "wget", "-qO-", f"http://127.0.0.1:{port}/passwd"]).ok.stdout
        )


def test_plugins_that_know_gc_are_told_who_lives(shop: Shop, names: list[str]) -> None:
    shop.network("modern", {"type": "keeper"})
    shop.network("silent", {"type": "keeper"}, disableGC=True)
    for name, network in (("a", "modern"), ("b", "modern,silent"), ("gone", "modern")):
        names.append(name)
        shop.ctnr("run", "-d", f"--name={name}", f"--network={network}", "demo", "sleep", "1000").ok  # noqa: B018
    ids = shop.ctnr("ps", "-q", "--no-trunc").ok.stdout.split()
    gone = json.loads(shop.ctnr("inspect", "gone").ok.stdout)[0]["Id"]
    shop.keeper.tell(VERSION=MODERN, DEL=failing(5, "stuck"))
    shop.ctnr("rm", "-f", "gone").ok  # noqa: B018
    shop.keeper.tell(VERSION=MODERN)
    status, [told] = shop.gc()
    assert (status, told["container_id"]) == (0, gone)
    [asked] = shop.keeper.calls("GC")
    conf = json.loads(asked["stdin"])
    valid = conf["cni.dev/valid-attachments"]
    assert valid == conf["cni.dev/attachments"]
    assert sorted(one["containerID"] for one in valid) == sorted(set(ids) - {gone})
    assert {one["ifname"] for one in valid} == {"cni0"}
    assert "prevResult" not in conf
    assert {key for key in asked["env"] if key.startswith("CNI_")} == {"CNI_COMMAND", "CNI_PATH"}
    assert shop.keeper.commands()[-2:] == ["DEL", "GC"], "first what is known to be stale"
    shop.keeper.tell(VERSION=MODERN, GC=failing(111, "no broom"))
    status, [told] = shop.gc()
    assert (status, told["network"]) == (1, "modern")
    assert "no broom" in told["error"]


def test_nothing_is_attached_while_garbage_is_collected(shop: Shop) -> None:
    shop.network("modern", {"type": "keeper"})
    shop.ctnr("run", "--rm", "--network=modern", "demo", "true").ok  # noqa: B018
    shop.keeper.tell(VERSION=MODERN, GC={"sleep": 1})
    env = {"NETCONFPATH": str(shop.configs), "CNI_PATH": str(shop.programs)}
    with shop.me.popen(["ctnr", "net", "gc"], env=env) as collecting:
        wait_until(lambda: bool(shop.keeper.calls("GC")), "GC was not asked for")
        shop.ctnr("run", "--rm", "--network=modern", "demo", "true").ok  # noqa: B018
        assert collecting.wait(20) == 0
        collecting.communicate()
    assert shop.keeper.calls("ADD")[-1]["time"] >= shop.keeper.calls("GC")[0]["time"] + 1


def test_a_lease_that_nobody_has_is_taken_back(shop: Shop, names: list[str]) -> None:
    """host-local makes the file first and writes into it then: killed in between, it gives that address to nobody."""
    shop.network("tiny", BRIDGE)
    names.append("a")
    shop.ctnr("run", "-d", "--name=a", "--network=tiny", "demo", "sleep", "1000").ok  # noqa: B018
    book = _book(shop.me, "tiny")
    book("touch 10.78.0.9; printf 'somebody\\r\\ncni0' >10.78.0.10")
    assert shop.gc() == (
        0, [{"network": "tiny", "address": "10.78.0.10"}, {"network": "tiny", "address": "10.78.0.9"}],
    )  # fmt: skip
    assert book("ls").split() == ["10.78.0.2", "last_reserved_ip.0", "lock"]


def _book(me: Person, network: str) -> Callable[[str], str]:
    """A shell in host-local's directory of a network."""
    for pid in (os.getpid(), *descendants()):
        path = "/run/ctnr/leases" if me.uid == 0 else f"{me.runtime_dir}/sandbox/leases"
        if os.path.isdir(f"/proc/{pid}/root{path}/{network}"):
            enter = ["nsenter", f"--target={pid}", "--user", "--mount"]
            place = [] if pid == os.getpid() else [*enter, "--"]
            return lambda script: subprocess.run(
                [*place, "sh", "-c", f"cd {path}/{network} && {script}"], check=True, capture_output=True, text=True
            ).stdout  # fmt: skip
    raise AssertionError("no lease is kept")


def test_after_a_crash_with_a_plugin_that_fails(as_user: Person, busybox_image: Path) -> None:
    """On the host, what a killed service leaves stays on record until its DEL succeeds."""
    shop = Shop(as_user)
    pulled = shop.ctnr("pull", "-q", "--image-policy=insecure", f"oci:{busybox_image}").ok.stdout.strip()
    shop.ctnr("image", "tag", pulled, "demo").ok  # noqa: B018
    shop.network("mixed", BRIDGE, {"type": "keeper"})
    words = ["run", "-d", "--name=a", "--network=mixed", "-p=127.0.0.1:8124:80"]
    shop.ctnr(*words, "demo", "sleep", "1000").ok  # noqa: B018
    shop.keeper.tell(VERSION=MODERN, DEL=failing(111, "not today"))
    for pid in shop.me.service_pids():
        if b"ctnr.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, 9)
    wait_until(lambda: not shop.me.service_pids(), "something outlives the service")
    if shop.me.uid != 0:
        assert shop.gc() == (0, []), "all went with the sandbox"
        shop.ctnr("rm", "a").ok  # noqa: B018
        return
    status, [told] = shop.gc()
    assert (status, told["network"]) == (1, "mixed")
    shop.keeper.tell(VERSION=MODERN)
    status, [again] = shop.gc()
    assert (status, again) == (0, {key: told[key] for key in ("network", "container_id", "ifname")}), again
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    assert "10.78.0." not in rules
    assert "8124" not in rules
    assert not Path("/run/ctnr/leases/mixed/10.78.0.2").exists()
    shop.ctnr("rm", "a").ok  # noqa: B018


def test_status_is_asked_where_cni_knows_it(shop: Shop) -> None:
    shop.network("modern", {"type": "keeper"})
    shop.network("older", {"type": "keeper"}, version="1.0.0")
    shop.network("mixed", BRIDGE, {"type": "keeper"})
    assert shop.ctnr("net", "check", "modern", "older", "mixed").ok.stdout.count("ready") == 3
    assert shop.keeper.commands().count("STATUS") == 1
    for code, meaning in (
        (50, "nothing more can be attached: plugin keeper: the pool is empty"),
        (51, "nothing more can be attached, and what is may have lost its connection: plugin keeper"),
        (111, "the pool is empty (CNI error code 111)"),
    ):
        shop.keeper.tell(VERSION=MODERN, STATUS=failing(code, "the pool is empty"))
        done = shop.ctnr("net", "check", "modern", "older", "mixed")
        assert (done.status, meaning in done.stdout) == (1, True), done.stdout
        assert done.stdout.count("ready") == 2


def test_networks_that_overlap_are_found(shop: Shop) -> None:
    shop.network("one", BRIDGE)
    shop.network(
        "two", {**BRIDGE, "bridge": "ctnr-two", "ipam": {"type": "host-local", "subnet": "10.78.0.0/24"}}
    )
    done = shop.ctnr("net", "check", "one", "two", "bridge")
    assert done.status == 1
    assert "its subnet 10.78.0.0/28 overlaps 10.78.0.0/24 of network two" in done.stdout
    assert done.stdout.count("ready") == 1
