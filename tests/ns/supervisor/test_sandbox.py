"""The sandbox for real: programs, descriptors, network namespaces, and nothing left of any of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio

from supervisor.errors import SandboxError
from supervisor.network.netns import NetnsPool
from supervisor.sandbox import protocol
from supervisor.sandbox.sandbox import PACKAGES, Sandbox, open_sandbox
from tests.ns.supervisor.helpers import no_descriptors_for

pytestmark = pytest.mark.parametrize("rootless", [False, True], ids=["plain", "userns"])


async def test_status_output_and_input_come_back(tmp_path: Path, rootless: bool) -> None:
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        done = await sandbox.run(["sh", "-c", "cat; echo oops >&2; exit 7"], stdin=b"hello")
        assert (7, b"hello", b"oops\n") == (done.status, done.stdout, done.stderr)
        killed = await sandbox.run(["sh", "-c", "kill -9 $$"])
        assert 128 + signal.SIGKILL == killed.status


async def test_descriptors_arrive_where_asked_and_no_others(tmp_path: Path, rootless: bool) -> None:
    reader, writer = os.pipe()
    try:
        async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
            done = await sandbox.run(
                ["sh", "-c", "echo through >&5; ls /proc/self/fd"], pass_fds={5: writer}
            )
        assert b"through\n" == os.read(reader, 100)
        assert {b"0", b"1", b"2", b"3", b"5"} == set(done.stdout.split()), "3 is ls's own"
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_program_that_is_not_there_is_an_oserror(tmp_path: Path, rootless: bool) -> None:
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        with pytest.raises(FileNotFoundError):
            await sandbox.spawn(["/no/such/program"])
        with pytest.raises(FileNotFoundError):
            await sandbox.spawn(["no-such-program"])


async def test_cancelled_run_is_killed_with_its_children(tmp_path: Path, rootless: bool) -> None:
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        with trio.move_on_after(0.2):
            await sandbox.run(["sh", "-c", "sleep 1000 & sleep 1000"])
        left = await sandbox.run(["pgrep", "-x", "sleep"])
        assert 1 == left.status, left.stdout


async def test_capture_is_bounded(tmp_path: Path, rootless: bool) -> None:
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        done = await sandbox.run(["head", "-c", "3000000", "/dev/zero"])
        assert 1 << 20 == len(done.stdout)


async def test_requests_and_answers_may_be_longer_than_a_message(tmp_path: Path, rootless: bool) -> None:
    """What a container writes must not end the sandbox: \\x01 becomes six bytes of JSON."""
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        path = f"{sandbox.run_dir}/containers/long"
        content = b"\x01" * (1 << 20)
        await sandbox.write_files({path: (0o600, content)})
        assert content.decode() == await sandbox.read_text(path, limit=1 << 20)
        found = await sandbox.look_in_root("/", [f"/proc/{number}" for number in range(30000)])
        assert (found[1], len(found)) == ("directory", 30000)


async def test_without_descriptors_one_request_fails_and_not_all_containers(
    tmp_path: Path, rootless: bool
) -> None:
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        with no_descriptors_for(os.getpid()), pytest.raises(OSError, match="than this process may have"):
            await sandbox.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        assert 0 == (await sandbox.run(["true"])).status


async def test_directories_are_made_where_links_in_the_root_lead(tmp_path: Path, rootless: bool) -> None:
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        root = f"{sandbox.run_dir}/containers/root"
        make = f"mkdir -p {root}/run {root}/var; cd {root}/var; ln -s /run run; ln -s ../run near; ln -s /no lost"
        assert 0 == (await sandbox.run(["sh", "-c", make])).status
        for path in ("/var/run/a/b", "var/near/../run/c", "/"):
            await sandbox.make_dirs_in_root(root, path)
        with pytest.raises(FileExistsError):
            await sandbox.make_dirs_in_root(root, "/var/lost/d")
        found = await sandbox.run(["find", f"{root}/run", f"{root}/var", "-type", "d", "-printf", "%P "])
        assert [b"a", b"a/b", b"c"] == sorted(found.stdout.split())


async def test_netns_has_loopback_and_gives_sockets(tmp_path: Path, rootless: bool) -> None:
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        path = f"{tmp_path}/netns/a"
        await sandbox.new_netns(path, tap="tap7")
        links = await sandbox.run(["ip", "-br", "link"], netns=path)
        assert ["lo", "tap7"] == [line.split()[0] for line in links.stdout.decode().splitlines()]
        bound = await sandbox.open_socket(
            socket.AF_INET, socket.SOCK_DGRAM, netns=path, bind=("127.0.0.1", 53)
        )
        assert ("127.0.0.1", 53) == bound.getsockname()
        bound.close()
        await sandbox.delete_netns(path)
        await sandbox.delete_netns(path)
        assert (await sandbox.run(["test", "-e", path])).status != 0


async def test_open_in_root_can_not_escape(tmp_path: Path, rootless: bool) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("inside\n")
    (root / "escape").symlink_to("/etc/passwd")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    async with open_sandbox(str(run_dir), rootless=rootless) as sandbox:
        for path in ("etc/passwd", "/etc/passwd", "../../etc/passwd", "escape"):
            descriptor = await sandbox.open_in_root(str(root), path)
            assert descriptor is not None
            assert b"inside\n" == os.read(descriptor, 100)
            os.close(descriptor)
        assert await sandbox.open_in_root(str(root), "etc/shadow") is None


async def test_trees_are_removed_small_and_large(tmp_path: Path, rootless: bool) -> None:
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        base = f"{tmp_path}/containers"
        make = f"mkdir -p {base}/s/d {base}/l && ln -s /etc {base}/s/link && cd {base}/l && seq 2000 | xargs touch"
        assert (await sandbox.run(["sh", "-c", make])).status == 0
        await sandbox.remove_tree(f"{base}/s", f"{base}/l", f"{base}/never-there")
        assert b"" == (await sandbox.run(["ls", base])).stdout
    assert Path("/etc/passwd").exists()


async def test_death_of_init_ends_everything_that_waits(tmp_path: Path, rootless: bool) -> None:
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        process = await sandbox.spawn(["sleep", "1000"])
        os.kill(sandbox.init_pid, signal.SIGKILL)
        with trio.fail_after(5):
            assert 137 == await process.wait()
            await sandbox.wait_gone()
        with pytest.raises(SandboxError, match="gone"):
            await sandbox.run(["true"])


def test_sigkill_of_the_supervisor_leaves_nothing(tmp_path: Path, rootless: bool) -> None:
    """The leak guard does the asserting; here it is only made to happen."""
    program = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {PACKAGES!r})
        import trio
        from supervisor.sandbox.sandbox import open_sandbox
        async def main():
            async with open_sandbox({str(tmp_path)!r}, rootless={rootless}) as sandbox:
                await sandbox.new_netns({str(tmp_path)!r} + "/netns/a", tap="tap7")
                await sandbox.spawn(["sleep", "1000"], netns={str(tmp_path)!r} + "/netns/a")
                print("up", flush=True)
                await trio.sleep_forever()
        trio.run(main)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"up\n" == process.stdout.readline()
        process.kill()


async def test_an_init_that_is_slow_to_answer_ends_nobody(
    tmp_path: Path, rootless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network namespaces are made in store by a task beside all containers."""
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", 0.2)
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox, trio.open_nursery() as nursery:
        pool = NetnsPool(sandbox)
        nursery.start_soon(pool.run)
        await pool.take(tap=False)
        os.kill(sandbox.init_pid, signal.SIGSTOP)
        try:
            await trio.sleep(0.6)
            with pytest.raises(SandboxError, match="did not answer"):
                await sandbox.run(["true"])
        finally:
            os.kill(sandbox.init_pid, signal.SIGCONT)
        with trio.fail_after(5):
            assert (await sandbox.run(["ls", await pool.take(tap=False)])).status == 0
        nursery.cancel_scope.cancel()


