"""What comes out of a sandbox is not trusted: whatever its init says, only that sandbox can be hurt."""

from __future__ import annotations

import os
import socket

import trio
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.errors import SandboxError
from supervisor.sandbox.protocol import Channel


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=3))
@example([b"[" * 100_000])
@example([b'{"text": "\xff"}'])
@example([b'{"id": 1, "pid": "x"}'])
@example([b'{"pid": 5}'])
@example([b'{"status": 5, "pid": -1}'])
@example([b'{"id": 99}'])
def test_any_message_ends_in_an_answer_or_in_one_error(messages: list[bytes]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def main() -> None:
        channel = Channel(ours, lambda pid, status: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive_forever)
            for message in messages:
                theirs.send(message)
            theirs.close()
            try:
                with trio.fail_after(10):
                    await channel.call("spawn")
            except (SandboxError, OSError):
                pass
            await channel.gone.wait()
        channel.close()

    with theirs:
        trio.run(main)


async def test_descriptors_that_nobody_asked_for_are_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours, lambda pid, status: None)
    before = len(os.listdir("/proc/self/fd"))
    with theirs:
        for message in (b'{"id": 7}', b'{"pid": 1, "status": 0}', b"no JSON"):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, theirs.fileno().to_bytes(4, "little"))]
            theirs.sendmsg([message], rights)
        await channel.receive_forever()
        assert before == len(os.listdir("/proc/self/fd"))
    channel.close()
