"""A virtual machine of our own: Debian with cgroup v2 alone, systemd as process 1, its journal, and users who log in.

`python -m tests.vm [COMMAND…]` boots it and runs the command in it as root, in this checkout; its output and its exit
status are ours. Without a command: what a machine with v1's controllers can't show (`CHECKS`). The disk is made once,
by debootstrap; a run's changes are thrown away. Needs root and the packages in .ci/packages-vm; `CTNR_VM_TCG=1`
emulates the processor where /dev/kvm is there and does not work.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
HOME = Path(
    os.environ.get("CTNR_VM_DIR", "/var/tmp/ctnr-vm")
)  # the disk, the kernel, and their package lists
INSIDE = (
    "systemd systemd-sysv dbus dbus-user-session libpam-systemd udev kmod linux-image-cloud-amd64 initramfs-tools "
    "ca-certificates procps"
)
DISK_BYTES = 6 << 30  # sparse
MEMORY = "3G"
CHECKS = (
    "tests/vm/check_limits.py",
    "tests/vm/check_systemd.py",
)
DONE = "vm: done, status "

UNIT = """\
[Unit]
Description=What this machine is booted for
After=multi-user.target systemd-user-sessions.service user@1000.service dbus.service
[Service]
Type=exec
ExecStart=/usr/local/sbin/job
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
[Install]
WantedBy=graphical.target multi-user.target
"""
JOB = f"""\
#!/bin/sh
[ -e /job ] || tar -xf /dev/vdb -C /
modprobe -a tun overlay
sh /job
echo "{DONE}$?"
systemctl poweroff
"""


def main(argv: Sequence[str]) -> int:
    packages = _packages()
    made = HOME / "packages"
    if not made.exists() or made.read_text() != packages:
        _make_disk(packages)
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        job = Path(folder, "job.tar")
        _pack(job, list(argv) or [".venv/bin/python", "-m", "pytest", "-q", "-rs", *CHECKS])
        return _boot(job)


def _packages() -> str:
    ours = [
        path.read_text().splitlines()
        for path in (CHECKOUT / ".ci/packages-run", CHECKOUT / ".ci/packages-test")
    ]
    names = {line for lines in ours for line in lines if not line.startswith("#")} | set(INSIDE.split())
    return ",".join(sorted(names))


def _make_disk(packages: str) -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    root = HOME / "root"
    root.mkdir(parents=True)
    _run(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root)])
    _furnish(root)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(root / os.readlink(root / name), HOME / name)
    with (HOME / "disk").open("wb") as disk:
        disk.truncate(DISK_BYTES)
    _run(["mkfs.ext4", "-q", "-F", "-d", str(root), str(HOME / "disk")])
    shutil.rmtree(root)
    (HOME / "packages").write_text(packages)


def _furnish(root: Path) -> None:
    """A user who has units running while nobody is logged in, and the unit that does what is asked."""
    _run(["chroot", str(root), "useradd", "--create-home", "--uid=1000", "--shell=/bin/bash", "alice"])
    for path, text, mode in (
        ("etc/hostname", "vm\n", 0o644),
        ("etc/fstab", "", 0o644),
        ("etc/resolv.conf", "", 0o644),
        ("etc/systemd/system/job.service", UNIT, 0o644),
        ("usr/local/sbin/job", JOB, 0o755),
        ("var/lib/systemd/linger/alice", "", 0o644),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(mode)
    _run(["chroot", str(root), "systemctl", "enable", "job.service"])
    _run(["chroot", str(root), "apt-get", "clean"])


def _pack(job: Path, argv: Sequence[str]) -> None:
    script = job.with_name("job")
    script.write_text(f"cd {shlex.quote(str(CHECKOUT))}\nexport HOME=/root\n{shlex.join(argv)}\n")
    where = str(CHECKOUT.relative_to("/"))
    _run(
        [
            "tar",
            "-cf",
            str(job),
            "-C",
            str(job.parent),
            "job",
            "-C",
            "/",
            "--exclude=.git",
            "--exclude=.*_cache",
            where,
        ]
    )


def _boot(job: Path) -> int:
    fast = os.access("/dev/kvm", os.W_OK) and "CTNR_VM_TCG" not in os.environ
    line = [
        "qemu-system-x86_64", "-accel", "kvm" if fast else "tcg,thread=multi", "-cpu", "host" if fast else "max",
        "-smp", "2", "-m", MEMORY, "-nodefaults", "-display", "none", "-nic", "none",
        "-kernel", str(HOME / "vmlinuz"), "-initrd", str(HOME / "initrd.img"),
        "-append", "root=/dev/vda rw console=ttyS0 systemd.unified_cgroup_hierarchy=1 panic=-1",
        "-drive", f"file={HOME}/disk,format=raw,if=virtio,snapshot=on",
        "-drive", f"file={job},format=raw,if=virtio,readonly=on",
        "-serial", f"file:{HOME}/console.log", "-serial", "stdio",
    ]  # fmt: skip
    status = 125
    with subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as machine:
        assert machine.stdout is not None
        for output in machine.stdout:
            if output.startswith(DONE):
                status = int(output.removeprefix(DONE))
            else:
                sys.stdout.write(output.replace("\r\n", "\n"))
                sys.stdout.flush()
    return status


def _run(argv: Sequence[str]) -> None:
    subprocess.run(argv, check=True, stdout=sys.stderr, env={**os.environ, "LC_ALL": "C"})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
