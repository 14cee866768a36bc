"""The world itself: registry, internet, people, terminals and images are what the other tests take them for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.world import images
from tests.world.internet import BIG_COUNT, BIG_NAME, MACHINE_ADDRESS, Internet
from tests.world.leaks import descendants
from tests.world.machine import Machine, run
from tests.world.people import Person
from tests.world.registry import AUTH_PASSWORD, AUTH_USER, Registry

CONTAINER_ADDRESS = "10.0.2.100"


def test_the_machine_is_private(machine: Machine) -> None:
    links = {link["ifname"] for link in json.loads(run(["ip", "-j", "link"]))}
    assert "lo" in links
    assert links <= {
        "lo",
        "uplink",
        "tunl0",
        "sit0",
        "gre0",
        "gretap0",
        "erspan0",
        "ip6tnl0",
        "ip_vti0",
        "ip6_vti0",
        "ip6gre0",
    }
    outside = machine.root / "outside"
    machine.outside(
        [
            "sh",
            "-c",
            f"ip -j link >{outside}; id ctnr-test >>{outside} 2>&1 || true; ls /run/.world >>{outside} 2>&1 || true",
        ]
    )
    told = outside.read_text()
    outside.unlink()
    assert "No such file" in told, "the private /run is seen from outside"


def test_a_person_is_who_they_say(as_user: Person) -> None:
    done = as_user.run(
        ["sh", "-c", "id -u; echo $HOME; pwd; ls -A $HOME; touch $HOME/mine; tr '\\0' ' ' </proc/self/comm"]
    ).ok
    uid, home, where, *listed, _ = done.stdout.splitlines()
    assert int(uid) == as_user.uid
    assert home == where == str(as_user.home)
    assert listed == ["run"]
    assert as_user.run(["sh", "-c", "exit 3"]).status == 3
    assert as_user.run(["sh", "-c", "kill -9 $$"]).status == 137
    assert as_user.run(["cat"], stdin="typed").stdout == "typed"
    assert as_user.run(["sh", "-c", "test -r /dev/net/tun && test -w /dev/net/tun"]).ok


def test_a_person_can_run_the_installed_packages(as_user: Person) -> None:
    code = "import supervisor.errors, netconf, ctnr, trio, msgspec; print(supervisor.errors.__file__)"
    where = as_user.run(["python", "-c", code], cwd="/").ok.stdout.strip()
    assert where.startswith(str(as_user.machine.root)), "not the installed copy"
    assert list(Path(where).parent.glob("__pycache__/errors.*.pyc")), "installed without byte code"


def test_the_user_has_a_range_of_ids(new_person: Callable[[str], Person]) -> None:
    user = new_person("user")
    script = "unshare --user --map-root-user --map-auto sh -c 'cat /proc/self/uid_map'"
    lines = user.run(["sh", "-c", script])
    if "unrecognized option" in lines.stderr:
        pytest.skip("util-linux is too old for --map-auto")
    assert str(user.uid) in lines.ok.stdout
    assert str(user.machine.first_subid) in lines.stdout


def test_a_command_that_hangs_is_told_and_killed(as_user: Person) -> None:
    with pytest.raises(AssertionError, match=r"not done after 0\.3 s\nhere"):
        as_user.run(["sh", "-c", "echo here; sleep 60"], seconds=0.3)


def test_closing_a_person_kills_a_service_that_will_not_stop(machine: Machine) -> None:
    person = Person(machine, "user")
    stray = person.popen(["sh", "-c", "trap '' TERM; echo; sleep 60"])
    assert stray.stdout
    assert stray.stdout.readline()
    assert stray.pid in person.service_pids()
    import tests.world.people as people

    patience, people.STOP_SECONDS = people.STOP_SECONDS, 1
    try:
        with pytest.raises(AssertionError, match="did not stop"):
            person.close()
    finally:
        people.STOP_SECONDS = patience
    stray.communicate()
    assert stray.returncode == -signal.SIGKILL
    assert not person.home.exists()


def test_a_terminal_is_one(as_user: Person) -> None:
    traps = "trap 'stty size' WINCH; trap 'echo interrupted' INT"
    script = f'tty; stty size; {traps}; while read -r l; do echo "<$l>"; done; exit 5'
    with as_user.terminal(["bash", "-c", script], rows=30, columns=90) as terminal:
        terminal.expect(r"/dev/pts/\d+\r\n30 90")
        terminal.line("hello")
        terminal.expect("<hello>")
        terminal.resize(40, 100)
        terminal.line()
        terminal.expect("40 100")
        terminal.expect("<>")
        terminal.ctrl("c")
        terminal.expect("interrupted")
        terminal.ctrl("d")
        assert terminal.wait() == 5
    with as_user.terminal(["sh", "-c", "echo one; exec sleep 60"]) as terminal:
        with pytest.raises(AssertionError, match=r"wanted 'two', shown since:\none"):
            terminal.expect("two", seconds=0.3)
        pid = terminal.pid
    assert pid not in descendants()


def test_the_registry_serves_what_was_pushed(
    registry: Registry, as_user: Person, layered_image: Path
) -> None:
    reference = registry.push(layered_image, "library/layered:1")
    assert reference == f"docker://{registry.address}/library/layered:1"
    for name in (reference, "docker://layered:1", "docker://docker.io/library/layered:1"):
        told = json.loads(as_user.run(["skopeo", "inspect", "--no-tags", name]).ok.stdout)
        assert len(told["Layers"]) == 4
    asked = len(registry.requests())
    assert as_user.run(["skopeo", "copy", "--quiet", reference, f"oci:{as_user.home}/copy"]).ok
    blobs = [path for path in registry.requests()[asked:] if "/blobs/" in path]
    assert len(blobs) == len(set(blobs)) == 5
    missing = as_user.run(["skopeo", "inspect", "--no-tags", "docker://nothing:1"])
    assert missing.status != 0
    assert "manifest unknown" in missing.stderr


def test_a_registry_can_ask_who_you_are(
    login_registry: Registry, busybox_image: Path, new_person: Callable[[str], Person]
) -> None:
    reference = login_registry.push(busybox_image, "private:1")
    user = new_person("user")
    look = ["skopeo", "inspect", "--tls-verify=false", reference]
    assert "authentication required" in user.run(look).stderr
    assert user.run([*look, "--creds", f"{AUTH_USER}:{AUTH_PASSWORD}"]).ok


def test_two_architectures_make_one_index(
    machine: Machine, registry: Registry, new_person: Callable[[str], Person]
) -> None:
    layout = machine.root / "multi"
    for name in (images.ARCHITECTURE, "s390x"):
        images.write_image(layout, [images.layer([images.Entry("arch", name.encode())])], architecture=name)
    reference = registry.push(layout, "multi:1")
    raw = json.loads(new_person("user").run(["skopeo", "inspect", "--raw", reference]).ok.stdout)
    assert [one["platform"]["architecture"] for one in raw["manifests"]] == [images.ARCHITECTURE, "s390x"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_layers_are_what_they_say(machine: Machine, tmp_path: Path, compression: images.Compression) -> None:
    data = images.layer(
        [images.Entry("a", b"1", mode=0o4755, xattrs={"user.x": b"y"}), images.whiteout("b/c")]
    )
    assert data == images.layer(
        [images.Entry("a", b"1", mode=0o4755, xattrs={"user.x": b"y"}), images.whiteout("b/c")]
    )
    images.write_image(tmp_path / "layout", [data], compression=compression)
    run(["skopeo", "--insecure-policy", "copy", f"oci:{tmp_path}/layout:latest", f"dir:{tmp_path}/dir"])
    with tarfile.open(fileobj=__import__("io").BytesIO(data)) as tar:
        assert tar.getnames() == ["a", "b/.wh.c"]
        assert tar.getmember("a").pax_headers["SCHILY.xattr.user.x"] == "y"


def test_debian_is_there(debian_image: Path) -> None:
    index = json.loads((debian_image / "index.json").read_bytes())
    assert len(index["manifests"]) == 1
    done = run(["skopeo", "inspect", f"oci:{debian_image}"])
    assert len(json.loads(done)["Layers"]) == 3


def test_the_machine_reaches_the_internet_by_name(internet: Internet, as_user: Person) -> None:
    fetch = "import urllib.request as u; print(u.urlopen('http://example.org/').read().decode())"
    page = as_user.run(["python", "-c", fetch]).ok.stdout
    assert "Example Domain" in page
    assert "example.org" in page
    assert urllib.request.urlopen("http://example.com/peer").read().decode().strip() in (
        MACHINE_ADDRESS,
        "2001:db8:1::10",
    )
    lookup = "import socket; print(len({a[4][0] for a in socket.getaddrinfo('%s', 80, socket.AF_INET)}))"
    assert as_user.run(["python", "-c", lookup % BIG_NAME]).ok.stdout.strip() == str(BIG_COUNT)
    unknown = as_user.run(["python", "-c", lookup % "nowhere.example.net"])
    assert "Name or service not known" in unknown.stderr


def test_slirp4netns_reaches_the_internet(internet: Internet, as_user: Person) -> None:
    """As the seed has it: `wget --spider http://example.org`, with nothing of ctnr in between."""
    name_server = as_user.home / "resolv.conf"
    name_server.write_text("nameserver 10.0.2.3\n")
    name_server.chmod(0o644)
    wget = "exec busybox wget -q -O - http://example.org/"
    inside = f"mount --bind {name_server} /etc/resolv.conf && echo ready && read go && {wget}"
    with as_user.popen(
        ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", inside]
    ) as program:
        assert program.stdout
        assert program.stdout.readline() == b"ready\n"
        flags = ["--configure", "--mtu=1500", "--ready-fd=1"]
        with as_user.popen(["slirp4netns", *flags, str(program.pid), "cni0"]) as slirp:
            assert slirp.stdout
            assert slirp.stdout.read(1) == b"1"
            addresses = run(
                ["nsenter", f"--net=/proc/{program.pid}/ns/net", "ip", "-4", "-br", "address"]
            ).decode()
            out, err = program.communicate(b"go\n", timeout=20)
            slirp.terminate()
    assert CONTAINER_ADDRESS in addresses
    assert program.returncode == 0, err
    assert b"Example Domain" in out


def test_two_people_at_once_do_not_meet(new_person: Callable[[str], Person]) -> None:
    one, other = new_person("user"), new_person("user")
    assert one.home != other.home
    with one.popen(["sleep", "60"]) as process:
        deadline = time.monotonic() + 5
        while one.service_pids() != [process.pid] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert one.service_pids() == [process.pid]
        assert other.service_pids() == []
        process.kill()


def test_a_resident_stays(resident: Person) -> None:
    (resident.home / "note").write_text(str(os.getpid()))


def test_a_resident_stayed(resident: Person) -> None:
    assert (resident.home / "note").exists()


def test_orphans_come_to_us() -> None:
    done = subprocess.run(
        ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
    )
    orphan = int(done.stdout)
    assert orphan in descendants()
    os.kill(orphan, signal.SIGKILL)
    os.waitpid(orphan, 0)
