"""Whatever goes wrong: one clear line that says what to do, status 125, and nothing left (the leak guard looks)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.world.images import write_image
from tests.world.people import Person
from tests.world.registry import Registry

INSECURE = "--image-policy=insecure"


def refused(person: Person, *args: str, says: str, status: int = 125, **options: object) -> str:
    """Run it, and see it refused as it should be."""
    done = person.ctnr(*args, **options)  # type: ignore[arg-type]
    told = [line for line in done.stderr.splitlines() if line.startswith("ctnr: ")]
    assert done.status == status, done
    assert len(told) == 1, done.stderr
    assert says in told[0], done.stderr
    assert "Traceback" not in done.stderr
    return told[0]


def test_words_that_are_none(me: Person) -> None:
    refused(me, "rum", "demo", says="did you mean")
    refused(me, "run", "--netwrok=none", "demo", says="--network")
    refused(me, "run", "--rm", "--network=nope", "demo", "true", says="network nope")
    refused(me, "run", "--rm", "-u", "nobody-here", "demo", "true", says="not in /etc/passwd of the image")
    refused(me, "run", "--rm", "--cap-add=FLY", "demo", "true", says="unknown")
    refused(me, "run", "--rm", "-v", "/etc:relative", "demo", "true", says="absolute")
    refused(me, "run", "--rm", "--seccomp=/no/such", "demo", "true", says="seccomp")
    refused(me, "run", "--rm", "Upper/Case", "true", says="lower case")
    refused(me, "run", "--rm", "--tmpfs=/x:size=much", "demo", "true", says="size can't be 'much'")
    refused(me, "run", "--rm", "--tmpfs=/x:mode=9", "demo", "true", says="mode can't be '9'")
    refused(me, "run", "--rm", "", "true", says="image reference '': empty")
    refused(me, "bundle", "run", "nobody", says="no bundle has the name nobody")
    refused(me, "rmi", "nobody", says="ctnr images lists what is there")
    refused(me, "run", "-d", "--restart=on-failure:-1", "demo", "true", says="'-1' is not a count")
    assert "net rm" not in refused(me, "net", "create", "bridge", says="built-in")
    refused(me, "kill", "-s", "NOPE", "x", says="NOPE")
    assert me.ctnr("ps", "-a", "-q").ok.stdout == ""


def test_an_output_that_is_full(me: Person) -> None:
    with open("/dev/full", "wb") as full, me.popen(["ctnr", "ps"], stdout=full) as process:
        assert process.communicate()[1] == b"ctnr: standard output: No space left on device\n"
        assert process.returncode == 125


def test_commands_and_directories_in_volumes(me: Person) -> None:
    """In the foreground all of stderr counts: the runtime would write there, too."""
    volume = me.home / "volume"
    volume.mkdir()
    for name, mode in (("plain", 0o644), ("tool", 0o755)):
        (volume / name).write_text("#!/bin/sh\necho here\n")
        (volume / name).chmod(mode)
    name = me.ctnr(
        "run", "-d", "--network=none", f"-v={volume}:/vol:ro", "demo", "sleep", "1000"
    ).ok.stdout.strip()
    run, execute = ("run", "--rm", "--network=none", f"-v={volume}:/vol:ro"), ("exec",)
    try:
        for command, where in ((run, "demo"), (execute, name)):
            for options, program, status, says in (
                ((), "/vol/none", 127, "not found in the container"),
                (("-e", "PATH=/vol"), "none", 127, "not found in the container"),
                ((), "/vol/plain", 126, "can't be executed"),
                ((), "/vol", 126, "can't be executed"),
                (("-w", "/vol/none"), "true", 125, "working directory /vol/none: not there"),
                (("-w", "/vol/plain"), "true", 125, "working directory /vol/plain: not a directory"),
            ):
                done = me.ctnr(*command, *options, where, program)
                assert (done.status, done.stderr.count("\n")) == (status, 1), done
                assert says in done.stderr
            assert me.ctnr(*command, "-w", "/vol", where, "./tool").ok.stdout == "here\n"
    finally:
        me.ctnr("rm", "-f", name).ok  # noqa: B018


def test_a_link_of_the_image_leads_into_a_volume(me: Person, busybox_rootfs: Path) -> None:
    linked = me.home / "linked"
    shutil.copytree(busybox_rootfs, linked, symlinks=True)
    (linked / "opt").mkdir(exist_ok=True)
    (linked / "short").symlink_to("opt/tools")
    (linked / "opt/tools").mkdir()
    tool = me.home / "tool"
    tool.write_text("#!/bin/sh\necho here\n")
    tool.chmod(0o755)
    me.ctnr("image", "import", "-q", str(linked), "linked").ok  # noqa: B018
    run = ("run", "--rm", "--network=none", f"-v={tool}:/opt/tools/tool", f"-v={me.home}:/opt/tools/more")
    assert me.ctnr(*run, "linked", "/short/tool").ok.stdout == "here\n"
    assert me.ctnr(*run, "-e", "PATH=/bin:/short", "linked", "tool").ok.stdout == "here\n"
    assert me.ctnr(*run, "linked", "/short/more/tool").ok.stdout == "here\n"
    assert me.ctnr(*run, "linked", "/short/none").status == 127
    me.ctnr("rmi", "linked").ok  # noqa: B018


def test_images_that_can_not_be_had(me: Person, registry: Registry, busybox_image: Path) -> None:
    registry.push(busybox_image, "library/there:1")
    refused(me, "run", "--rm", INSECURE, "docker://not-there", "true", says="no such image")
    refused(me, "run", "--rm", INSECURE, "docker://127.0.0.1:9/x", "true", says="can't be reached")
    refused(me, "run", "--rm", INSECURE, f"docker://there@sha256:{'0' * 64}", "true", says="image")
    refused(me, "run", "--rm", "--pull=never", "docker://unseen", "true", says="not in the store")
    refused(me, "run", "--rm", INSECURE, "oci:/no/such", "true", says="/no/such")


def test_a_broken_layer(me: Person, machine: object, tmp_path: Path) -> None:
    layout = write_image(me.home / "broken", [b"this is no tar archive" * 100], {"Cmd": ["sh"]})
    for path in [layout, *layout.rglob("*")]:
        os.chown(path, me.uid, me.uid)
    refused(me, "run", "--rm", INSECURE, f"oci:{layout}", "true", says="layer")
    assert "broken" not in me.ctnr("images").ok.stdout


def test_network_files(me: Person) -> None:
    configs = me.home / "net.d"
    configs.mkdir(exist_ok=True)
    env = {"NETCONFPATH": str(configs)}
    (configs / "bad.conflist").write_text(
        '{"cniVersion": "0.4.0", "name": "bad", "plugins": [{"kind": "bridge"}]}'
    )
    told = refused(me, "run", "--rm", "--network=bad", "demo", "true", says="bad.conflist", env=env)
    assert "type" in told
    (configs / "torn.conf").write_text('{"name": "torn", ')
    refused(me, "run", "--rm", "--network=torn", "demo", "true", says="torn.conf", env=env)
    (configs / "gone.conf").write_text('{"cniVersion": "0.4.0", "name": "gone", "type": "no-such-plugin"}')
    refused(me, "run", "--rm", "--network=gone", "demo", "true", says="no-such-plugin not found", env=env)


def test_a_range_with_no_address_left(as_user: Person, busybox_image: Path) -> None:
    image = as_user.ctnr("pull", "-q", INSECURE, f"oci:{busybox_image}").ok.stdout.strip()
    configs = as_user.home / "net.d"
    configs.mkdir()
    env = {"NETCONFPATH": str(configs)}
    one_address = [{"subnet": "10.77.0.0/30", "rangeStart": "10.77.0.1", "rangeEnd": "10.77.0.1"}]
    ipam = {"type": "host-local", "ranges": [one_address]}
    full = {"cniVersion": "0.4.0", "name": "full", "type": "bridge", "bridge": "ctnr-full", "ipam": ipam}
    (configs / "full.conf").write_text(json.dumps(full))
    refused(as_user, "run", "--rm", "--network=full", image, "true", says="CNI error code", env=env)


@pytest.mark.parametrize(
    ("program", "network", "says"),
    [("slirp4netns", "slirp", "slirp4netns"), ("skopeo", "none", "skopeo is not installed")],
)
def test_missing_programs(
    as_user: Person, busybox_image: Path, program: str, network: str, says: str, tmp_path: Path
) -> None:
    if program == "slirp4netns":
        pulled = as_user.ctnr("pull", "-q", INSECURE, f"oci:{busybox_image}").ok.stdout.strip()
    else:
        pulled = f"oci:{busybox_image}"
    with hidden(program):
        refused(as_user, "run", "--rm", INSECURE, f"--network={network}", pulled, "true", says=says)


def hidden(program: str) -> Hidden:
    return Hidden(Path("/usr/bin", program))


class Hidden:
    """A program made unusable in this machine of the tests: covered by a file that can't be executed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        os.system(f"mount --bind /dev/null {self._path}")

    def __exit__(self, *_: object) -> None:
        os.system(f"umount {self._path}")


