"""The engine in programs with threads: plain calls from any of them, or a trio loop in each."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from ctnr import open_engine
from ctnr.in_thread import open_engine as open_in_thread
from supervisor import CommandNotFound, Completed
from tests.ns.ctnr.conftest import IMAGE, left_in

SLEEP = ["sleep", "1000"]


def test_plain_calls(store: Path) -> None:
    with open_in_thread(str(store)) as engine:
        with engine.run(IMAGE, ["sh", "-c", "echo one; exec sleep 1000"], networks=["none"]) as container:
            assert engine.containers == (container,)
            assert container.exec(["echo", "hi"]) == Completed(0, b"hi\n", b"")
            for line in container.logs(follow=True):
                assert line.data == b"one\n"
                break
            with container.open_exec(["cat"]) as process:
                process.stdin.send_all(b"through")
                assert process.stdout.receive_some() == b"through"
            assert process.status == 137
        assert container.status == 137
        assert engine.containers == ()
    assert left_in(store) == []


def test_errors_come_out_as_themselves(store: Path) -> None:
    with (
        pytest.raises(KeyError, match="mine"),
        open_in_thread(str(store)) as engine,
        engine.run(IMAGE, SLEEP, networks=["none"]) as container,
    ):
        raise KeyError("mine")
    assert container.status == 137
    with open_in_thread(str(store)) as engine:
        with pytest.raises(CommandNotFound):
            engine.start(IMAGE, ["no-such"], networks=["none"])
        with pytest.raises(CommandNotFound), engine.run(IMAGE, ["no-such"], networks=["none"]):
            pass
        kept = engine.start(IMAGE, SLEEP, networks=["none"])
    assert kept._trio.status == 137
    assert left_in(store) == []


def test_many_threads_share_an_engine(store: Path) -> None:
    said: set[bytes] = set()

    def work(number: int) -> None:
        done = engine.run_process(IMAGE, ["echo", str(number)], networks=["none"])
        said.add(done.stdout)

    with open_in_thread(str(store)) as engine:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert said == {b"%d\n" % number for number in range(5)}


def test_trio_loops_in_several_threads(store: Path) -> None:
    """Each has its engine; what waits in a thread reaches its loop by trio.from_thread."""
    said: list[bytes] = []

    async def main() -> None:
        async with (
            open_engine(str(store)) as engine,
            engine.run(IMAGE, SLEEP, networks=["slirp"]) as container,
        ):

            def in_a_thread() -> None:
                said.append(trio.from_thread.run(container.exec, ["echo", "hi"]).stdout)

            await trio.to_thread.run_sync(in_a_thread)

    threads = [threading.Thread(target=trio.run, args=(main,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [b"hi\n"] * 3
    assert left_in(store) == []
