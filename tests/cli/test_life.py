"""What people do to containers from habit: start -a, rename, rm of many, prune, ps and its flags."""

from __future__ import annotations

import itertools
import re

from tests.world.people import Person


def made(me: Person, names: list[str], name: str, *words: str) -> str:
    """A container that is made and not started; its id."""
    names.append(name)
    options = list(itertools.takewhile(lambda word: word.startswith("-"), words))
    line = ["create", "--network=none", f"--name={name}", *options, "demo", *words[len(options) :]]
    return me.ctnr(*line).ok.stdout.strip()


def test_start_attached_is_the_foreground(me: Person, names: list[str]) -> None:
    made(me, names, "fore", "sh", "-c", "cat; echo err >&2; exit 6")
    done = me.ctnr("start", "-ai", "fore", stdin="typed\n")
    assert (done.status, done.stdout, done.stderr) == (6, "typed\n", "err\n")
    again = me.ctnr("start", "-a", "fore")
    assert (again.status, again.stdout) == (6, "")
    assert "Exited (6)" in me.ctnr("ps", "-a", "--filter=name=fore").ok.stdout


def test_start_attached_in_a_terminal(me: Person, names: list[str]) -> None:
    made(me, names, "seen", "-t", "-i", "sh")
    with me.pty("start", "-ai", "seen", rows=31, columns=99) as terminal:
        terminal.expect("# ")
        terminal.line("stty size")
        terminal.expect("31 99")
        terminal.resize(40, 100)
        terminal.line("sleep 0.3; stty size")
        terminal.expect("40 100")
        terminal.ctrl("p")
        terminal.ctrl("q")
        assert terminal.wait() == 0
    assert me.ctnr("ps", "-q", "--filter=name=seen").ok.stdout
    with me.pty("start", "-ai", "seen") as terminal:  # it runs: joined
        terminal.line("exit 3")
        assert terminal.wait() == 3


def test_two_attached_at_once_see_the_same(me: Person, names: list[str]) -> None:
    me.ctnr("run", "-dit", "--network=none", "--name=shared", "demo", "sh").ok  # noqa: B018
    names.append("shared")
    with me.pty("attach", "shared") as first, me.pty("attach", "shared") as second:
        for terminal in (first, second):  # what was shown before one has attached it does not see
            terminal.line("echo rea''dy")
            terminal.expect("ready")
        first.line("echo on''e")
        first.expect("one")
        second.expect("one")
        second.line("echo tw''o")
        first.expect("two")
        second.ctrl("p")
        second.ctrl("q")
        assert second.wait() == 0
        first.line("exit 4")
        assert first.wait() == 4


def test_rename(me: Person, names: list[str]) -> None:
    made(me, names, "old")
    me.ctnr("rename", "old", "new").ok  # noqa: B018
    names.append("new")
    assert me.ctnr("ps", "-a", "--filter=name=new", "--format={{.Names}}").ok.stdout == "new\n"
    assert me.ctnr("inspect", "old").status == 125
    made(me, names, "old")
    taken = me.ctnr("rename", "old", "new")
    assert "in use" in taken.stderr
    assert "not letters" in me.ctnr("rename", "old", "n/w").stderr


def test_a_running_container_is_renamed(me: Person, names: list[str]) -> None:
    me.ctnr("run", "-d", "--init", "--network=none", "--name=before", "demo", "sleep", "1000").ok  # noqa: B018
    names.append("before")
    me.ctnr("rename", "before", "after").ok  # noqa: B018
    names[-1] = "after"
    assert me.ctnr("exec", "after", "echo", "x").ok.stdout == "x\n"
    me.ctnr("run", "-d", "--init", "--network=none", "--name=before", "demo", "sleep", "1000").ok  # noqa: B018
    names.append("before")
    assert me.ctnr("ps", "--sort=names", "--format={{.Names}}").ok.stdout == "after\nbefore\n"
    assert me.ctnr("stop", "after").ok.stdout == "after\n"


