"""A program in a terminal, driven as a person would: type, read, resize, wait."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_=>78]")


class Terminal:
    """A pseudo-terminal with one program in it, which has it as its controlling terminal.

    `output` is all that was shown so far, `text` the same without escape sequences and carriage returns. `expect` looks
    at what came since the last match. Close it, or use it as a `with` block: the program is killed then.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        rows: int = 24,
        columns: int = 80,
        owner: int | None = None,
        **popen: Any,
    ) -> None:
        self.master, slave = pty.openpty()
        self.output = ""
        self._seen = 0
        self._ended = False
        self.resize(rows, columns)
        if owner is not None:
            os.fchown(slave, owner, -1)
        try:
            # setsid(1) --ctty makes stdin the controlling terminal, which subprocess itself can't without a preexec_fn
            self.process = subprocess.Popen(
                ["setsid", "--ctty", "--", *argv], env=env, stdin=slave, stdout=slave, stderr=slave, **popen
            )
        except BaseException:
            os.close(self.master)
            raise
        finally:
            os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The program's process id; it leads its session."""
        return self.process.pid

    @property
    def text(self) -> str:
        return plain(self.output)

    def send(self, text: str) -> None:
        """Type `text` as it stands."""
        data = text.encode()
        while data:
            data = data[os.write(self.master, data) :]

    def line(self, text: str = "") -> None:
        """Type a line and press Return."""
        self.send(text + "\r")

    def ctrl(self, letter: str) -> None:
        """Press Ctrl and a letter: `ctrl("c")`, `ctrl("d")`, `ctrl("p")`."""
        self.send(chr(ord(letter.upper()) & 0x1F))

    def resize(self, rows: int, columns: int) -> None:
        """Change the window; the kernel sends SIGWINCH to the foreground group."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def mode(self) -> list[Any]:
        """The terminal's settings (termios.tcgetattr): to see that they come back after a session in raw mode."""
        return termios.tcgetattr(self.master)

    def expect(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        """Wait until `pattern` (a regular expression) is shown after the last match.

        Raises: AssertionError with what was shown instead, when time is up or the program has ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            match = re.compile(pattern, re.MULTILINE).search(self.output, self._seen)
            if match:
                self._seen = match.end()
                return match
            if not self._pump(deadline):
                why = "the program ended" if self._ended else f"nothing in {seconds} s"
                raise AssertionError(
                    f"{why}: wanted {pattern!r}, shown since:\n{plain(self.output[self._seen :])}"
                )

    def wait(self, seconds: float = 20) -> int:
        """Read to the end and give the exit status as a shell would (128 + n for a signal).

        Raises: AssertionError with what was shown, when time is up.
        """
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self._pump(min(deadline, time.monotonic() + 0.05))
        while self._pump(time.monotonic() + 0.02):
            pass
        if self.process.returncode is None:
            raise AssertionError(f"still running after {seconds} s, shown:\n{self.text}")
        return shell_status(self.process.returncode)

    def close(self) -> None:
        """Hang up, and kill whatever of the program is still there."""
        if self.master < 0:
            return
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
        self.master = -1

    def _pump(self, deadline: float) -> bool:
        """Read what is there, at the latest until `deadline`; False when nothing came."""
        if self._ended:
            return False
        ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self.master, 65_536)
        except OSError:  # EIO: the last one who had it open is gone
            data = b""
        self._ended = not data
        self.output += data.decode(errors="replace")
        return bool(data)


def plain(text: str) -> str:
    """`text` without escape sequences, and with plain line ends."""
    return _ESCAPES.sub("", text).replace("\r\n", "\n")


def shell_status(returncode: int) -> int:
    """subprocess's negative return code of a killed program, as a shell shows it."""
    return returncode if returncode >= 0 else 128 - returncode
