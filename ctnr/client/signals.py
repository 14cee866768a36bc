"""Signals as bytes on a pipe, so that one poll sees them beside everything else.

`_signal` is the C half of `signal`, which would build enums of all numbers first (3 ms).
"""

from __future__ import annotations

import posix as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any
else:
    import _signal as signal

HUP, INT, QUIT, TERM, CONT, TSTP, WINCH = 1, 2, 3, 15, 18, 20, 28

# Not for the container: job control, our own faults and children, the terminal's size, and PIPE (Python ignores it).
_OURS = {4, 5, 7, 8, 9, 11, 13, 17, 18, 19, 20, 21, 22, 23, 28, 31}
FORWARDED = tuple(number for number in range(1, 65) if number not in _OURS and not 31 < number < 34)


class SignalPipe:
    """Catches `numbers` until closed; those that the caller's shell had us ignore (nohup) stay ignored."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: list[tuple[int, Any]] = []
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in numbers:
            before = signal.getsignal(number)
            if before != signal.SIG_IGN:
                self._before.append((number, before))
                signal.signal(number, _caught)

    def fileno(self) -> int:
        return self._read

    def take(self) -> list[int]:
        """The numbers that came since the last call, in order; never blocks."""
        try:
            return list(os.read(self._read, 4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        for number, before in self._before:
            if before is not None:
                signal.signal(number, before)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)


def interrupt_on(numbers: Iterable[int]) -> None:
    """From now on these end the command through an `Interrupted` exception, so that cleanup runs."""
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def stop_self() -> None:
    """Stop as SIGTSTP does by default; returns when continued. The caller catches SIGTSTP again by itself."""
    before = signal.signal(TSTP, signal.SIG_DFL)
    try:
        os.kill(os.getpid(), TSTP)
    finally:
        signal.signal(TSTP, before)


def ignore(number: int) -> Any:
    """Returns what `restore` wants."""
    return signal.signal(number, signal.SIG_IGN)


def restore(number: int, before: Any) -> None:
    signal.signal(number, before)


def _caught(number: int, frame: FrameType | None) -> None:
    """Only the byte on the pipe matters."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    from ctnr.client.errors import Interrupted

    raise Interrupted(number)