def test_of_many_each_is_tried(me: Person, names: list[str]) -> None:
    for name in ("r1", "r2"):
        made(me, names, name)
    partly = me.ctnr("rm", "r1", "nobody", "r2")
    assert (partly.status, partly.stdout) == (125, "r1\nr2\n")
    assert partly.stderr.count("\n") == 1
    assert "nobody" in partly.stderr
    assert me.ctnr("rm", "-f", "-i", "nobody").ok.stdout == me.ctnr("stop", "-i", "nobody").ok.stdout == ""
    started = me.ctnr("start", "nobody")
    assert started.status == 125


def test_a_name_wins_over_a_prefix(me: Person, names: list[str]) -> None:
    ids: dict[str, list[str]] = {}
    for number in range(17):  # two of so many begin with the same digit
        container = made(me, names, f"p{number}")
        ids.setdefault(container[0], []).append(container)
    digit, (one, *_) = next((digit, found) for digit, found in ids.items() if len(found) > 1)
    ambiguous = me.ctnr("inspect", digit)
    assert (ambiguous.status, "is the beginning of" in ambiguous.stderr) == (125, True)
    assert me.ctnr("inspect", "--format={{.Id}}", one[:20]).ok.stdout.strip() == one
    made(me, names, digit)
    assert me.ctnr("inspect", "--format={{.Name}}", digit).ok.stdout == f"{digit}\n"
    pruned = me.ctnr("container", "prune", "-f").ok.stdout.split()
    assert len(pruned) == 18
    assert me.ctnr("ps", "-aq").ok.stdout == ""
    names.clear()


def test_ps_tells_sizes_and_watches(me: Person, names: list[str]) -> None:
    made(me, names, "big", "sh", "-c", "head -c 300000 /dev/zero > /file")
    me.ctnr("start", "-a", "big").ok  # noqa: B018
    size = me.ctnr("ps", "-a", "-s", "--filter=name=big", "--format={{.Size}}").ok.stdout
    assert re.fullmatch(r"3\d\d kB\n", size)
    with me.pty("ps", "-a", "--watch=100ms", "--filter=name=big") as terminal:
        for _ in range(3):
            terminal.expect("big")
        terminal.ctrl("c")
        assert terminal.wait() == 130


