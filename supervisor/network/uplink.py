"""The sandbox's own way out: a network namespace for bridges, with one slirp4netns that all their containers share.

Rootless only. Where the supervisor is privileged, bridges lie in the current network namespace.
"""

from __future__ import annotations

from functools import partial

import msgspec
import structlog
import trio

from supervisor.network.ports import PortMapping
from supervisor.network.slirp import Slirp, SlirpEvent, run_slirp
from supervisor.network.slirp_conf import SlirpOptions
from supervisor.sandbox.sandbox import DEFAULT_PATH, Sandbox

log = structlog.get_logger()

TAP = "uplink0"
# Not slirp4netns's usual network: a container may have that one as well, and would look there for those whose calls
# come in by a published port, as they come from the gateway.
OPTIONS = SlirpOptions(mtu=65520, cidr="10.255.2.0/24")

# The host's own services, which slirp4netns shows at its gateway, stay out of reach. Its own switch for that would
# also swallow every answer of a published UDP port to the host itself. slirp4netns answers its own network only: one
# rule for all that goes out, in place of the plugins' chain of rules for each container.
RULES = f"""*nat
-A POSTROUTING -o {TAP} -j MASQUERADE
COMMIT
*filter
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -o {TAP} -d {OPTIONS.nameserver} -p udp --dport 53 -j ACCEPT
-A FORWARD -o {TAP} -d {OPTIONS.nameserver} -p tcp --dport 53 -j ACCEPT
-A FORWARD -o {TAP} -d {OPTIONS.cidr} -j REJECT
COMMIT
"""


class Uplink:
    """Opened at first need, ends with the sandbox."""

    def __init__(self, sandbox: Sandbox, nursery: trio.Nursery) -> None:
        self._sandbox = sandbox
        self._nursery = nursery
        self._opening = trio.Lock()
        self.netns = f"{sandbox.run_dir}/netns/uplink"
        self.slirp: Slirp | None = None
        self._options = OPTIONS
        self.masquerades = False  # what goes out, whoever sends it
        self.mtu = OPTIONS.mtu
        self.generation = 0  # counts its namespaces: one is enough unless slirp4netns can't be kept running

    async def open(self) -> str:
        """The namespace's path in the sandbox, ready for use. Raises: SlirpError, OSError."""
        async with self._opening:
            if self.slirp is None:
                await self._sandbox.delete_netns(self.netns)  # of a try that failed
                await self._sandbox.new_netns(self.netns, tap=TAP)
                await self._sandbox.call("sysctl", netns=self.netns, settings={"net/ipv4/ip_forward": "1"})
                self.masquerades = await self._set_rules()
                self._options = msgspec.structs.replace(OPTIONS, host_loopback=self.masquerades)
                self.slirp = await self._nursery.start(self._run)
                self.generation += 1
        return self.netns

    async def _set_rules(self) -> bool:
        """Whether the namespace itself keeps containers from the host's services, and gives them its address."""
        environ = {"PATH": DEFAULT_PATH, "XTABLES_LOCKFILE": f"{self._sandbox.run_dir}/xtables.lock"}
        try:
            done = await self._sandbox.run(
                ["iptables-restore"], stdin=RULES.encode(), env=environ, netns=self.netns
            )
        except FileNotFoundError:
            return False
        if done.status:
            log.warning("uplink_without_rules", error=done.last_line())
        return done.status == 0

    async def publish(self, mapping: PortMapping) -> None:
        """Lead a host port to the same port of the namespace; portmap leads it on. Raises: PortTaken, SlirpError."""
        await self.open()
        assert self.slirp is not None
        await self.slirp.publish(_to_itself(mapping))

    async def withdraw(self, mapping: PortMapping) -> None:
        """Nothing if it is not published."""
        if self.slirp is not None:
            await self.slirp.withdraw([_to_itself(mapping)])

    async def _run(self, *, task_status: trio.TaskStatus[Slirp]) -> None:
        def tell(event: SlirpEvent) -> None:
            log.warning("uplink_changed", **msgspec.structs.asdict(event))

        try:
            await partial(
                run_slirp, self._options, netns_path=self._sandbox.outer_path(self.netns),
                userns_path=self._sandbox.userns_path, ifname=TAP, on_event=tell, persistent_tap=True,
                api_socket=self._sandbox.outer_socket("uplink.sock"), task_status=task_status,
            )()  # fmt: skip
        except Exception as exc:
            if self.slirp is None:
                raise
            log.error("uplink_failed", error=str(exc))
        finally:
            self.slirp = None


def _to_itself(mapping: PortMapping) -> PortMapping:
    return msgspec.structs.replace(mapping, container_port=mapping.host_port)
