"""One request and its answers: `ask` for a value, `run_foreground` for a program at the caller's own descriptors."""

from __future__ import annotations

import posix as os
import time

from ctnr.client.errors import ClientError, Interrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ctnr.client.connect import Service
    from ctnr.client.frames import Channel, Event
    from ctnr.client.signals import SignalPipe

    Tell = Callable[[Event], None]

CLEANUP_SECONDS = 15  # how long a cancelled command waits for the service to have cleaned up
IMPATIENT_SECONDS = 3  # this close together, the third Ctrl-C ends the session whatever the program does
_RESTARTS = 3


class Conversation:
    """The connection that carries one request, opened anew when an idle service ends just as we call."""

    def __init__(
        self, service: Service, request: Event, descriptors: Sequence[int] = (), *, start: bool = True
    ):
        """Raises: ClientError. Without `start`, `running` tells whether there was a service to ask."""
        self._service, self._request, self._descriptors, self._start = service, request, descriptors, start
        self._left = _RESTARTS
        self._heard = False
        self.ended = False
        self._channel: Channel | None = None
        self._open()

    @property
    def running(self) -> bool:
        return self._channel is not None

    def fileno(self) -> int:
        assert self._channel is not None
        return self._channel.fileno()

    def receive(self) -> tuple[Event, list[int]]:
        """The next event with its descriptors; the last one is a result or exited.

        Raises: ClientError for the service's error event, and when the connection ends too early.
        """
        while True:
            assert self._channel is not None
            try:
                got = self._channel.receive()
            except ConnectionResetError:
                if self._heard or not self._again():  # not heard: nobody has read the request
                    raise self._gone() from None
                continue
            if got is None:
                raise self._gone()
            self._heard = True
            event, descriptors = got
            kind = event.get("event")
            if kind == "error":
                self.ended = True
                if event.get("restart") and self._again():
                    self.ended = False
                    continue
                raise ClientError(
                    str(event.get("message")), cure=event.get("cure"), exit_status=event.get("status", 125),
                    remote_traceback=event.get("traceback"),
                )  # fmt: skip
            if kind in ("result", "exited"):
                self.ended = True
            return event, descriptors

    def send(self, message: Event) -> None:
        """A later frame; if the service is gone, `receive` will say so."""
        if self._channel is not None:
            try:
                self._channel.send(message)
            except OSError:
                pass

    def close(self) -> None:
        """Hang up. If the answer is still due, the service cancels what was asked: wait until it has cleaned up.

        Raises: Interrupted, KeyboardInterrupt if the user does not want to wait either.
        """
        if self._channel is None:
            return
        try:
            if not self.ended:
                self._await_cleanup(self._channel)
        finally:
            self._channel.close()
            self._channel = None

    def _open(self) -> None:
        while True:
            channel = self._service.open() if self._start else self._service.connect()
            if channel is None:
                return
            try:
                channel.send(self._request, self._descriptors)
            except OSError as error:
                channel.close()
                self._left -= 1
                if self._left < 0:
                    raise ClientError(f"send the request: {error.strerror}") from None
                continue
            except BaseException:
                channel.close()
                raise
            self._channel = channel
            return

    def _again(self) -> bool:
        self._left -= 1
        if self._left < 0 or self._channel is None:
            return False
        self._channel.close()
        self._channel = None
        time.sleep(0.01 * (_RESTARTS - self._left))  # it may need a moment to let go of its socket
        self._heard = False
        self._open()
        return self._channel is not None

    def _gone(self) -> Exception:
        self.ended = True
        if (failure := self._service.failure()) is not None:
            return failure
        return ClientError(
            "the service ended before it answered; what it ran in the foreground ended with it",
            cure=f"try again; if it happens again, look into {self._service.log_file}",
        )

    def _await_cleanup(self, channel: Channel) -> None:
        import select

        deadline = time.monotonic() + CLEANUP_SECONDS
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        try:
            channel.finish_sending()
            while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
                got = channel.receive()
                if got is None:
                    return
                for number in got[1]:
                    os.close(number)
        except (OSError, ClientError):
            return  # it is gone, and so is everything of ours


