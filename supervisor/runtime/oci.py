"""An OCI runtime's command line: run and exec, both detached, so that init is the parent of what they start.

The runtime is asked for two things only. Signals go from init straight to the process, ends are reported by init, and
what `delete` would remove lies in the sandbox's run directory (runc, which makes cgroups of its own, is asked to).
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import trio

from supervisor.errors import CommandNotExecutable, CommandNotFound, RuntimeFailed
from supervisor.runtime.stdio import Stdio, receive_terminal
from supervisor.sandbox import marked
from supervisor.sandbox.process import Process
from supervisor.sandbox.sandbox import DEFAULT_PATH, Sandbox

START_SECONDS = 60


@dataclass(frozen=True)
class Started:
    """A process in a container: its end comes from init; `terminal` is the pty's master (the caller closes it)."""

    process: Process
    terminal: int | None


class Runtime:
    """crun or runc, in one sandbox."""

    def __init__(self, program: str, sandbox: Sandbox) -> None:
        self.program = program
        self.name = os.path.basename(program)
        self._sandbox = sandbox
        self._numbers = itertools.count(1)
        self._root = f"{sandbox.run_dir}/runtime"
        # Both runtimes first mount a copy of themselves on a new file, by default in the host's /tmp: killed at that
        # moment they would leave it there.
        self._environment = {
            "PATH": DEFAULT_PATH, "XDG_RUNTIME_DIR": self._root, "_LIBCONTAINER_STATEDIR": sandbox.run_dir,
        }  # fmt: skip
        # The runtime sets no limits: it is started in a cgroup that has them (supervisor/confinement.py).
        self._options = ["--root", self._root]
        if self.is_crun:
            self._options.append("--cgroup-manager=disabled")

    @property
    def is_crun(self) -> bool:
        return "crun" in self.name

    async def probe(self) -> str | None:
        """None if it can run containers here, else why not."""
        done = await self._sandbox.run([self.program, *self._options, "list"], env=self._environment)
        if done.status:
            return done.last_line()
        return None

    async def run(self, container: str, directory: str, stdio: Stdio, joins: Sequence[int] = ()) -> Started:
        """Start the bundle at `directory` (config.json there, a path in the sandbox) as `container`.

        `joins` are open cgroup.procs files: the runtime, and so all that it starts, runs in these cgroups.
        Raises: CommandNotFound, CommandNotExecutable, RuntimeFailed.
        """
        return await self._start(
            ["run", "--detach", "--no-new-keyring", "--bundle", directory],
            directory,
            container,
            stdio,
            joins,
        )

    async def exec(
        self, container: str, directory: str, process: bytes, stdio: Stdio, joins: Sequence[int] = ()
    ) -> Started:
        """Start one more process (an OCI `process` object) in a running container; `directory` takes its files.

        It is killed with all that it has started. Raises: as `run`.
        """
        mark = marked.LOWEST + secrets.randbits(61)
        content = add_mark(process, mark)
        await self._sandbox.write_files({f"{directory}/process.json": (0o600, content)})
        started = await self._start(
            ["exec", "--detach", "--process", f"{directory}/process.json"],
            directory,
            container,
            stdio,
            joins,
        )
        started.process.mark = mark if content is not process else None
        return started

    async def delete(self, container: str) -> None:
        """Remove what the runtime keeps of a container that has ended."""
        if self.is_crun:
            await self._sandbox.remove_tree(f"{self._root}/{container}")
            return
        done = await self._sandbox.run(
            [self.program, *self._options, "delete", "--force", container], env=self._environment
        )
        if done.status and "does not exist" not in done.last_line():
            raise RuntimeFailed(f"{self.name} delete: {done.last_line()}")

    async def _start(
        self, command: list[str], directory: str, container: str, stdio: Stdio, joins: Sequence[int]
    ) -> Started:
        log = f"{directory}/runtime.log"
        argv = [self.program, *self._options, "--log", log, "--log-format", "json", *command]
        argv += ["--pid-file", f"{directory}/pid"]
        terminal = None
        # shielded: a runtime that is killed half-way leaves half a container
        scope = trio.CancelScope(shield=True, deadline=trio.current_time() + START_SECONDS)
        try:
            with scope, self._sandbox.keep_ends() as ends:
                if stdio.tty:
                    runner, terminal = await self._spawn_with_terminal([*argv], directory, container, joins)
                else:
                    runner = await self._sandbox.spawn(
                        [*argv, container], env=self._environment, cwd=directory,
                        stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr, joins=joins,
                    )  # fmt: skip
                if await runner.wait():
                    raise await self._failure(log, command[0], runner.status or 1)
                return Started(self._sandbox.adopt(await self._read_pid(directory), ends), terminal)
            raise RuntimeFailed(f"{self.name} {command[0]}: not done after {START_SECONDS} s")
        except BaseException:
            if terminal is not None:
                os.close(terminal)
            raise

    async def _read_pid(self, directory: str) -> int:
        try:
            return int(await self._sandbox.read_text(f"{directory}/pid"))
        except OSError:  # once more: nobody can end what runs without it
            return int(await self._sandbox.read_text(f"{directory}/pid"))

    async def _spawn_with_terminal(
        self, argv: list[str], directory: str, container: str, joins: Sequence[int]
    ) -> tuple[Process, int | None]:
        # not in `directory`: a socket's path has 107 bytes at most (unix(7)), and an id alone takes 64
        path = f"{self._sandbox.run_dir}/tty/{next(self._numbers)}"
        listener = await self._sandbox.listen(path)
        try:
            argv += ["--console-socket", path, container]
            runner = await self._sandbox.spawn(argv, env=self._environment, cwd=directory, joins=joins)
            return runner, await receive_terminal(listener, runner)
        finally:
            listener.close()
            await self._sandbox.remove_tree(path)

    async def _failure(self, log: str, command: str, status: int) -> RuntimeFailed:
        try:
            lines = (await self._sandbox.read_text(log)).strip().splitlines()
        except OSError:
            lines = []
        errors = [_log_message(line) for line in lines]
        told = next((text for text in reversed(errors) if text), f"exit status {status}")
        return explain_failure(self.name, command, told)


