"""The tree that `make dist` makes: small, whole, and at home in a root filesystem that has nothing but a busybox."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.world.machine import Machine, run
from tests.world.people import Person

LIMIT_BYTES = 100 << 20
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.append(sys.argv[1])
for top in ("ctnr", "supervisor", "netconf"):
    for found in pkgutil.walk_packages(importlib.import_module(top).__path__, top + "."):
        if not found.name.endswith(("__main__", "pytest_plugin")):  # pytest is the user's own
            importlib.import_module(found.name)
import supervisor.network.netlink
supervisor.network.netlink._codec()
"""


@pytest.fixture(params=["mounted", "copied"])
def busybox_root(
    request: pytest.FixtureRequest, tmp_path: Path, repository: Path, busybox_rootfs: Path
) -> Path:
    """A root filesystem with the tree at /usr/local. Only `in_root` sees what is mounted there."""
    root = tmp_path / "root"
    shutil.copytree(busybox_rootfs, root, symlinks=True)
    if request.param == "copied":
        run(["cp", "-r", f"{repository}/dist", f"{root}/usr/local"])
    else:
        (root / "usr/local").mkdir()
        (root / "usr/local.is").symlink_to(repository / "dist")
    return root


def in_root(root: Path, command: str) -> str:
    script = f"""
        [ ! -L {root}/usr/local.is ] || mount --bind $(readlink {root}/usr/local.is) {root}/usr/local
        mount -t proc proc {root}/proc && mount --bind /dev {root}/dev
        exec chroot {root} /bin/sh -c '{command}'"""
    return run(["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "unshare", "--mount",
                "--net", "/bin/sh", "-ec", script]).decode()  # fmt: skip


def test_its_size(repository: Path) -> None:
    files = [path for path in (repository / "dist").rglob("*") if not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < LIMIT_BYTES


def test_its_programs_run_without_a_libc(busybox_root: Path) -> None:
    said = in_root(
        busybox_root,
        "ctnr version; crun --version; skopeo --version; slirp4netns --version; iptables -V; catatonit 2>&1; true",
    )
    for word in (
        "ctnr ",
        "crun version",
        "skopeo version",
        "slirp4netns version",
        "iptables v",
        "catatonit",
    ):
        assert word in said


def test_iptables_finds_its_extensions(busybox_root: Path) -> None:
    rules = in_root(
        busybox_root,
        "iptables -t nat -A POSTROUTING -s 10.2.0.0/24 -m comment --comment hello -j MASQUERADE"
        " && iptables -t nat -A PREROUTING -p tcp -m addrtype --dst-type LOCAL --dport 80 -j DNAT --to 10.2.0.2:80"
        " && iptables -t nat -S",
    )
    assert "--comment hello -j MASQUERADE" in rules
    assert "--to-destination 10.2.0.2:80" in rules


def test_its_plugins_answer(busybox_root: Path) -> None:
    names = in_root(busybox_root, "ls /usr/local/lib/cni").split()
    assert {"bridge", "host-local", "portmap", "ptp", "loopback", "slirp"} <= set(names)
    for name in names:
        reply = json.loads(
            in_root(busybox_root, f"echo {{}} | CNI_COMMAND=VERSION /usr/local/lib/cni/{name}")
        )
        assert "0.4.0" in reply["supportedVersions"], name


def test_python_has_all_that_is_imported(busybox_root: Path) -> None:
    (busybox_root / "all.py").write_text(IMPORT_ALL)
    in_root(busybox_root, "cd /usr/local/lib/ctnr && bin/python3* -I -S /all.py lib/python3*/site-packages")


def test_in_the_repository_on_the_host(typist: Person, repository: Path, alpine: str) -> None:
    """There its Python runs by way of its own loader, and the programs are the host's."""
    ctnr = f"cd {repository} && dist/bin/ctnr"
    policy = "--image-policy=image-policy-example.json"
    done = typist.run(["sh", "-c", f"{ctnr} run --rm {policy} --network=slirp {alpine} ip addr show cni0"])
    assert "10.0.2.100/24" in done.ok.stdout
    info = json.loads(typist.run(["sh", "-c", f"{ctnr} info --format json"]).ok.stdout)
    assert info["facts"]["runtime"].startswith("/usr/bin/")
    assert "127" in typist.run(["sh", "-c", f"{ctnr} run --rm {alpine} no-such; echo $?"]).stdout
    link = typist.home / "ctnr"
    link.symlink_to(repository / "dist/bin/ctnr")
    assert (
        typist.run([str(link), "run", "--rm", "--network=bridge", alpine, "echo", "linked"]).ok.stdout
        == "linked\n"
    )
    daemon = next(
        pid for pid in typist.service_pids() if "ctnr.daemon" in Path(f"/proc/{pid}/cmdline").read_text()
    )
    assert os.readlink(f"/proc/{daemon}/exe").startswith(f"{repository}/dist/lib/ctnr/ld-")


def test_the_cni_plugin_on_the_host(typist: Person, repository: Path) -> None:
    plugin = f"{repository}/dist/lib/cni/slirp"
    reply = typist.run([plugin], stdin="{}", env={"CNI_COMMAND": "VERSION"}).ok.stdout
    assert "1.1.0" in json.loads(reply)["supportedVersions"]


def test_making_it_again_keeps_the_folder(machine: Machine, repository: Path, tmp_path: Path) -> None:
    """It may be mounted somewhere. What is no part of it is gone then."""
    target = tmp_path / "dist"
    target.mkdir()
    (target / "old").write_text("old")
    inode = target.stat().st_ino
    run([str(machine.python), str(Path(__file__).parents[2] / ".ci/dist"), str(target)])
    assert inode == target.stat().st_ino
    assert sorted(path.name for path in target.iterdir()) == ["bin", "lib", "sbin", "share"]
    assert sorted(tmp_path.iterdir()) == [target]
