"""slirp4netns as a supervised task: user-mode networking for one netns, for as long as the block lasts.

    async with open_slirp(options, netns_path="/run/netns/a", userns_path=None, ifname="cni0") as slirp:
        ...                                      # the interface is up and configured

It lives by descriptors, not by signals: its --exit-fd is a pipe whose write end only this process holds, so
it ends when we close it and also when we are killed. Its --ready-fd tells that the interface works; EOF
there means that it died early. If it dies under the running container it is started again in the same netns,
with the same MAC address and published ports; too many deaths in a row end the block with SlirpError.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import msgspec
import trio

from supervisor.errors import SlirpError
from supervisor.groups import bare_errors
from supervisor.network import slirp_api
from supervisor.network.ports import PortMapping, PortTaken, Reservation, reserve_ports
from supervisor.network.restarts import Deaths, Restarts
from supervisor.network.slirp_conf import (
    Program,
    SlirpOptions,
    build_argv,
    build_result,
    check_mac,
    describe_status,
    explain_death,
    find_program,
    random_mac,
    sandbox_may_work,
    tidy,
)
from supervisor.network.slirp_process import SlirpProcess

API_SECONDS = 2.0


class SlirpEnded(msgspec.Struct, frozen=True, kw_only=True, tag="slirp_ended"):
    """slirp4netns died under a running container; it will be started again after `restart_seconds`."""

    ifname: str
    pid: int
    reason: str
    restart_seconds: float


class SlirpRestarted(msgspec.Struct, frozen=True, kw_only=True, tag="slirp_restarted"):
    """It runs again, `seconds` after its death was seen. `lost` are ports that could not be published
    again.
    """

    ifname: str
    pid: int
    seconds: float
    lost: tuple[str, ...] = ()


SlirpEvent = SlirpEnded | SlirpRestarted


@asynccontextmanager
async def open_slirp(
    options: SlirpOptions,
    *,
    netns_path: str,
    userns_path: str | None = None,
    ifname: str = "cni0",
    api_socket: str | None = None,
    mac: str | None = None,
    on_event: Callable[[SlirpEvent], object] | None = None,
    restarts: Restarts | None = None,
    program: str | None = None,
    ready_seconds: float = 5.0,
) -> AsyncIterator[Slirp]:
    """Give the netns at `netns_path` an interface `ifname` to the outside; it is gone when the block is
    left.

    `userns_path` is the user namespace that owns the netns, unless it is our own. `api_socket` (a path in a
    private directory) is needed to publish ports. With `options.enable_ipv6` run
    `slirp_conf.ipv6_sysctl_argv()` in the netns before. The rest as in `run_slirp`. Raises: SlirpError, here
    or, when it can't be kept running, out of the block.
    """
    with bare_errors():
        async with trio.open_nursery() as nursery:
            slirp = await nursery.start(
                lambda task_status: run_slirp(
                    options,
                    netns_path=netns_path,
                    userns_path=userns_path,
                    ifname=ifname,
                    api_socket=api_socket,
                    mac=mac,
                    on_event=on_event,
                    restarts=restarts,
                    program=program,
                    ready_seconds=ready_seconds,
                    task_status=task_status,
                )
            )
            try:
                yield slirp
            finally:
                slirp.end()
                nursery.cancel_scope.cancel()


async def run_slirp(
    options: SlirpOptions,
    *,
    netns_path: str,
    userns_path: str | None = None,
    ifname: str = "cni0",
    api_socket: str | None = None,
    mac: str | None = None,
    on_event: Callable[[SlirpEvent], object] | None = None,
    restarts: Restarts | None = None,
    program: str | None = None,
    ready_seconds: float = 5.0,
    persistent_tap: bool = False,
    task_status: trio.TaskStatus[Slirp] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The task behind `open_slirp`: starts with a `Slirp`, runs until cancelled or until `Slirp.end()` was
    called.

    With `persistent_tap` the interface is there before, and stays when slirp4netns dies: it is configured once.
    `mac` is chosen at random unless given. `on_event` is called in the task, synchronously. `program` is a
    path or name instead of the slirp4netns in PATH. Leaving takes 15-20 ms (the kernel unregisters the
    interface) and at most EXIT_SECONDS more. Raises: SlirpError.
    """
    found = find_program(program)
    if mac is None and "--macaddress" in found.flags:
        mac = random_mac()
    slirp = Slirp(
        options,
        program=found,
        netns_path=netns_path,
        userns_path=userns_path,
        ifname=ifname,
        api_socket=None if api_socket is None else slirp_api.check_path(api_socket),
        mac=None if mac is None else check_mac(mac),
        ready_seconds=ready_seconds,
        persistent_tap=persistent_tap,
    )
    try:
        await slirp._launch()
        task_status.started(slirp)
        await slirp._watch(restarts or Restarts(), on_event or (lambda event: None))
    finally:
        await slirp._close()