def test_inspect_answers_what_scripts_ask(me: Person, names: list[str]) -> None:
    me.ctnr("run", "-d", "--init", "--name=asked", "-e", "A=b", "-l", "tier=x", "demo", "sleep", "1000").ok  # noqa: B018
    names.append("asked")

    def field(template: str, name: str = "asked") -> str:
        return me.ctnr("inspect", "-f", template, name).ok.stdout.strip()

    assert field("{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}") == "running true 0"
    assert field("{{.Name}} {{.Config.Image}} {{.Config.Cmd}}") == "asked demo [sleep 1000]"
    pid = int(field("{{.State.Pid}}"))
    assert "sleep" in me.run(["cat", f"/proc/{pid}/cmdline"]).ok.stdout
    address = field("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    assert address == field("{{.NetworkSettings.IPAddress}}")
    assert address in me.ctnr("exec", "asked", "ip", "-4", "addr").ok.stdout
    assert field('{{index .Config.Labels "tier"}}') == "x"
    assert "A=b" in field("{{json .Config.Env}}")
    assert "sh" in field("{{.Config.Cmd}}", "demo"), "an image, where no container has the name"
    wrong = me.ctnr("inspect", "--type=container", "demo")
    assert "no container" in wrong.stderr
    for template in ("{{.State", "{{.Nothing}}", "{{nope .}}"):
        told = me.ctnr("inspect", "-f", template, "asked")
        assert (told.status, told.stderr.count("\n")) == (125, 1), template


def test_fields_that_there_are_not(me: Person, names: list[str]) -> None:
    me.ctnr("create", "--name=looked-at", "--label=a=b", "demo").ok  # noqa: B018
    names.append("looked-at")
    for words, said in (
        (
            ("inspect", "-f", "{{.State.Foo}}", "looked-at"),
            "there is no .State.Foo; there are: Status, Running",
        ),
        (
            ("inspect", "-f", "{{.HostConfig.Privilege}}", "looked-at"),
            "did you mean .HostConfig.Privileged?",
        ),
        (("ps", "-a", "--format", "{{.Foo}}"), "there is no .Foo"),
        (("images", "--format", "{{.Foo}}"), "there is no .Foo"),
        (("stats", "-a", "--no-stream", "--format", "{{.Foo}}"), "there is no .Foo"),
        (("net", "ls", "--format", "{{.Foo}}"), "there is no .Foo"),
        (("info", "--format", "{{.facts.foo}}"), "there is no .facts.foo"),
        (("image", "inspect", "-f", "{{.rootfs.foo}}", "demo"), "there is no .rootfs.foo"),
    ):
        done = me.ctnr(*words)
        assert (done.status, done.stdout, done.stderr.count("\n")) == (125, "", 1), words
        assert said in done.stderr, words
    for form, shown in (
        ("{{.Config.Labels.a}}{{.Config.Labels.c}}", "b"), ("{{.State.Health}}", ""),
        ("{{.NetworkSettings.Networks.bridge}}", ""),
    ):  # fmt: skip
        assert me.ctnr("inspect", "-f", form, "looked-at").ok.stdout == f"{shown}\n", form
    assert me.ctnr("image", "inspect", "-f", "{{.config.Entrypoint}}", "demo").ok.stdout == "\n"


def test_rm_asks_first_if_it_is_given_time(me: Person, names: list[str]) -> None:
    trap = "trap 'echo asked >/d/told; exit 0' TERM; echo up; while :; do sleep 0.05; done"

    def run() -> None:
        names.append("polite")
        words = ["run", "-d", "--network=none", "--name=polite", "--ready=log:up", "-v", "told:/d"]
        me.ctnr(*words, "demo", "sh", "-c", trap).ok  # noqa: B018

    def told() -> str:
        look = "cat /d/told 2>/dev/null; rm -f /d/told"
        return me.ctnr("run", "--rm", "--network=none", "-v", "told:/d", "demo", "sh", "-c", look).stdout

    for words, said in ((("-f",), ""), (("-f", "-t", "30"), "asked\n"), (("--force", "--time=0"), "")):
        run()
        assert me.ctnr("rm", *words, "polite").ok.stdout == "polite\n"
        assert told() == said, words
        assert me.ctnr("ps", "-aq", "--filter=name=polite").ok.stdout == ""
    run()
    assert me.ctnr("rm", "-t", "3", "polite").status == 125
    assert me.ctnr("rm", "-ft3", "--filter=name=polite").ok.stdout.strip()
    me.ctnr("volume", "rm", "told").ok  # noqa: B018


def test_the_latest_and_those_that_fit(me: Person, names: list[str]) -> None:
    for name in ("early", "late"):
        names.append(name)
        words = ["run", "-d", "--init", "--network=none", f"--name={name}", f"--label=n={name}"]
        me.ctnr(*words, "demo", "sh", "-c", f"echo {name}; exec sleep 1000").ok  # noqa: B018
    assert me.ctnr("exec", "-l", "cat", "/etc/hostname").ok.stdout
    assert me.ctnr("inspect", "-l", "--format={{.Name}}").ok.stdout == "late\n"
    assert me.ctnr("logs", "-l").ok.stdout == "late\n"
    assert "sleep" in me.ctnr("top", "-l").ok.stdout
    [early] = me.ctnr("ps", "-q", "--no-trunc", "--filter=label=n=early").ok.stdout.split()
    assert me.ctnr("stop", "--filter=label=n=early").ok.stdout == f"{early}\n"
    assert me.ctnr("stop", "--filter=label=n=early").ok.stdout == "", "it runs no more"
    assert me.ctnr("ps", "--format={{.Names}}").ok.stdout == "late\n"
    assert me.ctnr("start", "--all").ok.stdout == f"{early}\n"
    assert me.ctnr("kill", "-l").ok.stdout
    assert me.ctnr("wait", "-l").ok.stdout == "137\n"
    assert me.ctnr("restart", "--running", "-t0").ok.stdout == f"{early}\n"
    assert len(me.ctnr("restart", "-a", "-t0").ok.stdout.split()) == 2
    assert me.ctnr("rm", "-fl").ok.stdout
    assert me.ctnr("ps", "-a", "--format={{.Names}}").ok.stdout == "early\n"
    names.remove("late")
