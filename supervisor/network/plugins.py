"""CNI plugins run inside the sandbox: every command of the spec over a network's list of plugins.

Types that are built in (slirp, pasta) never come here; the caller tells them apart.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol

import structlog
import trio

from netconf.conf import NetworkList, PluginConf
from netconf.errors import ErrorCode, NetconfError, parse_error
from netconf.request import AttachmentArgs, build_env, build_request, build_version_request
from netconf.result import Result, convert_result, parse_result, parse_versions
from netconf.versions import CURRENT, agreed_version, needs_probe, supports
from supervisor.errors import PluginError
from supervisor.network.turns import Turns
from supervisor.sandbox.sandbox import PACKAGES

DEADLINE_SECONDS = 60.0

_log = structlog.get_logger()
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BUSY_PAUSES_SECONDS = (0.01, 0.05, 0.1, 0.2, 0.5)  # an executable just being written: ETXTBSY
_SHARED_CHAINS = ("firewall", "portmap")  # two at once race for the creation of their iptables chains
_REFERENCE = frozenset(
    (
        "bandwidth", "bridge", "dhcp", "dummy", "firewall", "host-device", "host-local", "ipvlan", "loopback",
        "macvlan", "portmap", "ptp", "sbr", "static", "tap", "tuning", "vlan", "vrf",
    )
)  # fmt: skip


class Completed(Protocol):
    """How a program ended: status as a shell tells it, and what it printed."""

    @property
    def status(self) -> int: ...
    @property
    def stdout(self) -> bytes: ...
    @property
    def stderr(self) -> bytes: ...


class ProgramRunner(Protocol):
    """The part of a Sandbox that plugins need.

    They run where it runs them: that network namespace gets the bridges and the host ends of veths.
    """

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: int | bytes | None = None
    ) -> Completed: ...


class PluginNotFound(PluginError):
    """No executable of that name in the directories searched."""

    def __init__(self, plugin: str, directories: Sequence[str]) -> None:
        where = ", ".join(directories) or "no directory at all"
        cure = "put it into one of them, or set CNI_PATH to where it is"
        if plugin in _REFERENCE:
            cure = f"apt-get install containernetworking-plugins, or {cure}"
        super().__init__(plugin, "", ErrorCode.INVALID_CONFIG, f"not found in {where}", cure=cure)
        _retell(self, f"network plugin {plugin} not found: searched {where}")


class PluginBroken(PluginError):
    """A plugin that does not keep to the protocol: it hangs, can't be executed, or answers something else."""

    def __init__(self, plugin: str, command: str, what: str, *, cure: str | None = None) -> None:
        super().__init__(plugin, command, ErrorCode.INTERNAL, what, cure=cure)
        _retell(self, f"network plugin {plugin} failed at {command}: it {what}")


