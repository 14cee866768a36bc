"""slirp4netns's API socket: requests and replies, and one blocking call for programs without an event loop.

One request per connection, ended by shutdown(SHUT_WR), below 4096 bytes; slirp4netns forwards nothing while
it serves one (slirp4netns(1), "API SOCKET").
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

from supervisor.errors import SlirpError
from supervisor.network.ports import PortMapping

MAXIMUM_PATH = 107  # sun_path less its NUL
MAXIMUM_REPLY = 1 << 20


class ApiRefused(SlirpError):
    """slirp4netns answered with an error; `desc` is its own text."""

    def __init__(self, command: str, desc: str) -> None:
        super().__init__(f"slirp4netns refused {command}: {desc}")
        self.command, self.desc = command, desc


class ApiLost(SlirpError):
    """Nobody answered: slirp4netns is gone, or going."""


def add_hostfwd(mapping: PortMapping, guest_addr: str) -> dict[str, Any]:
    """Raises: SlirpError for an IPv6 host address, which slirp4netns can't forward."""
    if mapping.is_ipv6:
        raise SlirpError(
            f"publish host port {mapping.host_text()}: slirp4netns forwards IPv4 only",
            cure="publish on an IPv4 address of the host, or use another kind of network",
        )
    arguments = {
        "proto": mapping.protocol,
        "host_addr": mapping.host_ip or "0.0.0.0",
        "host_port": mapping.host_port,
        "guest_addr": guest_addr,
        "guest_port": mapping.container_port,
    }
    return {"execute": "add_hostfwd", "arguments": arguments}


def remove_hostfwd(forward_id: int) -> dict[str, Any]:
    return {"execute": "remove_hostfwd", "arguments": {"id": forward_id}}


def list_hostfwd() -> dict[str, Any]:
    return {"execute": "list_hostfwd"}


def encode(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode()


def decode(request: dict[str, Any], reply: bytes) -> dict[str, Any]:
    """What the call returned. Raises: ApiRefused; ApiLost if the reply is none (it died in between)."""
    command = str(request["execute"])
    try:
        answer = json.loads(reply)
    except (ValueError, RecursionError):
        raise ApiLost(f"slirp4netns gave no answer to {command}") from None
    if not isinstance(answer, dict):
        raise SlirpError(f"slirp4netns gave a strange answer to {command}: {reply[:200]!r}")
    if "error" in answer:
        error = answer["error"]
        raise ApiRefused(command, str(error.get("desc", error) if isinstance(error, dict) else error))
    value = answer.get("return", answer)  # list_hostfwd comes without "return" in some versions
    return value if isinstance(value, dict) else {}


def check_path(path: str) -> str:
    """Raises: SlirpError if the kernel can't bind a socket to it."""
    if len(os.fsencode(path)) > MAXIMUM_PATH:
        raise SlirpError(
            f"API socket {path}: longer than {MAXIMUM_PATH} bytes",
            cure="use a runtime directory with a shorter path",
        )
    return path


def call_blocking(path: str, request: dict[str, Any], *, seconds: float = 5) -> dict[str, Any]:
    """One call. Raises: SlirpError (see `decode`), also when nothing answers within `seconds`."""
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(seconds)
            sock.connect(path)
            sock.sendall(encode(request))
            sock.shutdown(socket.SHUT_WR)
            reply = b""
            while len(reply) < MAXIMUM_REPLY:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                part = sock.recv(65536)
                if not part:
                    break
                reply += part
    except OSError as exc:
        raise ApiLost(f"API socket {path}: {exc}") from exc
    return decode(request, reply)
