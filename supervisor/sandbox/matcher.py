"""A program that looks for a pattern in lines, apart from the service: Python's patterns can take for ever, and nothing
but the end of their process ends them. Standard library only; started in the sandbox by `supervisor/line_search.py`.

Descriptor 3 is a SOCK_SEQPACKET socket: each packet is lines with newlines between them, and is answered by `1` or `0`.
"""

from __future__ import annotations

import re
import socket
import sys

CONTROL = 3
PACKET_BYTES = 1 << 16


def main() -> None:
    """Argument: the pattern, one that compiles. Until the socket is closed."""
    search = re.compile(sys.argv[1]).search
    with socket.socket(fileno=CONTROL) as control:
        while packet := control.recv(PACKET_BYTES):
            found = any(search(line) for line in packet.decode(errors="replace").split("\n"))
            control.send(b"1" if found else b"0")
