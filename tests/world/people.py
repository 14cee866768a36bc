"""The people under test: root and an ordinary user, each with a home, a store and a service of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.world.leaks import descendants
from tests.world.machine import USER_NAME, Machine
from tests.world.terminal import Terminal, shell_status

STOP_SECONDS = 10


@dataclass(frozen=True)
class Result:
    """What a finished command left: its exit status as a shell shows it, and what it printed."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> Result:
        """Itself, when the status is 0; so that a failing step tells why: `me.ctnr("pull", ref).ok.stdout`."""
        assert self.status == 0, f"{' '.join(self.argv)}: exit {self.status}\n{self.stderr}{self.stdout}"
        return self


class Person:
    """Somebody with a home who types commands. `name` is "root" or "user"; both have the same programs on PATH."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.name = name
        self.machine = machine
        self.uid = 0 if name == "root" else machine.user_id
        # short names: a socket's whole path has to fit into 108 bytes
        self.home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=machine.root))
        self.runtime_dir = self.home / "run"
        self.store_dir = self.home / ".ctnr"
        for folder in (self.home, self.runtime_dir):
            folder.mkdir(mode=0o700, exist_ok=True)
            os.chown(folder, self.uid, self.uid)
        self.env = {
            "HOME": str(self.home),
            "USER": "root" if self.uid == 0 else USER_NAME,
            "LOGNAME": "root" if self.uid == 0 else USER_NAME,
            "PATH": f"{machine.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "TMPDIR": str(machine.root / "tmp"),
            "CTNR_RUNTIME_DIR": str(self.runtime_dir),
            "CTNR_STORE_DIR": str(self.store_dir),
        }

    def __repr__(self) -> str:
        return f"<Person {self.name}>"

    def ctnr(self, *args: str, **options: Any) -> Result:
        """Run `ctnr args…` to its end; options as in `run`."""
        return self.run(["ctnr", *args], **options)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | bytes = b"",
        seconds: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> Result:
        """Run any program as this person, without a terminal. `env` is added to the person's own.

        Raises: AssertionError with what was printed, when it has not ended after `seconds`.
        """
        with self.popen(argv, env=env, cwd=cwd) as process:
            try:
                out, err = process.communicate(
                    stdin.encode() if isinstance(stdin, str) else stdin, timeout=seconds
                )
            except subprocess.TimeoutExpired as late:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                printed = (late.stdout or b"") + (late.stderr or b"")
                # a stray holder of the pipes would keep us for ever if we read on
                for pipe in (process.stdout, process.stderr):
                    assert pipe is not None
                    pipe.close()
                raise AssertionError(
                    f"{' '.join(argv)}: not done after {seconds} s\n{printed.decode()}"
                ) from None
        status = shell_status(process.returncode)
        return Result(tuple(argv), status, out.decode(errors="replace"), err.decode(errors="replace"))

    def popen(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program as this person, in a session of its own, its stdio on pipes unless told otherwise."""
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        options["cwd"] = options.get("cwd") or self.home
        return subprocess.Popen(
            self._found(argv),
            env={**self.env, **(env or {})},
            start_new_session=True,
            umask=0o022,
            **self._identity(),
            **options,
        )

    def pty(self, *args: str, **options: Any) -> Terminal:
        """`ctnr args…` in a terminal; options as in `terminal`."""
        return self.terminal(["ctnr", *args], **options)

    def terminal(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, rows: int = 24, columns: int = 80
    ) -> Terminal:
        """Any program in a terminal of this person's. Use it as a `with` block."""
        return Terminal(
            self._found(argv), env={**self.env, **(env or {})}, rows=rows, columns=columns,
            owner=self.uid, cwd=self.home, umask=0o022, **self._identity(),
        )  # fmt: skip

    def service_pids(self) -> list[int]:
        """This person's service and everything else that was started with its runtime directory."""
        mark = f"CTNR_RUNTIME_DIR={self.runtime_dir}".encode()
        found = []
        for pid in descendants():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def close(self) -> None:
        """End the service as a person would, and remove the home.

        Raises: AssertionError if the service would not go; it is killed then.
        """
        try:
            if self.service_pids():
                self._stop_service()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def _stop_service(self) -> None:
        answer = "still there"
        with contextlib.suppress(AssertionError):
            done = self.ctnr("supervisor", "stop", seconds=STOP_SECONDS)
            answer = f"exit {done.status}: {done.stderr.strip()}"
        deadline = time.monotonic() + STOP_SECONDS
        while self.service_pids() and time.monotonic() < deadline:
            time.sleep(0.02)
        left = self.service_pids()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"{self.name}'s service did not stop ({answer}), killed: {left}"

    def _identity(self) -> dict[str, Any]:
        return {} if self.uid == 0 else {"user": self.uid, "group": self.uid, "extra_groups": []}

    def _found(self, argv: Sequence[str]) -> list[str]:
        program = shutil.which(argv[0], path=self.env["PATH"])
        assert program, f"{argv[0]}: not installed; run: make test"
        return [program, *argv[1:]]
