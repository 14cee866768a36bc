"""Attachments by slirp4netns: a process of ours beside the container, no plugin."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

from netconf import parse_result
from supervisor.errors import AttachmentError
from supervisor.network.attachment import Attachment, NetworkRequest, Publisher
from supervisor.network.netns import NetnsPool
from supervisor.network.port_relay import relay_tcp
from supervisor.network.ports import Reservation
from supervisor.network.slirp import Slirp, SlirpEvent, SlirpRestarted, run_slirp
from supervisor.network.slirp_conf import decode_options
from supervisor.network.wishes import with_address
from supervisor.sandbox.sandbox import Sandbox
from supervisor.teardown import Teardown, start_in_turn

if TYPE_CHECKING:
    from supervisor.container import Container

log = structlog.get_logger()


class SlirpNetworks:
    """Of one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def attach(
        self,
        container: Container,
        request: NetworkRequest,
        reservation: Reservation,
        teardown: Teardown,
        nursery: trio.Nursery,
    ) -> Attachment:
        assert container.netns is not None
        options = decode_options(msgspec.json.decode(request.network.plugins[0].raw))
        if request.ip is not None:
            options = with_address(options, request.ip)

        def tell(event: SlirpEvent) -> None:
            log.warning("slirp_changed", container=container.name, **msgspec.structs.asdict(event))
            restarted = isinstance(event, SlirpRestarted)
            container.tell(
                "slirp_restarted" if restarted else "slirp_died", type="network", network=request.network.name,
                ifname=request.ifname, pid=str(event.pid),
            )  # fmt: skip

        if request.ifname != NetnsPool.TAP:
            await self._sandbox.new_tap(container.netns, request.ifname)
        if options.enable_ipv6:  # an address that is not tentative for a second or two
            settings = {f"net/ipv6/conf/{one}/accept_dad": "0" for one in ("all", request.ifname)}
            await self._sandbox.call("sysctl", netns=container.netns, settings=settings)
        slirp: Slirp = await start_in_turn(
            f"detach {request.network.name}",
            partial(
                run_slirp, options, netns_path=self._sandbox.outer_path(container.netns),
                userns_path=self._sandbox.userns_path, ifname=request.ifname, on_event=tell, persistent_tap=True,
                mac=request.mac,
                api_socket=self._sandbox.outer_socket(f"{container.id[:12]}-{request.ifname}.sock"),
            ),
            teardown, nursery, end=Slirp.end,
        )  # fmt: skip
        publisher: Publisher = slirp
        if options.port_handler == "relay":
            own = {options.address: options.gateway}
            publisher = await relay_tcp(slirp, self._sandbox, container.netns, own, teardown, nursery)
        await publisher.publish_reserved(reservation)
        raw = msgspec.json.encode(slirp.result(container.netns))
        return Attachment(
            network=request.network,
            ifname=request.ifname,
            result=parse_result(raw),
            slirp=slirp,
            publisher=publisher,
            teardown=teardown,
        )

    async def check(self, container_id: str, attachment: Attachment) -> None:
        """Raises: AttachmentError if slirp4netns does not run."""
        if attachment.slirp is not None and not attachment.slirp.pid:
            raise AttachmentError(f"network {attachment.network.name}: slirp4netns does not run")