class Slirp:
    """A slirp4netns that runs, or is being started again."""

    def __init__(
        self,
        options: SlirpOptions,
        *,
        program: Program,
        netns_path: str,
        userns_path: str | None,
        ifname: str,
        api_socket: str | None,
        mac: str | None,
        ready_seconds: float,
        persistent_tap: bool,
    ) -> None:
        self.options = options
        self.ifname = ifname
        self.mac = mac
        self.api_socket = api_socket
        self.restarts = 0
        self._program = program
        self._netns_path = netns_path
        self._userns_path = userns_path
        self._ready_seconds = ready_seconds
        self._persistent_tap = persistent_tap
        self._configured = False
        self._published: dict[PortMapping, int] = {}
        self._process: SlirpProcess | None = None
        self._ending = False
        self._lock = trio.Lock()  # held while it is started again, and for each call to its API

    @property
    def pid(self) -> int:
        """Its process, in our pid namespace; changes with a restart. 0 while none runs."""
        return self._process.pid if self._process is not None and self._process.status() is None else 0

    @property
    def sandboxed(self) -> bool:
        """Does it run in its own sandbox (--enable-sandbox)? Where that does not work it runs without."""
        return self._process is not None and self._process.sandboxed

    @property
    def published(self) -> tuple[PortMapping, ...]:
        return tuple(self._published)

    def result(self, netns_path: str | None = None) -> dict[str, Any]:
        """The CNI 1.1.0 result of this attachment; `netns_path` as it shall read there (default: as we
        opened it).
        """
        sandbox = netns_path or self._netns_path
        return build_result(self.options, ifname=self.ifname, mac=self.mac, netns_path=sandbox)

    def end(self) -> None:
        """Let it end now, without waiting for it: its 15-20 ms in the kernel then pass beside other cleanup.

        Idempotent. The task (or the block) still has to be left; that waits until the interface is gone.
        """
        self._ending = True
        if self._process is not None:
            self._process.close_exit()

    def keeps_source(self, mapping: PortMapping) -> bool:
        """A peer's own address arrives; that of the host itself reads as the gateway's."""
        return True

    async def publish(self, mapping: PortMapping) -> PortMapping:
        """Forward a host port to the container; TCP and UDP over IPv4. Returns it with the host port filled
        in.

        The peer's address arrives in the container, except that 127.0.0.1 of the host appears as the
        gateway. Shielded (about 1 ms). Raises: PortTaken; SlirpError without an API socket, or for IPv6.
        """
        if mapping in self.published:
            return mapping
        if mapping.host_port == 0:
            with reserve_ports([mapping]) as reservation:
                return (await self.publish_reserved(reservation))[0]
        request = slirp_api.add_hostfwd(mapping, self.options.address)
        try:
            answer = await self._call(request)
        except slirp_api.ApiRefused:
            reserve_ports([mapping]).close()  # says why, in the usual case
            raise PortTaken(mapping, "slirp4netns could not bind it") from None
        self._published[mapping] = int(answer["id"])
        return mapping

    async def publish_reserved(self, reservation: Reservation) -> tuple[PortMapping, ...]:
        """Publish what `reservation` holds, all of it or nothing, and close it. Raises: as `publish`."""
        new = [mapping for mapping in reservation.mappings if mapping not in self.published]
        try:
            with reservation:
                for mapping in new:
                    reservation.make_way(mapping)
                    await self.publish(mapping)
        except BaseException:
            with trio.CancelScope(shield=True):  # _call has an end of its own
                await self.withdraw(new)
            raise
        return reservation.mappings

    async def withdraw(self, mappings: Sequence[PortMapping]) -> None:
        """Stop forwarding them, whose host ports are free then. Nothing happens for those that are not published."""
        for mapping in mappings:
            with suppress(KeyError):
                await self._call(partial(self._removal, mapping))
                del self._published[mapping]

    def _removal(self, mapping: PortMapping) -> dict[str, Any]:
        """Made when it is sent: a restart gives new ids."""
        return slirp_api.remove_hostfwd(self._published[mapping])

    async def forwards(self) -> list[dict[str, Any]]:
        """What slirp4netns itself says that it forwards: objects with id, proto, host_addr, host_port,
        guest_port.
        """
        answer = await self._call(slirp_api.list_hostfwd())
        return list(answer.get("entries", ()))

    async def _call(self, request: dict[str, Any] | Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """One call at a time. One that meets a dead slirp4netns is repeated once it has been started
        again.
        """
        if self.api_socket is None:
            raise SlirpError("ports can't be changed: this slirp4netns was started without an API socket")
        failure = SlirpError("slirp4netns does not run")
        with trio.move_on_after(self._ready_seconds):
            while not self._ending:
                async with self._lock:
                    if self._process is not None and self._process.status() is None:
                        try:
                            return await _ask(self.api_socket, request() if callable(request) else request)
                        except slirp_api.ApiLost as exc:
                            failure = exc
                await trio.sleep(0.01)
        raise SlirpError("slirp4netns has ended") if self._ending else failure

    async def _launch(self) -> None:
        """Start it and wait until the interface works. Its own sandbox is tried first, once per installed
        program.
        """
        key = (self._program.path, self._userns_path is not None)
        if "--enable-sandbox" not in self._program.flags or not sandbox_may_work():
            _sandbox_works[key] = False
        if _sandbox_works.get(key) is False:
            self._process = await self._start_one(sandbox=False)
            return
        try:
            self._process = await self._start_one(sandbox=True)
            _sandbox_works[key] = True
        except SlirpError:
            if key in _sandbox_works:
                raise
            self._process = await self._start_one(
                sandbox=False
            )  # fails in the same way if the sandbox was not the cause
            _sandbox_works[key] = False

    async def _start_one(self, *, sandbox: bool) -> SlirpProcess:
        if self._ending:
            raise SlirpError("slirp4netns has ended")
        if self.api_socket is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.api_socket)

        def argv(ready_fd: int, exit_fd: int) -> list[str]:
            return build_argv(
                self._program,
                self.options,
                netns_path=self._netns_path,
                userns_path=self._userns_path,
                ifname=self.ifname,
                mac=self.mac,
                ready_fd=ready_fd,
                exit_fd=exit_fd,
                api_socket=self.api_socket,
                sandbox=sandbox,
                configure=not self._configured,
            )

        ready_r, ready_w = os.pipe()
        try:
            try:
                process = SlirpProcess(argv, ready_fd=ready_w, sandboxed=sandbox)
            finally:
                os.close(ready_w)  # only the child's copy is left: its death reads as EOF
            try:
                await self._wait_ready(process, ready_r)
            except BaseException as exc:
                await process.end()
                died = isinstance(exc, SlirpError) and "File exists" in exc.message
                if not died or self._configured or not self._persistent_tap:
                    raise
                # One before it died after it had configured the tap, which stays.
                self._configured = True
                return await self._start_one(sandbox=sandbox)
            self._configured = self._persistent_tap
        finally:
            os.close(ready_r)
        return process

    async def _wait_ready(self, process: SlirpProcess, ready_r: int) -> None:
        with trio.move_on_after(self._ready_seconds):
            await trio.lowlevel.wait_readable(ready_r)
            if os.read(ready_r, 1):
                return
            status = await process.wait()
            raise explain_death(process.stderr(), status, ifname=self.ifname, netns_path=self._netns_path)
        raise SlirpError(
            f"slirp4netns is not ready after {self._ready_seconds:g} s: {tidy(process.stderr())}"
        )

    async def _watch(self, restarts: Restarts, tell: Callable[[SlirpEvent], object]) -> None:
        deaths = Deaths(restarts)
        while True:
            process = self._process
            assert process is not None
            status = await process.wait()
            if self._ending:
                return
            reason = f"{describe_status(status)} {tidy(process.stderr())}".rstrip()
            seen = trio.current_time()
            async with self._lock:
                await self._restart(process, reason, deaths, tell)
                lost = await self._publish_again()
            if self._ending:
                return
            self.restarts += 1
            tell(
                SlirpRestarted(
                    ifname=self.ifname, pid=self.pid, seconds=trio.current_time() - seen, lost=lost
                )
            )

    async def _restart(
        self,
        dead: SlirpProcess,
        reason: str,
        deaths: Deaths,
        tell: Callable[[SlirpEvent], object],
    ) -> None:
        """Until it runs again. A start that fails counts as one more death."""
        pid = dead.pid
        await dead.end()
        while not self._ending:
            pause = deaths.count()
            if not os.path.exists(self._netns_path):
                raise SlirpError(f"slirp4netns ended ({reason}), and so has its netns {self._netns_path}")
            if pause is None:
                raise SlirpError(f"slirp4netns ended {deaths}, the last time with {reason}")
            tell(SlirpEnded(ifname=self.ifname, pid=pid, reason=reason, restart_seconds=pause))
            await trio.sleep(pause)
            try:
                await self._launch()
            except SlirpError as exc:
                reason, pid = exc.message, 0
            else:
                return

    async def _publish_again(self) -> tuple[str, ...]:
        lost = []
        for mapping in tuple(self._published) if self.api_socket is not None else ():
            del self._published[mapping]
            try:
                request = slirp_api.add_hostfwd(mapping, self.options.address)
                answer = await _ask(str(self.api_socket), request)
                self._published[mapping] = int(answer["id"])
            except SlirpError as exc:
                lost.append(f"{mapping}: {exc}")
        return tuple(lost)

    async def _close(self) -> None:
        self.end()
        process, self._process = self._process, None
        if process is not None:
            await process.end()
        if self.api_socket is not None:
            with suppress(OSError):
                os.unlink(self.api_socket)


_sandbox_works: dict[tuple[str, bool], bool] = {}


def sandbox_report() -> dict[str, bool]:
    """For `ctnr info`: did slirp4netns's own sandbox work here, by program; empty before the first start."""
    return {
        f"{path}{' with --userns-path' if userns else ''}": works
        for (path, userns), works in _sandbox_works.items()
    }


async def _ask(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """One connection, one request, shielded: half a call may have published a port that nobody would
    remember.

    Raises: SlirpError (slirp_api.decode), ApiLost if nobody answers.
    """
    reply = b""
    with trio.move_on_after(API_SECONDS, shield=True):
        try:
            with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as sock:
                await sock.connect(path)
                await sock.send(
                    slirp_api.encode(request)
                )  # below 4096 bytes: never partial on a fresh socket
                sock.shutdown(trio.socket.SHUT_WR)
                while len(reply) < slirp_api.MAXIMUM_REPLY and (part := await sock.recv(65536)):
                    reply += part
        except OSError as exc:
            raise slirp_api.ApiLost(f"API socket {path}: {exc}") from exc
        return slirp_api.decode(request, reply)
    raise slirp_api.ApiLost(f"slirp4netns did not answer {request['execute']} within {API_SECONDS:g} s")
