"""init's side of its protocol (told on top of init.py). Standard library only."""

from __future__ import annotations

import _json
import _socket as socket
import fcntl
import os

MESSAGE_BYTES = 1 << 16  # net.core.wmem_default, what a message has room in, is mostly three times that
LONG = b"long "
MAX_DESCRIPTORS = 16


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """One message with its descriptors, moved above 63 and close-on-exec."""
    message, ancillary, _, _ = control.recvmsg(
        MESSAGE_BYTES, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            for at in range(0, len(data) - len(data) % 4, 4):
                low = int.from_bytes(data[at : at + 4], "little")
                descriptors.append(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 64))
                os.close(low)
    if message.startswith(LONG):
        with open(descriptors.pop(), "rb") as file:
            message = file.read()
    return message, descriptors


def reply(
    control: socket.socket, answer: dict[str, object], descriptors: list[int] | tuple[()] = ()
) -> None:
    """Ends this process if nobody listens any more. Raises: OSError, and nothing was sent."""
    message, sent, kept = _encode(answer).encode(), list(descriptors), -1
    try:
        if len(message) > MESSAGE_BYTES:
            from supervisor.sandbox.capture import open_input  # few answers are so long

            sent.append(kept := open_input(message))
            message = LONG + str(answer["id"]).encode()
        data = b"".join(one.to_bytes(4, "little") for one in sent)
        control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, data)] if sent else [])
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    finally:
        if kept >= 0:
            os.close(kept)


def _encode(value: object) -> str:
    if isinstance(value, str):
        return _json.encode_basestring_ascii(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, list):
        return "[" + ",".join(map(_encode, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_encode(key)}:{_encode(one)}" for key, one in value.items()) + "}"
    raise TypeError(f"no JSON for {value!r}")


def text_of(exc: OSError) -> str:
    text = exc.strerror or str(exc)
    return f"{exc.filename}: {text}" if exc.filename else text
