"""What Tab offers, from the tables and from a service that runs."""

from __future__ import annotations

import pytest

from ctnr.bundles.capabilities import NAMES as CAPABILITIES
from ctnr.bundles.log_options import DRIVERS
from ctnr.bundles.namespaces import check_namespaces
from ctnr.cli.completion_values import BUILT_IN_NETWORKS, FIXED
from ctnr.requests import Run
from netconf import builtin_names
from supervisor.restart import parse_restart_policy

from .conftest import ID, Ctnr


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", ["run", "net", "help"]),
        ("ru", ["run"]),
        ("net cr", ["create"]),
        ("network cr", ["create"]),
        ("container pr", ["prune"]),
        ("stop ", ["web", ID[:12]]),
        ("rm web ", ["web", ID[:12]]),
        ("exec we", ["web"]),
        ("port ", ["add", "remove", "rm", "web", ID[:12]]),
        ("net rm ", ["mine"]),
        ("net disconnect mine w", ["web"]),
        ("run ", ["localhost/demo:latest"]),
        ("run -it loc", ["localhost/demo:latest"]),
        ("run --net", ["--network", "--network-alias"]),
        ("run --network ", ["host", "none", "mine", "bridge", "default", "pasta", "slirp"]),
        ("run --network = m", ["mine"]),
        ("run --network = ", ["host", "none", "mine", "bridge", "default", "pasta", "slirp"]),
        ("run --network=m", ["--network=mine"]),
        ("run --network c", ["container:", "container:web", f"container:{ID[:12]}"]),
        ("run --network container:", ["container:", "container:web", f"container:{ID[:12]}"]),
        ("run --network container :", ["web", ID[:12]]),
        ("run --network = container : w", ["web"]),
        ("run --pull = never --restart on", ["on-failure", "on-failure:"]),
        ("create --restart=un", ["--restart=unless-stopped"]),
        ("run --log-driver j", ["journald", "json-file"]),
        ("run --userns ", ["host"]),
        ("run --ipc ", ["host", "none", "private"]),
        ("run --cap-add NET_", ["NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW"]),
        ("run --stop-signal US", ["USR1", "USR2"]),
        ("run --depends-on w", ["web", "web:healthy", "web:ready"]),
        ("run --image-policy ", ["insecure", ":files"]),
        ("run -v da", ["data:", ":files"]),
        ("ps --filter s", ["since=", "state=", "status="]),
        ("ps --filter status=r", ["status=removing", "status=restarting", "status=running"]),
        ("ps --filter status = ru", ["running"]),
        ("ps --filter = status = ru", ["running"]),
        ("ps --filter=status=ru", ["--filter=status=running"]),
        ("ps -f volume=", ["volume=data"]),
        ("rm --filter status=ex", ["status=exited"]),
        ("stop -f una", []),
        ("stop -f un", ["until="]),
        ("ps -f colour=", []),
        ("ps --sort n", ["names"]),
        ("images -f d", ["dangling="]),
        ("images -f since=", ["since=localhost/demo:latest"]),
        ("image list -f id=", []),
        ("images --sort s", ["size"]),
        ("ps --format ", ["json"]),
        ("volume ls -f name=", ["name=data"]),
        ("volume ls -f dangling=", ["dangling=0", "dangling=1", "dangling=false", "dangling=true"]),
        ("volume prune --filter ", ["anonymous=", "label=", "name=", "until="]),
        ("container prune --filter ", ["label=", "until="]),
        ("image prune --filter ", ["label=", "until="]),
        ("system ", ["df", "info", "prune"]),
        ("system prune --filter l", ["label="]),
        ("events --filter type = v", ["volume"]),
        ("events -f event=exec_", ["event=exec_die", "event=exec_start"]),
        ("run --pull ", ["always", "missing", "never", "newer"]),
        ("run -b ", ["work"]),
        ("run -v ", [":files", "data:"]),
        ("volume rm d", ["data"]),
        ("volume p", ["prune"]),
        ("volume create ", []),
        ("run demo --", [":files"]),
        ("bundle run w", ["work"]),
        ("cp we", [":files", "web:"]),
        ("--store-dir ", [":files"]),
        ("--store-dir x ru", ["run"]),
        ("--deb", ["--debug"]),
        ("rmi ", ["localhost/demo:latest"]),
        ("completion ", ["bash", "fish", "zsh"]),
        ("nothing ", []),
    ],
)
def test_candidates(ctnr: Ctnr, line: str, wanted: list[str]) -> None:
    assert ctnr("completion", "-", *line.split(" ")) == 0
    offered = [one.partition("\t")[0] for one in ctnr.out.splitlines()]
    if line:
        assert sorted(offered) == sorted(wanted)
    else:
        assert set(wanted) <= set(offered)


def test_scripts(ctnr: Ctnr) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert ctnr("completion", shell) == 0
        assert "ctnr completion -" in ctnr.out or "completion - " in ctnr.out
    assert ctnr("completion", "tcsh") == 125


def test_values_are_those_that_are_understood() -> None:
    words = {name: [one for one in values if one[-1] not in ":="] for name, values in FIXED.items()}
    assert {*words["cap-add"]} == {"ALL", *(name.removeprefix("CAP_") for name in CAPABILITIES)}
    assert {*words["log-driver"]} == {*DRIVERS}
    for policy in words["restart"]:
        parse_restart_policy(policy)
    for name in ("ipc", "pid", "uts", "userns"):
        for value in words[name]:
            check_namespaces(Run(version="0", **{name: value}))
    assert {*BUILT_IN_NETWORKS} == {*builtin_names()}
