"""What `ctnr events` tells of a life, in order."""

from __future__ import annotations

import json
import time

from tests.world.people import Person


def test_a_life_is_told_in_order(me: Person, names: list[str]) -> None:
    began = time.time()
    me.ctnr("run", "-d", "--name=told", "--label=tier=front", "--network=slirp", "demo", "sleep", "1000").ok  # noqa: B018
    names.append("told")
    assert me.ctnr("exec", "told", "sh", "-c", "exit 4").status == 4
    me.ctnr("kill", "told").ok  # noqa: B018
    me.ctnr("rm", "told").ok  # noqa: B018
    names.remove("told")
    asked = ("events", "--since", str(began), "--stream=false", "--filter", "container=told")
    said = [json.loads(line) for line in me.ctnr(*asked, "--json").ok.stdout.splitlines()]
    assert [one["Action"] for one in said] == [
        "create", "start", "connect", "exec_start", "exec_die", "kill", "die", "disconnect", "destroy",
    ]  # fmt: skip
    assert said[6]["ContainerExitCode"] == 137
    assert said[0]["Actor"]["Attributes"]["tier"] == "front"
    assert [one["TimeNano"] for one in said] == sorted(one["TimeNano"] for one in said)
    shown = me.ctnr(*asked, "--format", "{{.Type}} {{.Actor.ID}}", "--filter", "type=network").ok.stdout
    assert shown == "network slirp\nnetwork slirp\n"


def test_what_is_to_come_is_followed(me: Person) -> None:
    following = me.popen(["ctnr", "events", "--filter", "event=die", "--format", "{{.Name}}"])
    time.sleep(0.5)
    me.ctnr("run", "--rm", "--name=soon", "--network=none", "demo", "true").ok  # noqa: B018
    assert following.stdout is not None
    assert following.stdout.readline() == b"soon\n"
    following.terminate()
    following.communicate()


def test_a_moment_to_come_ends_it(me: Person) -> None:
    me.ctnr("run", "--rm", "--name=past", "--network=none", "demo", "true").ok  # noqa: B018
    until = str(time.time() + 1)
    assert "past" in me.ctnr("events", "--since", "1h", "--until", until, "--filter", "name=past").ok.stdout
