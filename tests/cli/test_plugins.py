"""What CNI plugins are told, and what becomes of a container whose plugin fails, from the command line."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_upkeep import BRIDGE, Shop, shop
from tests.world.plugins import MODERN, failing

__all__ = ["shop"]  # a fixture

ALL = ("portMappings", "ipRanges", "bandwidth", "dns", "ips", "mac", "aliases", "deviceID")
GIVEN = {
    "bandwidth": {"ingressRate": 1_000_000},
    "ipRanges": [[{"subnet": "10.79.0.0/24"}]],
    "deviceID": "0000:04:00.5",
}


def test_capabilities_reach_the_plugins_that_have_them(shop: Shop) -> None:
    """The same at DEL, or portmap's would do nothing."""
    mac = "02:42:0a:4e:00:09"
    result = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "cni0", "mac": mac, "sandbox": "/there"}],
        "ips": [{"address": "10.78.0.9/24", "interface": 0}],
    }
    shop.keeper.tell(VERSION=MODERN, ADD={"stdout": json.dumps(result)})
    shop.network("told", {"type": "keeper", "capabilities": dict.fromkeys(ALL, True), "own": 1})
    shop.network("untold", {"type": "keeper", "capabilities": {"aliases": False}})
    env = {"CAP_ARGS": json.dumps(GIVEN), "CNI_ARGS": "K8S_POD=x;EMPTY="}
    words = ["run", "--rm", "--network=told:alias=db", "--network-alias=web", "--name=one", "--hostname=box"]
    words += ["--dns=192.0.2.9", "--dns-search=shop.example", "--ip=10.78.0.9", f"--mac-address={mac}"]
    shop.ctnr(*words, "-p=127.0.0.1:8123:80/udp", "demo", "true", env=env).ok  # noqa: B018
    added, deleted = (shop.keeper.stdin(command=command) for command in ("ADD", "DEL"))
    told = added["runtimeConfig"]
    assert told == deleted["runtimeConfig"]
    assert GIVEN.items() <= told.items()
    assert told["aliases"][:2] == ["one", "db"]
    assert {"box", "web"} < set(told["aliases"])
    assert told["dns"] == {"servers": ["192.0.2.9"], "searches": ["shop.example"], "options": []}
    assert (told["ips"], told["mac"]) == (["10.78.0.9"], mac)
    [port] = told["portMappings"]
    assert (port["hostPort"], port["containerPort"], port["protocol"]) == (8123, 80, "udp")
    assert (added["own"], "capabilities" in added) == (1, False)
    assert deleted["prevResult"] == result
    for command in ("ADD", "DEL"):
        assert shop.keeper.calls(command)[-1]["env"]["CNI_ARGS"] == "IgnoreUnknown=1;K8S_POD=x;EMPTY="
    shop.ctnr("run", "--rm", "--network=untold", "demo", "true", env=env).ok  # noqa: B018
    assert "runtimeConfig" not in shop.keeper.stdin(command="ADD")
    shop.ctnr("run", "--rm", "--network=untold", "demo", "true").ok  # noqa: B018
    assert shop.keeper.calls("ADD")[-1]["env"]["CNI_ARGS"] == "IgnoreUnknown=1", (
        "not those of another command"
    )


def test_address_management_hears_of_them_too(shop: Shop) -> None:
    """Debian's host-local: the ranges of a capability, and an address by CNI_ARGS."""
    shop.network("mine", {**BRIDGE, "capabilities": {"ipRanges": True}, "ipam": {"type": "host-local"}})
    ranges = json.dumps({"ipRanges": [[{"subnet": "10.79.0.0/24", "rangeStart": "10.79.0.50"}]]})
    said = shop.ctnr("run", "--rm", "--network=mine", "demo", "hostname", "-i", env={"CAP_ARGS": ranges})
    assert said.ok.stdout == "10.79.0.50\n"
    shop.network("plain", {**BRIDGE, "bridge": "ctnr-plain"})
    said = shop.ctnr(
        "run", "--rm", "--network=plain", "demo", "hostname", "-i", env={"CNI_ARGS": "IP=10.78.0.7"}
    )
    assert said.ok.stdout == "10.78.0.7\n"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CNI_ARGS", "nonsense", "CNI_ARGS has 'nonsense'"),
        ("CAP_ARGS", "[1]", "CAP_ARGS '[1]'"),
        ("CAP_ARGS", "{", "CAP_ARGS"),
    ],
)
def test_what_they_are_told_is_checked(shop: Shop, name: str, value: str, says: str) -> None:
    done = shop.ctnr("run", "--rm", "--network=bridge", "demo", "true", env={name: value})
    assert (done.status, says in done.stderr, done.stderr.count("\n")) == (125, True, 1)