def ask(
    service: Service,
    request: Event,
    *,
    descriptors: Sequence[int] = (),
    tell: Tell | None = None,
    start: bool = True,
) -> Any:
    """The value of the result; None if no service runs and `start` is false.

    `tell` gets every other event (messages, warnings, progress, items). Raises: ClientError.
    """
    conversation = Conversation(service, request, descriptors, start=start)
    try:
        while conversation.running:
            event, received = conversation.receive()
            for number in received:
                os.close(number)
            kind = event.get("event")
            if kind == "result":
                return event.get("value")
            if kind == "exited":
                return event.get("status")
            if tell is not None:
                tell(event)
        return None
    finally:
        conversation.close()


def run_foreground(
    service: Service,
    request: Event,
    *,
    tell: Tell,
    started: Callable[[Event], None] | None = None,
    detached: Callable[[Event], None] | None = None,
    interactive: bool = False,
    tty: bool = False,
    detach_keys: str = "ctrl-p,ctrl-q",
    forward_signals: bool = True,
) -> int:
    """Exit status of the program that the request (run, exec, attach) starts or joins.

    Without a terminal our descriptors 0, 1, 2 become the program's (0 only if `interactive`); with one, and to attach,
    the service hands out the other end and everything is copied here. Raises: ClientError, Interrupted.
    """
    from ctnr.client.signals import HUP, QUIT, TERM, interrupt_on

    interrupt_on((HUP, QUIT, TERM))
    null = -1
    if tty or not interactive:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    descriptors = (null, null, null) if tty else (0 if interactive else null, 1, 2)
    conversation = Conversation(service, request, descriptors)
    if null >= 0:
        os.close(null)
    try:
        while True:
            event, received = conversation.receive()
            kind = event["event"]
            if kind == "exited":
                return int(event["status"])
            if kind == "result":
                return 0
            if kind == "starting":
                return _wait_plain(conversation, tell, forward_signals, started)
            if kind != "started":
                tell(event)
                continue
            if started is not None:
                started(event)
            if received:
                from ctnr.client.tty import Terminal

                terminal = Terminal(
                    received, conversation, tell, is_tty=event.get("tty", True), interactive=interactive,
                    detach_keys=detach_keys, forward_signals=forward_signals,
                )  # fmt: skip
                try:
                    status = terminal.run()
                finally:
                    terminal.close()
                if status is None:  # detach keys
                    return _detach(conversation, event, tell, detached)
                return status
            return _wait_plain(conversation, tell, forward_signals)
    finally:
        conversation.close()


def deliver(conversation: Conversation, number: int, tell: Tell, counter: list[float]) -> None:
    """Pass a signal on. Raises: Interrupted at the third impatient one: a program may ignore them all."""
    conversation.send({"op": "signal", "signal": number})
    if number not in (2, 15):
        return
    now = time.monotonic()
    if counter and now - counter[-1] > IMPATIENT_SECONDS:
        counter.clear()
    counter.append(now)
    if len(counter) == 2:
        tell({"event": "message", "text": "signal passed on; once more to kill the container's program"})
    elif len(counter) > 2:
        raise Interrupted(number)


def _wait_plain(
    conversation: Conversation,
    tell: Tell,
    forward_signals: bool,
    started: Callable[[Event], None] | None = None,
) -> int:
    import select

    from ctnr.client.signals import FORWARDED, SignalPipe

    signals: SignalPipe | None = SignalPipe(FORWARDED) if forward_signals else None
    counter: list[float] = []
    poll = select.poll()
    poll.register(conversation, select.POLLIN)
    if signals is not None:
        poll.register(signals, select.POLLIN)
    try:
        while True:
            ready = [number for number, _ in poll.poll()]
            if signals is not None and signals.fileno() in ready:
                for number in signals.take():
                    deliver(conversation, number, tell, counter)
            if conversation.fileno() not in ready:
                continue
            event, received = conversation.receive()
            for number in received:
                os.close(number)
            if event["event"] == "exited":
                return int(event["status"])
            if event["event"] == "result":
                return 0
            if event["event"] != "started":
                tell(event)
            elif started is not None:
                started(event)
    finally:
        if signals is not None:
            signals.close()


def _detach(
    conversation: Conversation, event: Event, tell: Tell, detached: Callable[[Event], None] | None
) -> int:
    conversation.send({"op": "detach"})
    while True:
        answer, received = conversation.receive()
        for number in received:
            os.close(number)
        if answer["event"] == "exited":
            return int(answer["status"])
        if answer["event"] == "result":
            if detached is not None:
                detached(event)
            return 0
        tell(answer)
