"""What is wrong with a network's data, and the reply by which a plugin says that it failed."""

from __future__ import annotations

import enum

import msgspec


class NetconfError(Exception):
    """Something in a config file, a result or a name is not as CNI wants it.

    `file` is the path it stood in (or what else the bytes came from), `field` the place in it
    (`plugins[0].type`), `expected` what should have stood there, `reason` the bare fact without the place.
    """

    def __init__(
        self,
        reason: str,
        *,
        file: str | None = None,
        field: str | None = None,
        expected: str | None = None,
        cure: str | None = None,
    ) -> None:
        text = ": ".join(part for part in (file, field and f"field {field}", reason) if part)
        if expected:
            text += f", expected {expected}"
        super().__init__(text)
        self.message = text
        self.reason, self.file, self.field, self.expected, self.cure = reason, file, field, expected, cure


class NetworkNotFound(NetconfError):
    """No file in the directories searched and no built-in has that name."""


class ErrorCode(enum.IntEnum):
    """The codes that the spec reserves (CNI 1.1.0 section 2, "Errors"); plugins own those from 100 up."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    UNAVAILABLE = 50  # STATUS: no ADD possible
    LIMITED_CONNECTIVITY = 51  # STATUS: no ADD possible, and what is attached may have lost its connection
    INTERNAL = 999  # not the spec's: what the reference plugins answer for an error without a code


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a failing plugin prints to its standard output."""

    code: int
    msg: str = ""
    details: str = ""
    cni_version: str = ""


_decoder = msgspec.json.Decoder(ErrorReply)


def parse_error(raw: bytes) -> ErrorReply | None:
    """The plugin's error reply, or None if `raw` is not one (a crash, a usage text, nothing at all)."""
    try:
        reply = _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return reply if reply.code != 0 else None


def build_error(code: int, msg: str, details: str = "", *, cni_version: str) -> bytes:
    """The error reply of a plugin of our own, one line of JSON."""
    reply = ErrorReply(code=int(code), msg=msg, details=details, cni_version=cni_version)
    return msgspec.json.encode(reply) + b"\n"