class PluginRunner:
    """Runs plugins in one sandbox: one operation at a time for a container, GC with none beside it.

    `lease_dir` is where host-local keeps its leases unless a config says otherwise. `environ` is added to the
    plugins' environment, which is CNI's variables and PATH.
    """

    def __init__(
        self,
        sandbox: ProgramRunner,
        *,
        lease_dir: str | None = None,
        environ: Mapping[str, str] | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
        turns: Turns | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._lease_dir = lease_dir
        self._environ = {"PATH": _plugin_path()} | dict(environ or {})
        self.deadline_seconds = deadline_seconds
        self.turns = turns or Turns()
        self._chain_locks = {plugin: trio.Lock() for plugin in _SHARED_CHAINS}
        self._versions: dict[tuple[str, int, int, int], tuple[str, ...]] = {}

    async def add_network(
        self, network: NetworkList, args: AttachmentArgs, previous: Result | None = None
    ) -> Result:
        """ADD, plugin after plugin, each with the result of the one before. Returns the last one's.

        `previous` is for a network of chained plugins alone: what they are chained to.
        The result's `cni_version` is the version spoken. An ADD that fails, or is cancelled, undoes nothing:
        the caller owes a DEL from before this call on.
        Raises: PluginError (the first one), NetconfError.
        """
        async with self.turns.of_container(args.container_id):
            executables = [find_plugin(plugin.type, args.cni_path) for plugin in network.plugins]
            version = await self._agree(network, args.cni_path)
            result = previous
            for index, (plugin, path) in enumerate(zip(network.plugins, executables, strict=True)):
                before = None if result is None else result.raw
                request = build_request(
                    network, index, args, before, "ADD", version=version, lease_dir=self._lease_dir
                )
                done = await self._run(plugin, path, "ADD", build_env("ADD", args), request)
                result = _read_result(plugin.type, done, version)
            assert result is not None  # a network has at least one plugin
            return result

    async def check_network(self, network: NetworkList, args: AttachmentArgs, result: Result) -> bool:
        """CHECK the attachment, `result` being its ADD's. False: nobody was asked, the network is not for it.

        That is so with `disableCheck`, and below version 0.4.0.
        Raises: PluginError of the first plugin that finds something wrong, NetconfError.
        """
        version = result.cni_version
        if network.disable_check or not supports(version, "CHECK"):
            return False
        async with self.turns.of_container(args.container_id):
            for index, plugin in enumerate(network.plugins):
                path = find_plugin(plugin.type, args.cni_path)
                request = build_request(
                    network, index, args, result.raw, "CHECK", version=version, lease_dir=self._lease_dir
                )
                try:
                    await self._run(plugin, path, "CHECK", build_env("CHECK", args), request)
                except PluginError as failure:
                    if not _always_fails(plugin, failure):
                        raise
        return True

    async def del_network(self, network: NetworkList, args: AttachmentArgs, result: Result | None) -> None:
        """DEL, last plugin first; each is tried, whatever became of the others. May be repeated.

        `result` is the ADD's, None if that failed.
        Raises: ExceptionGroup of PluginError and NetconfError.
        """

        async def delete(index: int, plugin: PluginConf) -> None:
            path = find_plugin(plugin.type, args.cni_path)
            request = build_request(
                network,
                index,
                args,
                result.raw if result else None,
                "DEL",
                version=version,
                lease_dir=self._lease_dir,
            )
            await self._run(plugin, path, "DEL", build_env("DEL", args), request)

        async with self.turns.of_container(args.container_id):
            version = (
                result.cni_version if result else await self._agree(network, args.cni_path, lenient=True)
            )
            await _try_each(
                f"network {network.name}: DEL", delete, reversed(list(enumerate(network.plugins)))
            )

    async def undo_add(self, network: NetworkList, args: AttachmentArgs, result: Result | None) -> bool:
        """DEL after an ADD that may have failed (then `result` is None). If that fails, once more; True then.

        Raises: as `del_network`.
        """
        try:
            await self.del_network(network, args, result)
        except ExceptionGroup as group:
            # ADD looks for all plugins before it runs the first: with one missing, nothing was made
            if result is None and group.split(PluginNotFound)[1] is None:
                return False
            await self.del_network(network, args, result)
            return True
        return False

    async def gc_network(
        self, network: NetworkList, valid_attachments: Iterable[tuple[str, str]], cni_path: Sequence[str]
    ) -> bool:
        """GC: all but the (container id, ifname) in `valid_attachments` is released. False: nobody was asked.

        That is so with `disableGC`, and below version 1.1.0: so GC is no substitute for the DEL of what is known.
        Raises: ExceptionGroup of PluginError and NetconfError, after every plugin was tried.
        """
        valid = list(valid_attachments)
        if network.disable_gc:
            return False
        return await self._ask_each(network, "GC", cni_path, valid)

    async def status_network(self, network: NetworkList, cni_path: Sequence[str]) -> bool:
        """STATUS: could an ADD work now? False: nobody was asked, as below version 1.1.0.

        Raises: ExceptionGroup of PluginError (codes 50 and 51 are the spec's) and NetconfError.
        """
        return await self._ask_each(network, "STATUS", cni_path, [])

    async def version_network(
        self, network: NetworkList, cni_path: Sequence[str]
    ) -> dict[str, tuple[str, ...]]:
        """What each plugin of the network supports, by type, address management included, lowest first.

        Raises: PluginError.
        """
        versions: dict[str, tuple[str, ...]] = {}
        for kind in _kinds(network):
            versions[kind] = await self._probe(kind, find_plugin(kind, cni_path))
        return versions

    async def _ask_each(
        self, network: NetworkList, command: str, cni_path: Sequence[str], valid: list[tuple[str, str]]
    ) -> bool:
        if not supports(network.cni_version, command):
            return False

        async def ask(index: int, plugin: PluginConf) -> None:
            path = find_plugin(plugin.type, cni_path)
            request = build_request(
                network, index, None, None, command,
                version=version, lease_dir=self._lease_dir, valid_attachments=valid,
            )  # fmt: skip
            await self._run(plugin, path, command, build_env(command, cni_path=cni_path), request)

        async with self.turns.alone() if command == "GC" else nullcontext():
            try:
                version = await self._agree(network, cni_path)
            except (PluginError, NetconfError) as exc:
                raise ExceptionGroup(f"network {network.name}: {command}", [exc]) from None
            if not supports(version, command):
                return False
            await _try_each(f"network {network.name}: {command}", ask, enumerate(network.plugins))
        return True

    async def _agree(self, network: NetworkList, cni_path: Sequence[str], *, lenient: bool = False) -> str:
        """The version to speak with all plugins of the network.

        `lenient` is for DEL, which must come through to the plugins that are well: the others are left out.
        Raises: PluginError if there is none; never if `lenient`.
        """
        if not needs_probe(network.cni_versions):
            return network.cni_version
        supported: dict[str, tuple[str, ...]] = {}
        for kind in _kinds(network):
            try:
                supported[kind] = await self._probe(kind, find_plugin(kind, cni_path))
            except PluginError:
                # Address management may be one that the plugin does without; if not, the plugin says so.
                if not lenient and any(plugin.type == kind for plugin in network.plugins):
                    raise
        version = agreed_version(network.cni_versions, supported.values())
        if version is not None:
            return version
        if lenient:
            return network.cni_version
        weakest = min(supported, key=lambda kind: len(supported[kind]))
        raise PluginError(
            weakest,
            "VERSION",
            ErrorCode.INCOMPATIBLE_VERSION,
            f"it speaks CNI {', '.join(supported[weakest])}, and network {network.name} wants "
            f"{', '.join(network.cni_versions)}",
            cure=f'add a version that all its plugins speak to "cniVersions" in {network.source}',
        )

    async def _probe(self, kind: str, path: str) -> tuple[str, ...]:
        """VERSION, once for each state of the executable."""
        info = os.stat(path)
        key = (path, info.st_mtime_ns, info.st_size, info.st_ino)
        if key in self._versions:
            return self._versions[key]
        done = await self._execute(
            kind, path, "VERSION", build_env("VERSION"), build_version_request(CURRENT)
        )
        reply = parse_error(done.stdout) if done.status else None
        if reply is not None and "unknown CNI_COMMAND" in reply.msg:
            versions: tuple[str, ...] = ("0.1.0",)  # older than the command
        elif done.status:
            raise _failure(kind, "VERSION", done)
        else:
            try:
                versions = parse_versions(done.stdout)
            except NetconfError as exc:
                raise PluginBroken(kind, "VERSION", f"did not tell its versions: {exc.message}") from exc
        self._versions[key] = versions
        return versions

    async def _run(
        self, plugin: PluginConf, path: str, command: str, env: Mapping[str, str], request: bytes
    ) -> Completed:
        async with self._chain_locks.get(plugin.type) or nullcontext():
            done = await self._execute(plugin.type, path, command, env, request)
        if done.status == 0:
            return done
        failure = _failure(plugin.type, command, done)
        failure.cure = _find_cure(plugin, env, failure)
        _log.warning(
            "plugin_failed", plugin=plugin.type, command=command, container=env.get("CNI_CONTAINERID"),
            ifname=env.get("CNI_IFNAME"), status=done.status, stderr=_text(done.stderr),
        )  # fmt: skip
        raise failure

    async def _execute(
        self, kind: str, path: str, command: str, env: Mapping[str, str], request: bytes
    ) -> Completed:
        """One run, whatever its status, within the deadline. Raises: PluginBroken."""
        environ = self._environ | dict(env)
        with trio.move_on_after(self.deadline_seconds):
            for pause in (*_BUSY_PAUSES_SECONDS, None):
                try:
                    return await self._sandbox.run([path], env=environ, stdin=request)
                except OSError as exc:
                    if exc.errno != errno.ETXTBSY or pause is None:
                        raise _not_executable(kind, path, command, exc) from exc
                await trio.sleep(pause)
        raise PluginBroken(kind, command, f"hung: it was killed after {self.deadline_seconds:g} s")


def find_plugin(name: str, cni_path: Sequence[str]) -> str:
    """The executable of a plugin: the first in the directories. Raises: PluginNotFound, PluginBroken."""
    unusable = None
    for directory in cni_path:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            unusable = unusable or path
    if unusable:
        raise PluginBroken(name, "start", f"can't be executed: {unusable}", cure=f"chmod +x {unusable}")
    raise PluginNotFound(name, cni_path)


def default_cni_path(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where plugins are searched: CNI_PATH, else beside this installation, then where distributions put them."""
    if configured := tuple(part for part in environ.get("CNI_PATH", "").split(":") if part):
        return configured
    own = f"{PACKAGES.rpartition('/lib/')[0]}/lib/cni"  # sys.prefix knows of no venv without `site`
    return own, "/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"


async def _try_each(
    what: str,
    act: Callable[[int, PluginConf], Awaitable[None]],
    plugins: Iterable[tuple[int, PluginConf]],
) -> None:
    failed: list[Exception] = []
    for index, plugin in plugins:
        try:
            await act(index, plugin)
        except Exception as exc:
            failed.append(exc)
    if failed:
        raise ExceptionGroup(what, failed)


def _read_result(kind: str, done: Completed, version: str) -> Result:
    """What ADD printed, in the version that was asked for. Raises: PluginError."""
    if not done.stdout.strip():
        raise PluginBroken(kind, "ADD", f"ended well without a result{_aside(done.stderr)}")
    try:
        result = parse_result(done.stdout, version=version)
        if result.cni_version != version:
            result = parse_result(convert_result(result.raw, version))
    except NetconfError as exc:
        raise PluginBroken(
            kind, "ADD", f"answered no CNI result: {exc.message}{_aside(done.stderr)}"
        ) from exc
    reply = parse_error(done.stdout)
    if reply is not None and not result.ips and not result.interfaces:
        raise PluginError(kind, "ADD", reply.code, reply.msg, reply.details)  # its exit status was a lie
    return result


def _failure(kind: str, command: str, done: Completed) -> PluginError:
    """The error in a failed run: the reply on stdout, else what it wrote for people."""
    reply = parse_error(done.stdout)
    if reply is not None:
        return PluginError(
            kind, command, reply.code, reply.msg or _text(done.stderr) or "no reason given", reply.details
        )
    how = (
        f"was killed by signal {done.status - 128}"
        if done.status > 128
        else f"ended with status {done.status}"
    )
    text = _text(done.stderr) or _text(done.stdout)
    return PluginBroken(kind, command, f"{how}: {text}" if text else f"{how}, and said nothing")


def _find_cure(plugin: PluginConf, env: Mapping[str, str], failure: PluginError) -> str | None:
    said = f"{failure.msg} {failure.details}"
    if "iptables" in said and "executable file not found" in said:
        return "apt-get install iptables"
    if "no IP addresses available" in said:
        return "ctnr net gc, stop a container that has one, or a larger network: ctnr net create --subnet"
    if plugin.ipam_type:
        try:
            find_plugin(plugin.ipam_type, env.get("CNI_PATH", "").split(":"))
        except PluginError as exc:
            return exc.cure
    return failure.cure


def _always_fails(plugin: PluginConf, failure: PluginError) -> bool:
    """CHECK of portmap (up to 1.1.1, its issue 819), and of tuning where a sysctl's name has the word IFNAME in it."""
    return plugin.type == "portmap" or (
        plugin.type == "tuning" and "/IFNAME" in failure.msg.replace(".", "/")
    )


def _not_executable(kind: str, path: str, command: str, exc: OSError) -> PluginBroken:
    why = os.strerror(exc.errno).lower() if exc.errno else str(exc)
    cure = None
    if exc.errno == errno.ENOEXEC:
        cure = f"install the plugin for this machine ({os.uname().machine})"
    return PluginBroken(kind, command, f"can't be executed: {path}: {why}", cure=cure)


def _kinds(network: NetworkList) -> list[str]:
    """The executables that a network needs, each once."""
    kinds = [plugin.type for plugin in network.plugins]
    kinds += [plugin.ipam_type for plugin in network.plugins if plugin.ipam_type]
    return list(dict.fromkeys(kinds))


def _plugin_path() -> str:
    """The caller's PATH, and where iptables is even if a user's PATH has no sbin."""
    return ":".join(dict.fromkeys([*os.environ.get("PATH", "").split(":"), *_SBIN.split(":")])).lstrip(":")


def _text(output: bytes, limit: int = 500) -> str:
    """What a program said, on one line and fit for a terminal; the end of it if it is long."""
    words = " ".join(output[-8 * limit :].decode(errors="replace").split())
    clean = "".join(char if char.isprintable() else "?" for char in words)
    return clean if len(clean) <= limit else "…" + clean[-limit:]


def _aside(stderr: bytes) -> str:
    text = _text(stderr)
    return f" ({text})" if text else ""


def _retell(error: PluginError, message: str) -> None:
    """PluginError's own sentence ends with the code of a reply; here none was given."""
    error.message = message
    error.args = (message,)
