"""What counts as ready: parsed, found in lines, found in /proc/net/tcp, heard on a socket."""

from __future__ import annotations

import re
import socket

import pytest
import trio
import trio.testing

from supervisor.errors import SupervisorError
from supervisor.health import HealthCheck
from supervisor.readiness import (
    ReadyBy,
    check_ready,
    hear_notices,
    is_listening,
    parse_ready,
)

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:0050 0100007F:A1B2 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
"""


def test_the_four_ways() -> None:
    assert parse_ready("health").by is ReadyBy.HEALTH
    assert parse_ready("notify").by is ReadyBy.NOTIFY
    by_log = parse_ready("log:^up: [0-9]+$")
    assert by_log.pattern is not None
    assert by_log.pattern.search("up: 7")
    assert parse_ready("port:8080").port == 8080


@pytest.mark.parametrize(
    "text",
    ["", "soon", "log", "log:", "log:[", "port", "port:", "port:0", "port:65536", "port:http", "health:x"],
)
def test_nothing_else(text: str) -> None:
    with pytest.raises(SupervisorError, match=re.escape(f"--ready={text}")):
        parse_ready(text)


def test_there_must_be_something_to_tell_it() -> None:
    check_ready(None, None, piped=False)
    check_ready(parse_ready("health"), HealthCheck(command=("true",)), piped=False)
    with pytest.raises(SupervisorError, match="no health check"):
        check_ready(parse_ready("health"), None, piped=True)
    with pytest.raises(SupervisorError, match="past the supervisor"):
        check_ready(parse_ready("log:x"), None, piped=False)


def test_only_what_listens_counts() -> None:
    assert is_listening(TABLE, 8080)
    assert not is_listening(TABLE, 80)
    assert not is_listening("", 80)


async def test_a_datagram_says_it(autojump_clock: trio.testing.MockClock) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        near.setblocking(False)
        far.send(b"STATUS=READY=1 soon\nREADY=0")
        heard: list[None] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_notices, near, lambda: heard.append(None))
            await trio.sleep(1)
            assert not heard
            far.send(b"MAINPID=7\nREADY=1\n")
            await trio.sleep(1)
            assert heard == [None]
            far.setblocking(False)
            for _ in range(1000):  # it may go on to talk, however short the queue is
                far.send(b"WATCHDOG=1")
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