def test_a_plugin_that_dies_half_way_through_add(shop: Shop) -> None:
    """Behind a bridge that has been made: all of it goes, and the plugin itself is asked to take its part away."""
    shop.network("half", BRIDGE, {"type": "keeper"})
    shop.keeper.tell(
        VERSION=MODERN,
        ADD={"run": "ip link add ctnr-half type dummy", "signal": 9},
        DEL={"run": "ip link delete ctnr-half"},
    )
    done = shop.ctnr("run", "--rm", "--network=half", "demo", "echo", "it ran")
    assert (done.status, done.stdout) == (125, "")
    assert "network plugin keeper failed at ADD: it was killed by signal 9" in done.stderr
    assert shop.keeper.commands() == ["VERSION", "ADD", "DEL"]
    assert "prevResult" not in shop.keeper.stdin(command="DEL")
    assert shop.gc() == (0, [])
    shop.keeper.tell(VERSION=MODERN)
    said = shop.ctnr("run", "--rm", "--network=half:ip=10.78.0.2", "demo", "hostname", "-i")
    assert said.ok.stdout == "10.78.0.2\n", "neither its lease nor a broken bridge is in the way"


def test_bridge_killed_half_way_through_del(shop: Shop) -> None:
    """It takes the interface first; without that, a second DEL finds no reason to look for its firewall rules.

    Behind the uplink it makes none: that has one rule for all.
    """
    shop.network("half", {**BRIDGE, "ipMasq": True})
    shop.network("look", {"type": "keeper"})
    real, done, rules = shop.programs / "bridge", shop.programs / "done", shop.programs / "rules"
    real.unlink()
    real.write_text(f"""#!/bin/sh
if [ $CNI_COMMAND = DEL ] && [ ! -e {done} ]; then
    nsenter --net=$CNI_NETNS ip link delete $CNI_IFNAME && touch {done} && kill -9 $$
fi
exec /usr/lib/cni/bridge
""")
    real.chmod(0o755)
    shop.keeper.tell(VERSION=MODERN, ADD={"run": f"iptables-save >{rules}"})
    words = ["run", "-d", "--name=a", "--network=half,look", "demo", "sleep", "1000"]
    shop.ctnr(*words).ok  # noqa: B018
    own, one_for_all = "10.78.0.2" in rules.read_text(), "-o uplink0 -j MASQUERADE" in rules.read_text()
    assert (own, one_for_all) == ((True, False) if shop.me.uid == 0 else (False, True))
    shop.ctnr("rm", "-f", "a").ok  # noqa: B018
    assert done.exists()
    shop.ctnr("run", "--rm", "--network=look", "demo", "true").ok  # noqa: B018
    assert "10.78.0.2" not in rules.read_text()
    assert shop.gc() == (0, []), "nothing was left for later"


def test_one_that_ends_well_without_a_result(shop: Shop) -> None:
    shop.network("mute", {"type": "keeper"})
    shop.keeper.tell(VERSION=MODERN, ADD={"stdout": "", "stderr": "all done"})
    done = shop.ctnr("run", "--rm", "--network=mute", "demo", "true")
    assert done.status == 125
    assert "network plugin keeper failed at ADD: it ended well without a result (all done)" in done.stderr
    assert shop.keeper.commands()[-1] == "DEL"


def test_check_is_told_the_result_and_can_be_switched_off(shop: Shop, names: list[str]) -> None:
    shop.network("on", {"type": "keeper"}, {"type": "keeper", "second": True})
    shop.network("off", {"type": "keeper"}, disableCheck="true")
    names.append("a")
    shop.ctnr("run", "-d", "--name=a", "--network=on,off", "demo", "sleep", "1000").ok  # noqa: B018
    shop.ctnr("net", "check", "on", "off").ok  # noqa: B018
    first, second = shop.keeper.calls("CHECK")
    assert json.loads(first["stdin"])["prevResult"]["ips"] == [{"address": "10.9.0.2/24"}]
    assert json.loads(second["stdin"])["second"]
    shop.keeper.tell(VERSION=MODERN, CHECK=failing(100, "a route is gone"))
    done = shop.ctnr("net", "check", "on", "off")
    assert (done.status, "a: network plugin keeper failed at CHECK: a route is gone" in done.stdout) == (
        1,
        True,
    )
    assert done.stdout.count("1 attached") == 1


def test_known_faults_of_debians_plugins_are_no_news(shop: Shop, names: list[str]) -> None:
    """CHECK of portmap always fails, tuning's does not know its interface in a sysctl: those behind them are asked."""
    sysctl = {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}
    shop.network(
        "all",
        BRIDGE,
        sysctl,
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "keeper"},
    )
    names.append("a")
    shop.ctnr("run", "-d", "--name=a", "--network=all", "-p=127.0.0.1:8123:80", "demo", "sleep", "1000").ok  # noqa: B018
    shop.ctnr("net", "check", "all").ok  # noqa: B018
    assert shop.keeper.commands().count("CHECK") == 1


def test_many_that_make_the_same_network(shop: Shop) -> None:
    env = {"NETCONFPATH": str(shop.configs)}
    making = [shop.me.popen(["ctnr", "net", "create", "same"], env=env) for _ in range(5)]
    statuses = sorted(process.wait(20) for process in making)
    told = [process.communicate()[1].decode() for process in making]
    assert statuses == [0, 125, 125, 125, 125]
    assert sum("there is a network same already" in text for text in told) == 4
    assert [file.name for file in shop.configs.iterdir()] == ["same.conflist"]