def add_mark(process: bytes, mark: int) -> bytes:
    """An OCI `process` with a mark (see `marked`); as it is where that limit is set or held low."""
    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    if hard != resource.RLIM_INFINITY:
        return process
    decoded = msgspec.json.decode(process)
    rlimits = decoded.setdefault("rlimits", [])
    if any(one["type"] == marked.LIMIT for one in rlimits):
        return process
    rlimits.append({"type": marked.LIMIT, "soft": mark, "hard": (1 << 64) - 1})
    return msgspec.json.encode(decoded)


def explain_failure(runtime: str, command: str, told: str) -> RuntimeFailed:
    """The runtime's words as one of our errors: only their text tells a missing program from other failures."""
    low = told.lower()
    if "executable file" in low and ("not found" in low or "no such file" in low):
        name = told.split("`")[1] if "`" in told else told.split('"')[1] if '"' in told else ""
        return CommandNotFound(f"{name or 'the command'}: not found in the container")
    if "exec" in low and (
        "permission denied" in low or "exec format error" in low or "is a directory" in low
    ):
        why = "exec format error" if "format" in low else "permission denied"
        return CommandNotExecutable(f"the command can't be executed in the container: {why} ({told})")
    if (
        "open executable" in low or "starting container process" in low or "exec" in low
    ) and "no such file" in low:
        return CommandNotFound(f"the command was not found in the container ({told})")
    return RuntimeFailed(f"{runtime} {command}: {told}")


def _log_message(line: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if isinstance(record, Mapping) and record.get("level", "error") in ("error", "fatal"):
        return str(record.get("msg", ""))
    return ""
