"""What goes in and out of a container in the foreground, as whom, where, and how it ends."""

from __future__ import annotations

from tests.world.people import Person


def test_statuses_of_signals_with_an_init(me: Person) -> None:
    run = ["run", "--rm", "--init", "--network=none", "demo", "sh", "-c"]
    for name, status in (("TERM", 143), ("KILL", 137), ("USR1", 138)):
        assert me.ctnr(*run, f"kill -{name} $$").status == status
    assert me.ctnr(*run, "echo $$").ok.stdout != "1\n"


def test_much_input_and_input_that_never_ends(me: Person) -> None:
    counted = me.ctnr("run", "--rm", "-i", "demo", "wc", "-c", stdin=b"x" * 20_000_000)
    assert counted.ok.stdout == "20000000\n"
    with me.popen(["ctnr", "run", "--rm", "-i", "demo", "true"]) as process:  # its stdin stays open
        assert process.wait(10) == 0
    closed = me.run(["sh", "-c", "ctnr run --rm -i demo cat <&-; ctnr run --rm demo echo hi >&-"])
    assert (closed.ok.stdout, closed.stderr) == ("", "")


def test_nobody_reads_the_output(me: Person) -> None:
    assert me.run(["sh", "-c", "ctnr run --rm demo yes | head -n 1"]).ok.stdout == "y\n"
    assert me.ctnr("ps", "-q").ok.stdout == ""


def test_directories_to_start_in(me: Person) -> None:
    assert me.ctnr("run", "--rm", "-w", "/made/deep", "demo", "pwd").ok.stdout == "/made/deep\n"
    volume = ["--rm", "-v", "for-workdir:/data", "-w", "/data/sub", "demo"]
    assert me.ctnr("run", *volume, "sh", "-c", "cp /bin/busybox /data/sh; pwd").ok.stdout == "/data/sub\n"
    assert me.ctnr("run", "--rm", "-v", "for-workdir:/data", "demo", "/data/sh", "-c", "exit 5").status == 5


def test_users_by_name_and_number(me: Person) -> None:
    def ids(user: str) -> str:
        return me.ctnr("run", "--rm", "-u", user, "demo", "id").ok.stdout

    assert ids("web") == "uid=1000(web) gid=1000(web) groups=50(staff),1000(web)\n"
    assert ids("web:staff") == "uid=1000(web) gid=50(staff) groups=50(staff)\n"
    assert ids("1000") == ids("web")
    assert ids("4321:55") == "uid=4321 gid=55 groups=55\n"


def test_volumes_without_a_name_go_with_their_container(me: Person) -> None:
    assert me.ctnr("run", "--rm", "-v", "/etc", "demo", "ls", "/etc/passwd").ok.stdout, (
        "with the image's content"
    )
    me.ctnr("run", "--name=anonymous", "-v", "/scratch", "demo", "touch", "/scratch/zz-anonymous").ok  # noqa: B018
    assert list(me.store_dir.rglob("zz-anonymous"))
    me.ctnr("rm", "-v", "anonymous").ok  # noqa: B018
    assert not list(me.store_dir.rglob("zz-anonymous"))


def test_names_that_fit_nowhere(me: Person) -> None:
    for flag, value in (
        ("--name", "../x"),
        ("--name", "a b"),
        ("--hostname", "a b"),
        ("--hostname", "x" * 65),
    ):
        done = me.ctnr("run", "--rm", flag, value, "demo", "true")
        assert (done.status, done.stderr.count("\n")) == (125, 1)
    assert me.ctnr("run", "--rm", "--hostname", "x" * 64, "demo", "hostname").ok.stdout == "x" * 64 + "\n"
