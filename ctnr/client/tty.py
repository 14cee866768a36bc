"""A program's terminal on the caller's: raw mode, window size, detach keys, and a copy in both directions.

The two directions never wait for each other, and O_NONBLOCK is never set on the caller's descriptors: it sits on the
open file, which the shell shares. Reading a pty whose other side is closed gives EIO: that is its end, not an error.
"""

from __future__ import annotations

import errno
import fcntl
import posix as os
import select
import termios
import time

from ctnr.client import signals
from ctnr.client.errors import ClientError, Interrupted
from ctnr.client.session import deliver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.client.session import Conversation, Tell

CHUNK = 65536
DRAIN_SECONDS = (
    0.2  # silence after the exit that ends the copy, if some other program keeps the terminal open
)
EOF_SECONDS = (
    0.2,
    8.0,
)  # ^D is typed again after so long, and then after twice as long, up to the second number
_TTOU = 22
_ENDING = (signals.HUP, signals.INT, signals.QUIT, signals.TERM)


class Terminal:
    """The copy between a program and descriptors 0 and 1.

    `ends` (owned from now on) are one pty master for both directions, or what an attach got: an end to read from
    and, if there is something to type into, one to write to.
    """

    def __init__(
        self, ends: list[int], conversation: Conversation, tell: Tell, *, is_tty: bool, interactive: bool,
        detach_keys: str, forward_signals: bool = True,
    ) -> None:  # fmt: skip
        self._ends = ends
        self._from: int | None = ends[0]
        self._into: int | None = ends[-1] if len(ends) > 1 or is_tty else None
        self._conversation, self._tell, self._is_tty = conversation, tell, is_tty
        self._keys = DetachKeys(detach_keys)
        self._raw_wanted = is_tty and interactive and os.isatty(0)
        self._interactive, self._forward_signals = interactive, forward_signals
        self._size_from = size_descriptor() if is_tty else None
        self._saved: list[Any] | None = None
        self._signals: signals.SignalPipe | None = None
        self._output, self._output_chunk = 1, CHUNK
        self._impatience: list[float] = []
        self._to_program, self._to_user = bytearray(), bytearray()
        self._last_typed = b"\n"
        self._end_again: float | None = None  # when to type ^D once more
        self._end_pause = EOF_SECONDS[0]
        self._detached = False
        self._status: int | None = None
        self._quiet_since = 0.0

    def run(self) -> int | None:
        """Exit status of the program, or None after the detach keys.

        Raises: Interrupted when a signal ends us, BrokenPipeError if nobody reads descriptor 1, ClientError.
        """
        caught = signals.FORWARDED if self._forward_signals else _ENDING
        self._signals = signals.SignalPipe((*caught, signals.WINCH, signals.TSTP, signals.CONT))
        for number in self._ends:
            os.set_blocking(number, False)
        self._output, self._output_chunk = _own_description(1)
        self._resize()
        self._enter_raw()
        while not self._finished():
            self._step()
        return None if self._detached else self._status

    def close(self) -> None:
        """Restores the caller's terminal; safe to call in any state."""
        self._leave_raw()
        if self._signals is not None:
            self._signals.close()
            self._signals = None
        if self._output != 1:
            os.close(self._output)
            self._output = 1
        for number in self._ends:
            os.close(number)
        self._ends = []

    def _finished(self) -> bool:
        if self._to_user:
            return False
        if self._detached:
            return not self._to_program
        if self._status is None:
            return False
        return self._from is None or time.monotonic() - self._quiet_since >= DRAIN_SECONDS

    def _step(self) -> None:
        """Wait until something can move, and move it."""
        assert self._signals is not None
        wakeup, service = self._signals.fileno(), self._conversation.fileno()
        wanted = {wakeup: select.POLLIN}
        if self._status is None:
            wanted[service] = select.POLLIN
            if self._interactive and not self._detached and len(self._to_program) < CHUNK:
                wanted[0] = select.POLLIN
        if self._to_user:
            wanted[self._output] = select.POLLOUT
        elif self._from is not None and not self._detached:
            wanted[self._from] = select.POLLIN
        if self._to_program and self._into is not None:
            wanted[self._into] = wanted.get(self._into, 0) | select.POLLOUT
        poll = select.poll()
        for number, events in wanted.items():
            poll.register(number, events)
        ready = dict(poll.poll(self._patience()))
        self._repeat_end()
        if wakeup in ready:
            self._on_signals()
        if self._to_program and self._into in ready and not _write_some(self._into, self._to_program, CHUNK):
            self._into = None
        if self._from in ready and wanted[self._from] & select.POLLIN:
            self._read_program(self._from)
        if self._into is None:
            self._to_program.clear()
        if 0 in ready:
            self._read_user()
        if self._output in ready and not _write_some(self._output, self._to_user, self._output_chunk):
            raise BrokenPipeError(errno.EPIPE, "descriptor 1")
        if service in ready:
            self._receive()
        if not self._interactive and not self._is_tty and self._into is not None and not self._to_program:
            self._end_input()

    def _read_program(self, number: int) -> None:
        try:
            data = os.read(number, CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        if data:
            self._to_user += data
            self._quiet_since = time.monotonic()
        else:
            self._from = None
            if self._is_tty:
                self._into = None

    def _read_user(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EAGAIN):
                raise
            data = b""  # the terminal is gone
        if data:
            passed, self._detached = self._keys.feed(data) if self._raw_wanted else (data, False)
            self._to_program += passed
            self._last_typed = passed[-1:] or self._last_typed
            return
        self._interactive = False
        if self._is_tty:
            self._to_program += self._keys.rest() + self._end_of_input()
            self._last_typed = b"\n"
            self._end_again = time.monotonic() + self._end_pause

    def _patience(self) -> float | None:
        """Milliseconds until something is due though nothing has come."""
        if self._status is not None:
            return DRAIN_SECONDS * 1000
        return None if self._end_again is None else max(0, self._end_again - time.monotonic()) * 1000

    def _repeat_end(self) -> None:
        """At the end of piped input, ^D is typed until the program has ended, as a person would: one that comes while
        the program sets its terminal up is lost, and every further reader is at the end, too."""
        if self._end_again is None or time.monotonic() < self._end_again:
            return
        self._end_pause = min(self._end_pause * 2, EOF_SECONDS[1])
        self._end_again = time.monotonic() + self._end_pause
        if self._status is None and self._into is not None and not self._to_program:
            self._to_program += self._end_of_input()

    def _end_input(self) -> None:
        """Let the program see the end of piped input."""
        os.close(self._ends.pop())
        self._into = None

    def _receive(self) -> None:
        event, received = self._conversation.receive()
        for number in received:
            os.close(number)
        if event["event"] in ("exited", "result"):
            self._status, self._quiet_since = int(event.get("status", 0)), time.monotonic()
        else:
            self._tell_raw(event)

    def _on_signals(self) -> None:
        assert self._signals is not None
        for number in self._signals.take():
            if number == signals.WINCH:
                self._resize()
            elif number == signals.TSTP:
                self._leave_raw()
                signals.stop_self()
                self._enter_raw()  # also if the kernel did not let us stop: nobody would continue us (orphaned group)
                self._resize()
            elif number == signals.CONT:  # the shell has set the modes that it likes
                self._enter_raw()
                self._resize()
            elif number in _ENDING and (self._saved or not self._forward_signals):
                raise Interrupted(number)  # keys come as bytes in raw mode: this one was sent to end us
            else:
                deliver(self._conversation, number, self._tell_raw, self._impatience)

    def _resize(self) -> None:
        if self._size_from is None or self._into is None:
            return
        try:
            size = fcntl.ioctl(self._size_from, termios.TIOCGWINSZ, bytes(8))
            if any(size[:4]):
                fcntl.ioctl(self._into, termios.TIOCSWINSZ, size)
        except OSError:
            pass  # one of the two terminals is gone; reading it will tell

    def _enter_raw(self) -> None:
        if not self._raw_wanted:
            return
        try:
            if self._saved is None:
                self._saved = termios.tcgetattr(0)
            termios.tcsetattr(0, termios.TCSANOW, _raw(self._saved))
        except termios.error:
            self._saved = None  # the terminal is gone

    def _leave_raw(self) -> None:
        saved, self._saved = self._saved, None
        if saved is None:
            return
        before = signals.ignore(_TTOU)  # in the background, too, the terminal must get its modes back
        try:
            termios.tcsetattr(0, termios.TCSANOW, saved)
        except termios.error:
            pass
        finally:
            signals.restore(_TTOU, before)

    def _tell_raw(self, event: dict[str, Any]) -> None:
        if self._saved is not None and isinstance(event.get("text"), str):
            event = {**event, "text": event["text"].replace("\n", "\r\n") + "\r"}
        self._tell(event)

    def _end_of_input(self) -> bytes:
        """What a person would type at the end of piped input: ^D; twice if a line is unfinished."""
        try:
            end: bytes = termios.tcgetattr(self._ends[-1])[6][termios.VEOF]
        except termios.error:
            end = b"\x04"
        return end if self._last_typed == b"\n" else end * 2


class DetachKeys:
    """Finds a key sequence in typed bytes, such as ``ctrl-p,ctrl-q``; "" finds nothing."""

    def __init__(self, keys: str) -> None:
        """Raises: ClientError."""
        self._sequence = bytes([_key(key) for key in keys.split(",")]) if keys else b""
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What goes to the program, and whether the sequence is complete. A beginning of it is held back until
        the next byte shows that it is none."""
        if not self._sequence:
            return data, False
        data = self._held + data
        self._held = b""
        at = data.find(self._sequence)
        if at >= 0:
            return data[:at], True
        for length in range(min(len(self._sequence) - 1, len(data)), 0, -1):
            if data.endswith(self._sequence[:length]):
                self._held = data[len(data) - length :]
                return data[: len(data) - length], False
        return data, False

    def rest(self) -> bytes:
        """What is held back, at the end of the input."""
        held, self._held = self._held, b""
        return held


def describe_terminal() -> dict[str, object] | None:
    """The caller's terminal as requests tell it: rows, columns, term; None without one."""
    from ctnr.client.environ import lookup

    descriptor = size_descriptor()
    if descriptor is None:
        return None
    columns, rows = os.get_terminal_size(descriptor)
    return {"rows": rows or 24, "columns": columns or 80, "term": lookup("TERM") or "xterm"}


def size_descriptor() -> int | None:
    return next((number for number in (1, 0, 2) if os.isatty(number)), None)


def _key(key: str) -> int:
    if len(key) == 1 and key.isascii():
        return ord(key)
    name = key.lower()
    if name.startswith("ctrl-") and len(name) == 6 and (name[5].isalpha() or name[5] in "@[\\]^_"):
        return ord(name[5].upper()) & 0x1F
    raise ClientError(
        f"detach keys: {key!r} is no key", cure="use letters and ctrl-LETTER, with commas: ctrl-p,ctrl-q"
    )


def _raw(modes: list[Any]) -> list[Any]:
    """cfmakeraw(3)."""
    t = termios
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = modes
    iflag &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
    oflag &= ~t.OPOST
    cflag = cflag & ~(t.CSIZE | t.PARENB) | t.CS8
    lflag &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
    characters = list(characters)
    characters[t.VMIN], characters[t.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, characters]


def _own_description(number: int) -> tuple[int, int]:
    """A non-blocking descriptor for the same terminal or pipe, and how much to write at once.

    Where it can't be opened anew (a socket, a terminal of another user's), small writes after a poll don't block.
    """
    kind = os.fstat(number).st_mode & 0o170000
    if kind in (0o020000, 0o010000):  # character device, pipe
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{number}", flags), CHUNK
        except OSError:
            return number, 512
    return number, CHUNK if kind == 0o100000 else 512


def _write_some(number: int, pending: bytearray, at_most: int) -> bool:
    """False if nobody reads the other end any more."""
    try:
        del pending[: os.write(number, bytes(pending[:at_most]))]
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EPIPE, errno.ECONNRESET):
            raise
        return False
    return True