def test_no_range_of_subordinate_ids(new_person: object, machine: object) -> None:
    person = new_person("user")  # type: ignore[operator]
    ranges = {path: Path(path).read_text() for path in ("/etc/subuid", "/etc/subgid")}
    try:
        for path in ranges:
            Path(path).write_text("")
        told = refused(person, "image", "import", "/bin", "x", says="has no range in /etc/sub")
        assert "usermod --add-sub" in told
    finally:
        for path, text in ranges.items():
            Path(path).write_text(text)


def test_no_tun_device(as_user: Person, busybox_image: Path) -> None:
    if as_user.uid == 0:
        pytest.skip("root may open everything")
    pulled = as_user.ctnr("pull", "-q", INSECURE, f"oci:{busybox_image}").ok.stdout.strip()
    Path("/dev/net/tun").chmod(0o600)
    try:
        told = refused(as_user, "run", "--rm", "--network=slirp", pulled, "true", says="/dev/net/tun")
        assert "chmod" in told
    finally:
        Path("/dev/net/tun").chmod(0o666)


def test_a_store_that_can_not_be_written(as_user: Person, busybox_image: Path) -> None:
    if as_user.uid == 0:
        pytest.skip("root may write everywhere")
    store = "/usr/share/ctnr-store"
    refused(as_user, "--store-dir", store, "pull", INSECURE, f"oci:{busybox_image}", says="store")
    as_user.ctnr("--store-dir", store, "supervisor", "stop")


def test_a_full_disk(as_user: Person, busybox_image: Path) -> None:
    store = as_user.home / "small"
    store.mkdir()
    os.system(f"mount -t tmpfs -o size=1m,uid={as_user.uid},mode=700 tmpfs {store}")
    try:
        args = ("--store-dir", str(store), "pull", INSECURE, f"oci:{busybox_image}")
        refused(as_user, *args, says="space")
        as_user.ctnr("--store-dir", str(store), "supervisor", "stop")
    finally:
        os.system(f"umount -l {store}")
