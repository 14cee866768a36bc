"""Tab in real shells."""

from __future__ import annotations

import pytest

from tests.world.people import Person

BASH = """
eval "$(ctnr completion bash)"
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ctnr; echo "${COMPREPLY[*]}"; }
"""


@pytest.fixture
def tabbed(me: Person, names: list[str]) -> str:
    me.ctnr("create", "--network=none", "--name=tabbed-one", "demo").ok  # noqa: B018
    names.append("tabbed-one")
    return "tabbed-one"


def bash(me: Person, *words: str) -> list[str]:
    line = " ".join(f"'{word}'" for word in words)
    return me.run(["bash", "-c", f"{BASH}ask {line}"]).ok.stdout.split()


def test_in_bash(me: Person, tabbed: str) -> None:
    ids = me.ctnr("ps", "-aq").ok.stdout.split()
    assert bash(me, "ctnr", "stop", "tab") == [tabbed]
    assert bash(me, "ctnr", "container", "pru") == ["prune"]
    assert bash(me, "ctnr", "run", "de") == ["demo:latest"] or "demo" in " ".join(
        bash(me, "ctnr", "run", "")
    )
    assert bash(me, "ctnr", "run", "--network", "=", "ho") == ["host"]
    assert bash(me, "ctnr", "run", "--network", "container", ":", "tab") == [tabbed]
    assert bash(me, "ctnr", "run", "--network", "container", ":") == sorted([tabbed, *ids])
    assert bash(me, "ctnr", "ps", "--filter", "status", "=", "ru") == ["running"]
    assert bash(me, "ctnr", "run", "--restart", "=", "un") == ["unless-stopped"]
    assert "--no-trunc" in bash(me, "ctnr", "ps", "--")
    (me.home / "paper.txt").touch()
    assert bash(me, "ctnr", "run", "-v", "pap") == ["paper.txt"]


def test_in_fish(me: Person, tabbed: str) -> None:
    def fish(line: str) -> list[str]:
        done = me.run(["fish", "-N", "-c", f"ctnr completion fish | source; complete -C '{line}'"])
        return [one.partition("\t")[0] for one in done.ok.stdout.splitlines()]

    assert fish("ctnr stop tab") == [tabbed]
    assert fish("ctnr net cre") == ["create"]
    assert "--no-trunc" in fish("ctnr ps --")
    assert fish("ctnr ps --filter status=ru") == ["status=running"]
    assert fish("ctnr run --network=container:tab") == [f"--network=container:{tabbed}"]
    assert fish("ctnr run --log-driver jo") == ["journald"]


def test_in_zsh(me: Person, tabbed: str) -> None:
    with me.terminal(["zsh", "-f", "-i"], env={"PS1": "> ", "HOME": str(me.home)}) as zsh:
        zsh.line("autoload -U compinit; compinit -u; eval \"$(ctnr completion zsh)\"; echo rea''dy")
        zsh.expect("ready")
        zsh.send("ctnr stop tabbed-o\t")
        zsh.expect("tabbed-one")
        zsh.ctrl("u")
        zsh.send("ctnr container pru\t")
        zsh.expect("prune")
        zsh.ctrl("u")
        zsh.send("ctnr ps --filter stat\t")  # state= and status=
        zsh.send("us\tru\t")
        zsh.expect("nning")
        zsh.ctrl("u")
        zsh.send("ctnr run --restart unl\t")
        zsh.expect("ess-stopped")
        zsh.ctrl("u")
        zsh.line("exit")
        assert zsh.wait() == 0


def test_no_service_is_started_for_it(me: Person) -> None:
    me.ctnr("supervisor", "stop", "--force").ok  # noqa: B018
    assert bash(me, "ctnr", "stop", "") == []
    assert "slirp" in bash(me, "ctnr", "run", "--network", "")
    assert me.service_pids() == []
    assert bash(me, "ctnr", "ver") == ["version"]
