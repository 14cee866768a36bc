"""`run A … --- B …`: several containers in one foreground. When one ends, the others are stopped."""

from __future__ import annotations

import posix as os
import select

from ctnr.cli.output import write
from ctnr.cli.tell import Teller
from ctnr.client.errors import ClientError, Interrupted, UsageError
from ctnr.client.session import Conversation
from ctnr.client.signals import FORWARDED, HUP, INT, QUIT, TERM, SignalPipe, interrupt_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ctnr.cli.grammar import Parsed
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

SEPARATOR = "---"
_ENDING = (HUP, INT, QUIT, TERM)
_CHUNK = 65536


def split_group(words: list[str]) -> list[list[str]]:
    """The words of each container; a `run` at the beginning of a later part is taken for what it says."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == SEPARATOR:
            parts.append([])
        else:
            parts[-1].append(word)
    return [parts[0], *[part[1:] if part[:1] == ["run"] else part for part in parts[1:]]]


def run_group(
    service: Service,
    parts: list[Parsed],
    requests: list[Event],
    started: list[Callable[[Event], None]],
) -> int:
    """The status of the first that ends by itself with another than 0; 128 + n after signal n.

    Raises: ClientError if one can't be started, Interrupted at the second signal; then none is left.
    """
    for options in parts:
        for flag in ("detach", "tty"):
            if options.flag(flag):
                raise UsageError(f"run … {SEPARATOR}: --{flag} is for one container", cure="leave it out")
    if sum(options.flag("interactive") for options in parts) > 1:
        raise UsageError(f"run … {SEPARATOR}: standard input is for one container", cure="one --interactive")
    interrupt_on(_ENDING)
    group = _Group(service, requests, [options.flag("interactive") for options in parts], started)
    try:
        return group.run()
    finally:
        group.close()


class _Member:
    """One of the containers; `lines` are the read ends of its output, by the descriptor where it goes."""

    def __init__(self, request: Event, interactive: bool, started: Callable[[Event], None]) -> None:
        self.request, self.interactive, self.on_start = request, interactive, started
        self.conversation: Conversation | None = None
        self.name = str(request.get("name") or request.get("image") or "")
        self.id = ""
        self.status: int | None = None
        self.lines: dict[int, tuple[int, bytearray]] = {}  # read end → (1 or 2, an unfinished line)


class _Group:
    def __init__(
        self, service: Service, requests: list[Event], interactive: list[bool],
        started: list[Callable[[Event], None]],
    ) -> None:  # fmt: skip
        self._service = service
        self._members = [_Member(*one) for one in zip(requests, interactive, started, strict=True)]
        self._prefixed = os.isatty(1)
        self._teller = Teller()
        self._signals = SignalPipe(FORWARDED)
        self._stops: list[Conversation] = []  # requests to stop; none: all shall go on
        self._status = 0
        self._interrupted = 0

    def run(self) -> int:
        self._start_next()
        while any(one.status is None for one in self._members if one.conversation) or self._lines_left():
            self._step()
        return 128 + self._interrupted if self._interrupted else self._status

    def close(self) -> None:
        """What still runs ends now: its service sees the client go."""
        self._signals.close()
        conversations = [*self._stops, *(one.conversation for one in self._members)]
        failed: list[BaseException] = []
        for conversation in conversations:
            if conversation is not None:
                try:
                    conversation.close()
                except BaseException as error:
                    failed.append(error)
        for one in self._members:
            for number in one.lines:
                os.close(number)
        if failed:
            raise failed[0]

    def _start_next(self) -> None:
        """One after the other: a later one may share namespaces of an earlier one."""
        member = next((one for one in self._members if one.conversation is None), None)
        if member is None or self._stops:
            return
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        ends = [0 if member.interactive else null, 1, 2]
        pipes: list[int] = []
        try:
            for number in (1, 2) if self._prefixed else ():
                read_end, ends[number] = os.pipe2(os.O_CLOEXEC)
                pipes.append(ends[number])
                member.lines[read_end] = (number, bytearray())
            member.conversation = Conversation(self._service, member.request, ends)
        finally:
            for number in (null, *pipes):
                os.close(number)

    def _lines_left(self) -> bool:
        return any(one.lines for one in self._members)

    def _step(self) -> None:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        for one in self._members:
            if one.conversation is not None and one.status is None:
                poll.register(one.conversation, select.POLLIN)
            for number in one.lines:
                poll.register(number, select.POLLIN)
        for stop in self._stops:
            if not stop.ended:
                poll.register(stop, select.POLLIN)
        ready = {number for number, _ in poll.poll()}
        for one in self._members:
            for number in [number for number in one.lines if number in ready]:
                self._copy(one, number)
        for one in self._members:
            if one.conversation is not None and one.status is None and one.conversation.fileno() in ready:
                self._receive(one, one.conversation)
        for stop in self._stops:
            if not stop.ended and stop.fileno() in ready:
                try:
                    stop.receive()
                except ClientError:
                    pass  # what it was to stop has gone meanwhile
        if self._signals.fileno() in ready:
            for number in self._signals.take():
                self._on_signal(number)

    def _receive(self, member: _Member, conversation: Conversation) -> None:
        event, received = conversation.receive()
        for number in received:
            os.close(number)
        kind = event["event"]
        if kind in ("exited", "result"):
            member.status = int(event.get("status", 0))
            if not self._stops:
                self._status = member.status
                self._stop([one.id for one in self._members if one.id])
        elif kind == "started":
            member.name, member.id = event["name"], event["container"]
            member.on_start(event)
            if self._stops:
                self._stop([member.id])  # it came while the others were told to
            else:
                self._start_next()
        elif kind != "starting":
            self._teller(event)

    def _stop(self, ids: list[str]) -> None:
        from ctnr.cli.request import base_request

        request = {**base_request("stop"), "containers": ids, "ignore": True}
        self._stops.append(Conversation(self._service, request))

    def _on_signal(self, number: int) -> None:
        if number not in (INT, TERM):
            for one in self._members:
                if one.conversation is not None and one.status is None:
                    one.conversation.send({"op": "signal", "signal": number})
            return
        if self._interrupted:
            raise Interrupted(number)
        self._interrupted = number
        if not self._stops:
            self._teller.note("stopping; once more to kill")
            self._stop([one.id for one in self._members if one.id and one.status is None])

    def _copy(self, member: _Member, number: int) -> None:
        """Whole lines, each with the name of who wrote it."""
        to, pending = member.lines[number]
        data = os.read(number, _CHUNK)
        pending += data
        if not data:
            os.close(number)
            del member.lines[number]
            if pending:
                pending += b"\n"
        whole, newline, rest = bytes(pending).rpartition(b"\n")
        if newline:
            width = max(len(one.name) for one in self._members)
            head = f"{member.name.ljust(width)} | ".encode()
            write(b"".join(head + line + b"\n" for line in whole.split(b"\n")), to)
        pending[:] = rest
