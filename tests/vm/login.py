"""People who log in, as PAM and systemd have it: a session's cgroup, a manager and a bus of their own."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.world.people import Result

PROGRAMS = Path(sys.executable).parent
SECONDS = 300  # emulated processors are slow


@dataclass(frozen=True)
class Login:
    """A name in /etc/passwd, logged in anew for each command."""

    name: str

    def run(self, *argv: str) -> Result:
        line = f"PATH={PROGRAMS}:$PATH; {shlex.join(argv)}"
        done = subprocess.run(
            ["runuser", "-l", self.name, "-c", line],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Result(argv, done.returncode, done.stdout, done.stderr)

    def ctnr(self, *argv: str) -> Result:
        return self.run("ctnr", *argv)

    def systemctl(self, *argv: str) -> Result:
        return self.run("systemctl", *(() if self.is_root else ("--user",)), *argv)

    @property
    def is_root(self) -> bool:
        return self.name == "root"

    @property
    def unit_dir(self) -> Path:
        return Path("/etc/systemd/system" if self.is_root else f"/home/{self.name}/.config/systemd/user")

    def cgroup(self, container: str) -> Path:
        pid = self.ctnr("inspect", "--format={{.State.Pid}}", container).ok.stdout.strip()
        return Path(f"/sys/fs/cgroup{Path(f'/proc/{pid}/cgroup').read_text().strip().removeprefix('0::')}")
