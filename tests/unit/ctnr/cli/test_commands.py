"""The contract: every command asks what the service understands, and shows the answer as people expect."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ctnr import requests
from ctnr.cli.elsewhere import CURES
from ctnr.cli.main import ALIASES, COMMANDS, GROUPS, find_command

from .conftest import ID, IMAGE, KINDS, Ctnr

LINES: dict[str, tuple[str, type[Any] | None]] = {
    "run": ("run --rm -i demo sh -c true", requests.Run),
    "create": ("create --name web demo", requests.Run),
    "exec": ("exec -i -e A=1 -w / -u root web cat", requests.ExecIn),
    "ps": ("ps -a", requests.Ps),
    "attach": ("attach --no-stdin web", requests.Attach),
    "logs": ("logs -f --tail 5 --since 10m --until 2026-01-31T12:00:00 web", requests.Logs),
    "events": ("events --since 10m --until 5m --filter event=die", requests.Events),
    "inspect": ("inspect web db", requests.Inspect),
    "start": ("start web", requests.Start),
    "stop": ("stop -t 1m30s web", requests.Stop),
    "restart": ("restart -t 3 web", requests.Restart),
    "kill": ("kill -s TERM web", requests.Kill),
    "stats": ("stats --no-stream --all", requests.Stats),
    "top": ("top web -eo pid,args", requests.Top),
    "pause": ("pause web", requests.Pause),
    "unpause": ("unpause web db", requests.Unpause),
    "update": (
        "update --restart=on-failure:3 -m 64m --memory-swap=-1 --cpus 1.5 --pids-limit 9 web",
        requests.Update,
    ),
    "wait": ("wait web db", requests.Wait),
    "healthcheck run": ("healthcheck run web", requests.HealthRun),
    "rm": ("rm -f -i -t 5 web", requests.Remove),
    "cp": ("cp -aL web:/etc/hosts .", requests.Copy),
    "diff": ("diff web", requests.Diff),
    "rename": ("rename web site", requests.Rename),
    "container prune": ("container prune", requests.Ps),
    "pull": ("pull --platform linux/arm64 docker://alpine", requests.Pull),
    "images": ("images", requests.Images),
    "rmi": ("rmi -f demo", requests.ImageRemove),
    "image list": ("image list", requests.Images),
    "image import": (
        "image import --cmd sh -e A=1 -l a=b -u root -w / . demo",
        requests.ImageImport,
    ),
    "image export": ("image export demo oci:out:latest", requests.ImageExport),
    "image tag": ("image tag demo other", requests.ImageTag),
    "image untag": ("image untag other", requests.ImageUntag),
    "image rm": ("image rm demo", requests.ImageRemove),
    "image fsck": ("image fsck --repair --quick", requests.ImageFsck),
    "image gc": ("image gc --all", requests.ImageGc),
    "image cat-config": ("image cat-config demo", requests.ImageConfig),
    "image inspect": ("image inspect demo", requests.ImageConfig),
    "bundle list": ("bundle list", requests.BundleList),
    "bundle create": ("bundle create -b work demo", requests.Run),
    "bundle run": ("bundle run -i work sh", requests.Run),
    "bundle delete": ("bundle delete -f work", requests.BundleDelete),
    "bundle gc": ("bundle gc", requests.BundleGc),
    "port": ("port web", requests.PortList),
    "port add": ("port add web 8080:80 53/udp", requests.PortAdd),
    "port rm": ("port rm web 8080:80", requests.PortRemove),
    "net ls": ("net ls", requests.NetList),
    "net inspect": ("net inspect bridge", requests.NetInspect),
    "net create": (
        "net create -d slirp --subnet 10.7.0.0/24 --gateway 10.7.0.1 --mtu 9000 --internal -o a=b mine",
        requests.NetCreate,
    ),
    "net rm": ("net rm mine", requests.NetRemove),
    "net prune": ("net prune", requests.NetPrune),
    "net check": ("net check bridge", requests.NetCheck),
    "net gc": ("net gc", requests.NetGc),
    "net show": ("net show --all", requests.NetShow),
    "net connect": ("net connect --ip 10.7.0.9 --alias web bridge web", requests.NetConnect),
    "net disconnect": ("net disconnect bridge web", requests.NetDisconnect),
    "volume ls": (
        "volume ls -f name=da --filter label=tier=back --filter dangling=true",
        requests.VolumeList,
    ),
    "volume inspect": ("volume inspect data", requests.VolumeInspect),
    "volume create": ("volume create --label tier=back -d local data", requests.VolumeCreate),
    "volume rm": ("volume rm -f data", requests.VolumeRemove),
    "volume prune": ("volume prune -f --filter label=tier", requests.VolumePrune),
    "generate systemd": ("generate systemd -t 5s web", requests.Inspect),
    "completion": ("completion bash", None),
    "info": ("info", requests.Info),
    "version": ("version", None),
    "system df": ("system df -v", requests.DiskUsage),
    "system prune": ("system prune -af", requests.ImageGc),
    "supervisor status": ("supervisor status", requests.ServiceStatus),
    "supervisor start": ("supervisor start", requests.ServiceStart),
    "supervisor stop": ("supervisor stop --force", requests.ServiceStop),
}


BEFORE = {
    "volume prune": [requests.VolumeList],
    "system prune": [requests.Ps, requests.BundleGc, requests.NetPrune],
}  # what is asked first


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(ctnr: Ctnr, command: str) -> None:
    line, kind = LINES[command]
    status = ctnr(*line.split())
    assert status == {"run": 7, "bundle run": 7, "exec": 3, "attach": 4}.get(command, 0), ctnr.err
    assert "ctnr:" not in ctnr.err
    asked = [type(request) for request in ctnr.service.asked]
    assert asked == ([*BEFORE.get(command, ()), kind] if kind else [])


def test_every_request_is_asked_by_some_command() -> None:
    assert {kind for _, kind in LINES.values()} - {None} == set(KINDS) - {requests.StartHere}  # see below


def test_a_start_in_the_foreground_looks_first_whether_there_is_a_terminal(ctnr: Ctnr) -> None:
    ctnr.service.answers["inspect"] = [{"event": "result", "value": [{"Id": ID, "Config": {"Tty": False}}]}]
    ctnr.service.answers["start-here"] = [{"event": "starting"}, {"event": "exited", "status": 5}]
    assert ctnr("start", "-ai", "web") == 5
    assert ctnr.asked == requests.StartHere(version=ctnr.asked.version, container=ID, interactive=True)
    assert ctnr.service.descriptors[-1] == 3
    assert ctnr("start", "-a", "web", "db") == 125


def test_what_went_well_is_printed_beside_the_error(ctnr: Ctnr) -> None:
    ctnr.service.answers["rm"] = [
        {"event": "item", "value": "web"},
        {"event": "error", "message": "no container has the name db", "status": 125},
    ]
    assert ctnr("rm", "web", "db") == 125
    assert (ctnr.out, ctnr.err) == ("web\n", "ctnr: no container has the name db\n")


def test_prune_takes_those_that_do_not_run(ctnr: Ctnr) -> None:
    row = ctnr.service.answers["ps"][0]["value"][0]
    rows = [{**row, "id": state, "state": state} for state in ("running", "paused", "stopped", "created")]
    ctnr.service.answers["ps"][0]["value"] = rows
    ctnr("container", "prune", "-f")
    assert ctnr.asked.containers == ("stopped", "created")
    assert ctnr.out == "stopped\ncreated\n"
    ctnr("container", "prune", "--filter", "label=tier=back")
    assert isinstance(ctnr.asked, requests.Ps)
    ctnr("container", "prune", "--filter", "until=1970-01-01T00:00:00Z")
    assert isinstance(ctnr.asked, requests.Ps)


def test_rows_are_chosen_and_sorted(ctnr: Ctnr) -> None:
    row = ctnr.service.answers["ps"][0]["value"][0]
    rows = [
        {**row, "id": f"{at}{ID[1:]}", "name": name, "created": float(at), "size_bytes": 10 - at}
        for at, name in enumerate(("web2", "web", "db"), 1)
    ]
    ctnr.service.answers["ps"][0]["value"] = rows
    for words, names in (
        ("--filter name=^web$", "web"), ("--filter name=web", "web2 web"), ("--filter since=web", "db"),
        ("--filter before=web", "web2"), ("--sort names", "db web web2"), ("-s --sort size", "db web web2"),
        ("-n 2", "db web"), ("-l", "db"), ("--filter id=2", "web"),
    ):  # fmt: skip
        assert ctnr("ps", "-a", "--format", "{{.Names}}", *words.split()) == 0
        assert ctnr.out.split() == names.split(), words
    ctnr("ps", "-s")
    assert ctnr.out.splitlines()[0].endswith("SIZE")
    for wrong in ("--sort=weight", "--filter=name=[", "--filter=before=nobody"):
        assert ctnr("ps", wrong) == 125, wrong


def test_commands_that_are_elsewhere_are_not_here() -> None:
    assert not {*CURES} & {*COMMANDS, *ALIASES, *GROUPS}
    for cure in CURES.values():
        for words in re.findall(r"ctnr ((?:image |volume |container )?[a-z]+)", cure):
            assert words in {**COMMANDS, **ALIASES} or words.split()[0] in COMMANDS, words


@pytest.mark.parametrize("words", ["help", "--help", "net", "container --help"])
def test_the_overview_has_every_command(ctnr: Ctnr, words: str) -> None:
    assert ctnr(*words.split()) == 0
    for name in COMMANDS:
        if words != "net" or name.startswith("net "):
            assert f"\n  {name} " in ctnr.out


@pytest.mark.parametrize("command", [*COMMANDS, *ALIASES])
def test_every_command_explains_itself(ctnr: Ctnr, command: str) -> None:
    assert ctnr(*command.split(), "--help") == 0
    assert ctnr.out.startswith(f"Usage: ctnr {ALIASES.get(command, command)}")
    assert ctnr.service.asked == []


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_told_apart(command: str) -> None:
    found, _ = find_command(command.split())
    names = [name for option in found.options for name in (option.name, *option.aliases)]
    letters = [option.short for option in found.options if option.short]
    assert len(names) == len(set(names))
    assert len(letters) == len(set(letters))
    assert found.name == command


def test_descriptors_ride_along(ctnr: Ctnr) -> None:
    for line, count in (("run demo", 3), ("exec web true", 3), ("image import - demo", 3), ("ps", 0)):
        ctnr(*line.split())
        assert ctnr.service.descriptors[-1] == count, line
    assert ctnr.service.asked[2].source is None


def test_detached_prints_the_id(ctnr: Ctnr, tmp_path: Path) -> None:
    assert ctnr("run", "-d", f"--cidfile={tmp_path}/id", "demo") == 0
    assert ctnr.out == f"{ID}\n"
    assert (tmp_path / "id").read_text() == ID
    assert ctnr("run", "-d", f"--cidfile={tmp_path}/id", "demo") == 125
    assert len(ctnr.service.asked) == 1


def test_ps(ctnr: Ctnr) -> None:
    ctnr("ps")
    heading, row = ctnr.out.splitlines()
    assert heading.split("  ")[0] == "CONTAINER ID"
    for shown in (ID[:12], "demo", "sh -c sleep 1000", "Up ", "slirp", "0.0.0.0:8080->80/tcp", "web"):
        assert shown in row
    ctnr("ps", "-q")
    assert ctnr.out == f"{ID[:12]}\n"
    ctnr("ps", "--format", "table {{.ID}}\\t{{.Names}}")
    assert ctnr.out == f"ID             NAMES\n{ID[:12]}   web\n"
    ctnr("ps", "--no-trunc", "--format", "{{.ID}} {{.State}}")
    assert ctnr.out == f"{ID} running\n"
    ctnr("ps", "--filter", "label=tier=back")
    assert len(ctnr.out.splitlines()) == 1
    ctnr("ps", "-q", "--filter", "label=tier=front", "--filter", "label=other")
    assert ctnr.out == "", "labels must all fit"


def test_stopped_is_shown_as_exited(ctnr: Ctnr) -> None:
    row = ctnr.service.answers["ps"][0]["value"][0]
    ctnr.service.answers["ps"][0]["value"] = [{**row, "state": "stopped", "finished": 3.0, "status": 9}]
    ctnr("ps", "--filter", "status=exited", "--format", "{{.State}}: {{.Status}}")
    assert ctnr.asked.all is True
    assert ctnr.out.startswith("exited: Exited (9) ")


def test_images(ctnr: Ctnr) -> None:
    ctnr("images")
    assert ctnr.out.splitlines()[1].split()[:3] == ["localhost/demo", "latest", IMAGE["id"][:12]]
    assert "1.23 MB" in ctnr.out
    ctnr("images", "-q", "--no-trunc")
    assert ctnr.out == f"{IMAGE['id']}\n"
    ctnr("images", "alpine", "-q")
    assert ctnr.out == ""
    for wanted in ("demo", "demo:latest", "localhost/demo"):
        ctnr("images", "-q", wanted)
        assert ctnr.out == f"{IMAGE['id'][:12]}\n", wanted
    ctnr("images", "-a", "--digests")
    heading, row = ctnr.out.splitlines()
    assert heading.split("  ")[0] == "REPOSITORY"
    assert row.split()[2] == IMAGE["digest"]


IMAGES = [
    {**IMAGE, "id": "1" * 64, "names": ["docker.io/library/alpine:3.8", "docker.io/library/alpine:latest"],
     "created": "2026-01-03T12:00:00.123456789Z", "size_bytes": 30},
    {**IMAGE, "id": "2" * 64, "names": ["localhost:5000/team/web:1"], "created": "2026-01-01T12:00:00Z",
     "size_bytes": 10, "labels": {"tier": "front", "a": "b"}},
    {**IMAGE, "id": "3" * 64, "names": [], "created": "", "size_bytes": 20, "labels": {}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", "alpine:3.8 alpine:latest web:1 <none>:<none>"),
        ("-a", "alpine:3.8 alpine:latest web:1 <none>:<none>"),
        ("alpine", "alpine:3.8 alpine:latest"),
        ("alpine:3.*", "alpine:3.8"),
        ("al*", "alpine:3.8 alpine:latest"),
        ("*", "alpine:3.8 alpine:latest web:1"),
        ("*/web", "web:1"),
        ("localhost:5000/*/*", "web:1"),
        ("localhost:5000/*", ""),
        ("team/w?[b]", "web:1"),
        ("--filter reference=al*:latest --filter reference=web", "alpine:latest web:1"),
        ("-f dangling=true", "<none>:<none>"),
        ("-f dangling=0", "alpine:3.8 alpine:latest web:1"),
        ("-f label=tier", "alpine:3.8 alpine:latest web:1"),
        ("-f label=tier=front -f label=a=b", "web:1"),
        ("-f label=tier=back", ""),
        ("-f before=alpine", "web:1 <none>:<none>"),
        ("-f before=alpine:3.8 -f dangling=false", "web:1"),
        ("-f since=22", "alpine:3.8 alpine:latest"),
        ("-f since=team/web:1", "alpine:3.8 alpine:latest"),
        ("-f until=2026-01-02T00:00:00Z", "web:1 <none>:<none>"),
        ("-f id=sha256:2222", "web:1"),
        ("--sort created", "alpine:3.8 alpine:latest web:1 <none>:<none>"),
        ("--sort size", "web:1 <none>:<none> alpine:3.8 alpine:latest"),
        ("--sort repository", "<none>:<none> alpine:3.8 alpine:latest web:1"),
        ("--sort tag", "<none>:<none> web:1 alpine:3.8 alpine:latest"),
    ],
)
def test_images_are_chosen_and_sorted(ctnr: Ctnr, words: str, wanted: str) -> None:
    ctnr.service.answers["images"] = [{"event": "result", "value": IMAGES}]
    for command in (["images"], ["image", "ls"]):
        assert ctnr(*command, *words.split(), "--format={{.Name}}") == 0, ctnr.err
        assert [name.rpartition("/")[2] for name in ctnr.out.split()] == wanted.split()


def test_images_of_one_id_are_one_in_json(ctnr: Ctnr) -> None:
    ctnr.service.answers["images"] = [{"event": "result", "value": IMAGES}]
    ctnr("images", "--format=json", "--sort=size")
    assert [one["id"][0] for one in json.loads(ctnr.out)] == ["2", "3", "1"]
    ctnr("images", "-q", "--filter=label=tier")
    assert ctnr.out.split() == ["1" * 12, "2" * 12]


def test_logs_go_where_they_came_from(ctnr: Ctnr) -> None:
    ctnr("logs", "-t", "web")
    assert (ctnr.out, ctnr.err) == (
        "1970-01-01T00:00:00.500000000Z out\n",
        "1970-01-01T00:00:01.000000000Z err\n",
    )
    ctnr("logs", "--names", "web")
    assert (ctnr.out, ctnr.err) == ("web out\n", "web err\n")


def test_names_and_statuses_are_printed(ctnr: Ctnr) -> None:
    ctnr("stop", "web", "db")
    assert ctnr.out == "web\ndb\n"
    ctnr("wait", "web", "db")
    assert ctnr.out == "0\n137\n"
    ctnr("rm", "--all")
    assert ctnr.out == f"{ID}\n"
    assert ctnr.asked.containers == (ID,)


def _three(ctnr: Ctnr) -> None:
    row = ctnr.service.answers["ps"][0]["value"][0]
    states = (("web", "running"), ("db", "paused"), ("job", "stopped"))
    ctnr.service.answers["ps"][0]["value"] = [
        {**row, "id": name, "name": name, "state": state, "created": 100.0 + at}
        for at, (name, state) in enumerate(states)
    ]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("start --all", "job"),
        ("stop -a", "web db"),
        ("stop -l", "job"),
        ("stop -f name=we", "web"),
        ("stop --filter status=exited", ""),
        ("restart -a", "web db job"),
        ("restart --running", "web db"),
        ("restart --running -f name=job", ""),
        ("kill -s HUP -a", "web db"),
        ("kill --filter label=tier=front --filter name=b", "web db"),
        ("rm -fl", "job"),
        ("rm --filter status=exited --filter status=created", "job"),
        ("rm --filter before=db", "web"),
        ("rm --filter until=101.5", "web db"),
        ("pause -a", "web"),
        ("pause -l", "job"),
        ("unpause -a", "db"),
        ("wait -l", "job"),
        ("logs -l", "job"),
        ("inspect -l", "job"),
    ],
)
def test_containers_are_chosen(ctnr: Ctnr, words: str, chosen: str) -> None:
    _three(ctnr)
    assert ctnr(*words.split()) == 0, ctnr.err
    if chosen:
        assert list(ctnr.asked.containers) == chosen.split()
    else:
        assert isinstance(ctnr.asked, requests.Ps)


def test_the_latest_stands_before_a_command(ctnr: Ctnr) -> None:
    _three(ctnr)
    assert ctnr("exec", "-l", "ls", "-la") == 3
    assert (ctnr.asked.container, ctnr.asked.args) == ("job", ("ls", "-la"))
    assert ctnr("top", "-l", "pid") == 0
    assert (ctnr.asked.container, ctnr.asked.columns) == ("job", ("pid",))
    assert ctnr("attach", "--latest") == 4
    assert ctnr.asked.container == "job"
    ctnr.service.answers["ps"][0]["value"] = []
    assert ctnr("logs", "-l") == 125
    assert ctnr.err == "ctnr: --latest: there is no container; ctnr run IMAGE makes one\n"


def test_info_names_the_cure(ctnr: Ctnr) -> None:
    ctnr("info")
    assert ctnr.out.splitlines() == [
        "no  skopeo  missing",
        "            cure: install it",
        "",
        "cgroups: v2",
    ]


def test_errors_take_one_line_and_their_status(ctnr: Ctnr) -> None:
    error = {
        "event": "error",
        "message": "no such\nthing",
        "cure": "make one",
        "status": 127,
        "traceback": "deep",
    }
    ctnr.service.answers["run"] = [error]
    assert ctnr("run", "demo") == 127
    assert ctnr.err == "ctnr: no such thing; make one\n"
    assert ctnr("--debug", "run", "demo") == 127
    assert ctnr.err.endswith("make one\ndeep\n")


def test_quiet_swallows_messages_not_warnings(ctnr: Ctnr) -> None:
    said = [
        {"event": "message", "text": "layer: unpacking"},
        {"event": "progress", "id": "layer", "what": "downloading", "done": 1, "total": 2},
        {"event": "warning", "text": "old image"},
    ]
    ctnr.service.answers["pull"][:0] = said
    ctnr("pull", "demo")
    assert "layer: unpacking\n" in ctnr.err
    for line in (("pull", "-q", "demo"), ("--quiet", "pull", "demo")):
        ctnr(*line)
        assert ctnr.err == "ctnr: warning: old image\n"
        assert ctnr.out == f"{IMAGE['id']}\n"


def test_a_service_that_breaks_off(ctnr: Ctnr) -> None:
    ctnr.service.answers["ps"] = []
    assert ctnr("ps") == 125
    assert "the service ended before it answered" in ctnr.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("runn", "unknown command runn; did you mean run?"),
        ("login", "login is not known here; skopeo login REGISTRY"),
        ("push demo", "push is not known here; ctnr image export IMAGE oci:DIR"),
        ("image save demo", "image save is not known here; ctnr image export"),
        ("system pune -f", "unknown command system pune; did you mean system prune?"),
        ("system prune", "system prune: nobody can be asked, standard input is no terminal; add --force"),
        ("system prune --filter=name=a", "with one of: label, until"),
        ("system df -v --format={{.Type}}", "a template is for its short form; leave out --verbose"),
        ("image frob", "unknown command image frob; see ctnr help image"),
        ("supervisor foo", "unknown command supervisor foo; see ctnr help supervisor"),
        ("net prun", "unknown command net prun; did you mean net prune?"),
        ("--nonsense", "unknown flag --nonsense; see ctnr --help"),
        ("run --detatch demo", "unknown flag --detatch; did you mean --detach?"),
        ("run -rm demo", "did you mean --rm?"),
        ("run", "run needs an image"),
        ("exec web", "exec needs CONTAINER COMMAND"),
        ("images a b", "too many arguments: b"),
        ("run --shm-size=big demo", "--shm-size=big: a size such as 64m is expected"),
        ("run --pull=sometimes demo", "one of missing, always, never, newer is expected"),
        ("run --tty=perhaps demo", "true or false is expected"),
        ("run --network=a,,b demo", "an empty name"),
        ("run -e =x demo", "the name is missing"),
        ("run --env-file=/nonexistent demo", "read /nonexistent: No such file or directory"),
        ("run --seccomp=/nonexistent demo", "--seccomp=/nonexistent: no such file"),
        ("run --detach-keys=ctrl-P-Q -ti demo", "is no key"),
        ("run --add-host=a demo", "NAME:IP or NAME=IP is expected"),
        ("image import .", "image import needs a name"),
        ("image export demo out", "out: not a destination"),
        ("stop --all web", "takes no names"),
        ("rm --filter=status=exited web", "rm --filter takes no names"),
        ("attach -l web", "attach --latest takes no names"),
        ("kill -l -a", "kill --latest, --all and --filter: one of them"),
        ("stop --all=false", "missing CONTAINER …"),
        ("start", "missing CONTAINER …; see ctnr start --help"),
        ("stop --filter=colour=red", "--filter=colour=red: not known"),
        ("rm -t 5 web", "rm --time: it is how long --force waits; ctnr rm -f -t 10 CONTAINER"),
        ("ps --filter=until=soon", "--filter until=soon: not a moment"),
        ("logs --since=yesterday web", "not a moment"),
        ("ps --filter=colour=red", "--filter=colour=red: not known"),
        ("ps --filter=status=up", "--filter=status=up: status is one of created, running, paused"),
        ("ps --filter=health=fine", "health is one of starting, healthy, unhealthy, none"),
        ("ps --filter=exited=well", "an exit status is a number"),
        ("events --filter=event=dies", "--filter=event=dies: event is one of attach, connect, create"),
        ("events --filter=type=box", "type is one of container, network"),
        ("volume ls --filter=dangling=perhaps", "dangling is one of true, false, 1, 0"),
        ("images --filter=colour=red", "with one of: reference, dangling, before, since, until, label, id"),
        ("images --filter=dangling=maybe", "dangling is one of true, false, 1, 0"),
        (
            "images --filter=before=nobody",
            "--filter=before=nobody: no image has that name or id; ctnr images",
        ),
        ("images --filter=until=soon", "not a moment"),
        ("images --sort=weight", "one of created, id, repository, size, tag is expected"),
        ("volume prune --filter=dangling=true", "with one of: name, label, anonymous, until"),
        ("volume rm", "missing VOLUME …"),
        ("volume rm --all data", "takes no names"),
        ("volume create -d nfs data", "one of local is expected"),
        ("ps --format={{.Nmaes}}", "did you mean .Names?"),
        ("ps --format={{.Names", "{{ without }}"),
        ("bundle create demo", "bundle create needs a name"),
    ],
)
def test_bad_lines_are_told_in_one(ctnr: Ctnr, words: str, said: str) -> None:
    assert ctnr(*words.split(" ")) == 125
    assert said in ctnr.err
    assert ctnr.err.count("\n") == 1
    assert "run" not in [request.__struct_config__.tag for request in ctnr.service.asked]


def test_volumes(ctnr: Ctnr) -> None:
    ctnr("volume", "ls")
    assert ctnr.out == "DRIVER   VOLUME NAME\nlocal    data\n"
    for filters, fits in (
        ("name=^da", True), ("name=ta$", True), ("name=x", False), ("name=x name=dat", True), ("label=tier", True),
        ("label=tier=back", True), ("label=tier=front", False), ("label=tier label=other", False),
        ("dangling=true", True), ("dangling=1", True),
        ("dangling=false", False), ("anonymous=true", False), ("anonymous=false", True),
    ):  # fmt: skip
        ctnr("volume", "ls", "-q", *(f"--filter={one}" for one in filters.split()))
        assert ctnr.out == ("data\n" if fits else ""), filters
    assert ctnr("volume", "prune") == 125, "nobody can be asked"
    assert ctnr.err.count("\n") == 1
    assert isinstance(ctnr.asked, requests.VolumeList)
    ctnr("volume", "prune", "--force", "--filter=until=2026-01-31T11:00:00Z")
    assert ctnr.out == "Total reclaimed space: 0 B\n", "it was made later"
    ctnr("volume", "prune", "--force", "--filter=until=2026-01-31T13:00:00Z")
    assert ctnr.out.startswith("data\n")
    assert ctnr("volume", "prune", "--force") == 0
    assert ctnr.out == "data\nTotal reclaimed space: 4.1 kB\n"


def test_disk_usage(ctnr: Ctnr) -> None:
    assert ctnr("system", "df") == 0
    assert [re.split("   +", line.strip()) for line in ctnr.out.splitlines()] == [
        ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
        ["Images", "1", "1", "5 kB", "1 kB (20%)"],
        ["Containers", "1", "1", "100 B", "0 B (0%)"],
        ["Local Volumes", "1", "0", "30 B", "30 B (100%)"],
        ["Bundles", "0", "0", "0 B", "0 B (0%)"],
    ]
    ctnr("system", "df", "--format", "{{.Type}}: {{.Reclaimable}} {{.RawSize}}")
    assert ctnr.out.splitlines()[0] == "Images: 1 kB (20%) 5000"
    ctnr("system", "df", "--format=json")
    assert [one["TotalCount"] for one in json.loads(ctnr.out)] == [1, 1, 1, 0]
    assert ctnr("system", "df", "-v") == 0
    parts = [
        [re.split("   +", line.strip()) for line in part.splitlines()] for part in ctnr.out.split("\n\n")
    ]
    assert [part[0][0] for part in parts[::2]] == [
        f"{kind} space usage:" for kind in ("Images", "Containers", "Local Volumes", "Bundles")
    ]
    assert parts[1][1][-4:] == ["4 kB", "1.5 kB", "2.5 kB", "1"]
    assert parts[3][1][3:5] == ["2", "100 B"]
    assert parts[5][1] == ["data", "0", "30 B"]
    assert len(parts[7]) == 1


def test_a_prune_of_everything_asks_for_each_kind(ctnr: Ctnr) -> None:
    row = ctnr.service.answers["ps"][0]["value"][0]
    ctnr.service.answers["ps"][0]["value"] = [
        {**row, "state": "stopped", "size_bytes": 1000}, {**row, "id": "b", "state": "created", "size_bytes": 77}
    ]  # fmt: skip
    assert ctnr("system", "prune", "-af", "--volumes") == 0
    assert ctnr.out == (
        f"Deleted Containers\n{ID}\nb\nDeleted Networks\nmine\nDeleted Volumes\ndata\n"
        f"Deleted Images\n{IMAGE['id']}\nTotal reclaimed space: 15.1 kB\n"
    )
    assert ctnr.asked.all
    assert ctnr.asked.among is None
    kinds = [type(request) for request in ctnr.service.asked]
    ctnr("system", "prune", "--force", "--filter=label=tier=front", "--filter=until=10m")
    assert requests.NetPrune in kinds
    later = ctnr.service.asked[len(kinds) :]
    assert [type(one) for one in later] == [requests.Ps, requests.Remove, requests.Images, requests.ImageGc]
    assert (later[-1].all, later[-1].among) == (False, (IMAGE["id"],))


def test_images_are_collected_with_filters(ctnr: Ctnr) -> None:
    ctnr("image", "prune", "-af", "--filter", "until=2026-01-31T11:00:00Z")
    assert (ctnr.asked.all, ctnr.asked.among) == (True, ())
    assert ctnr.out == f"{IMAGE['id']}\nTotal reclaimed space: 10 kB\n"


def test_networks_are_drawn(ctnr: Ctnr) -> None:
    assert ctnr("net", "show") == 0
    assert ctnr.out == (
        "mine  bridge  10.7.0.0/24  bridge ctnr-mine  gateway 10.7.0.1\n"
        "└─ web   cni0   10.7.0.2   in 1.5 kB, out 20 B   0.0.0.0:8080->80/tcp\n"
    )
    assert ctnr("network", "ls") == 0
    assert ctnr.out.splitlines()[1].split() == [
        "mine",
        "bridge",
        "10.7.0.0/24",
        "web",
        "/nets/mine.conflist",
    ]


def test_published_ports_are_told_as_docker_does(ctnr: Ctnr) -> None:
    assert ctnr("port", "web") == 0
    assert ctnr.out == "80/tcp -> 0.0.0.0:8080\n"
    assert ctnr("port", "web", "80") == 0
    assert ctnr.out == "0.0.0.0:8080\n"
    assert ctnr("port", "web", "81/udp") == 125
    assert "does not publish 81/udp" in ctnr.err