async def test_two_sandboxes_in_one_program(tmp_path: Path, rootless: bool) -> None:
    async with (
        open_sandbox(str(tmp_path), rootless=rootless) as one,
        open_sandbox(str(tmp_path), rootless=rootless) as two,
    ):
        await one.new_netns(f"{tmp_path}/netns/a")
        await two.new_netns(f"{tmp_path}/netns/a")
        results: list[bytes] = []

        async def count(sandbox: Sandbox) -> None:
            results.append((await sandbox.run(["sh", "-c", "ls /proc | grep -c ^[0-9]"])).stdout)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count, one)
            nursery.start_soon(count, two)
        assert all(int(number) < 10 for number in results), "each sees its own processes only"


async def test_a_pid_that_comes_again_is_another_process(tmp_path: Path, rootless: bool) -> None:
    """Of what nobody has started init tells the end, too; after 32768 processes a program has the same number."""
    async with open_sandbox(str(tmp_path), rootless=rootless) as sandbox:
        orphan = await sandbox.run(["sh", "-c", "sleep 0.05 & echo $!"])
        pid = int(orphan.stdout)
        ended = await sandbox.run(["sh", "-c", f"while test -d /proc/{pid}; do sleep 0.01; done"])
        assert ended.status == 0
        last = await sandbox.run(["sh", "-c", f"echo {pid - 1} >/proc/sys/kernel/ns_last_pid"])
        assert last.status == 0, last.stderr
        again = await sandbox.spawn(["sleep", "1000"])
        assert again.pid == pid
        await sandbox.run(["true"])
        assert again.status is None
