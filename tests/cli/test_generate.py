"""Units for systemd, and files and namespaces that `run` has flags for."""

from __future__ import annotations

import os
import re

from tests.world.people import Person


def test_a_unit_for_a_container(me: Person, names: list[str]) -> None:
    me.ctnr("create", "--network=none", "--stop-timeout=7", "--name=web", "demo", "sleep", "9").ok  # noqa: B018
    names.append("web")
    unit = me.ctnr("generate", "systemd", "web").ok.stdout
    values = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    program = f"{me.machine.bin}/ctnr"
    assert values["ExecStart"] == f"{program} start --attach web"
    assert values["ExecStop"] == f"{program} stop --ignore --time 7 web"
    assert (values["Type"], values["KillMode"], values["Restart"]) == ("exec", "process", "on-failure")
    assert (
        values["Environment"] == f"CTNR_RUNTIME_DIR={me.runtime_dir}"
    )  # else the unit would have another service
    assert values["WantedBy"] == ("multi-user.target" if me.uid == 0 else "default.target")
    assert [line for line in unit.splitlines() if line.startswith("[")] == [
        "[Unit]",
        "[Service]",
        "[Install]",
    ]
    line = ["generate", "systemd", "-f", "-t", "3", "--restart-policy=always", "--after=db.service", "web"]
    path = me.ctnr(*line).ok.stdout.strip()
    assert path.endswith("/ctnr-web.service")
    with open(path) as file:
        written = file.read()
    assert "Restart=always" in written
    assert "TimeoutStopSec=63" in written
    assert "After=network-online.target db.service" in written
    assert me.ctnr("generate", "systemd", "nobody").status == 125
    # what the unit does, done by hand
    started = me.run([program, "start", "--attach", "web"], seconds=30, env={"XX": "1"})
    assert started.status == 0


def test_pidfile_and_replace(me: Person, names: list[str]) -> None:
    line = ["--init", "--network=none", "--name=twice", "demo", "sleep", "1000"]
    first = me.ctnr("run", "-d", "--pidfile=pid", *line).ok.stdout.strip()
    names.append("twice")
    pid = int((me.home / "pid").read_text())
    assert b"sleep" in (me.home / "pid").parent.joinpath(f"/proc/{pid}/cmdline").read_bytes()
    assert "in use" in me.ctnr("run", "-d", *line).stderr
    second = me.ctnr("run", "-d", "--replace", *line).ok.stdout.strip()
    assert second != first
    assert not os.path.exists(f"/proc/{pid}")
    assert me.ctnr("ps", "-aq", "--no-trunc").ok.stdout.strip() == second
    me.ctnr("stop", "twice").ok  # noqa: B018
    third = me.ctnr("create", "--replace", *line).ok.stdout.strip()
    assert me.ctnr("ps", "-aq", "--no-trunc").ok.stdout.strip() == third
    me.ctnr("rm", "twice").ok  # noqa: B018
    assert me.ctnr("create", "--replace", *line).ok.stdout


def test_namespaces(me: Person) -> None:
    def run(*words: str) -> str:
        return me.ctnr("run", "--rm", "--network=none", *words).ok.stdout

    assert run("--uts=host", "demo", "hostname").strip() == os.uname().nodename
    assert run("--uts=private", "demo", "hostname").strip() != os.uname().nodename
    look = ["demo", "sh", "-c", "readlink /proc/self/ns/ipc; grep -c ' /dev/shm ' /proc/mounts; true"]
    flags = [], ["--ipc=host"], ["--ipc=host"], ["--ipc=none"]
    own, shared, again, none = (run(*flag, *look).split() for flag in flags)
    assert own[0] != shared[0] == again[0]
    assert [one[1] for one in (own, shared, none)] == ["1", "1", "0"]
    assert run("--userns=host", "--pid=private", "--ipc=private", "demo", "echo", "x") == "x\n"
    for flag, why in (
        ("--pid=host", "ends with all of them"),
        ("--pid=container:x", "its own process namespace"),
        ("--ipc=container:x", "its own /dev/shm"),
        ("--userns=keep-id", "share one user namespace"),
        ("--uts=container:x", "not known"),
        ("--ipc=sometimes", "not known"),
    ):
        refused = me.ctnr("run", "--rm", flag, "demo", "true")
        assert (refused.status, why in refused.stderr, refused.stderr.count("\n")) == (125, True, 1), (
            refused.stderr
        )
