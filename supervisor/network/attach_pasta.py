"""Attachments by pasta: a process of ours in the sandbox, no plugin."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from netconf import parse_result
from supervisor.errors import AttachmentError
from supervisor.network.attachment import Attachment, NetworkRequest
from supervisor.network.pasta import Pasta
from supervisor.network.pasta_conf import decode_options
from supervisor.network.ports import Reservation
from supervisor.sandbox.sandbox import Sandbox
from supervisor.teardown import Teardown, start_in_turn

if TYPE_CHECKING:
    from supervisor.container import Container


class PastaNetworks:
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
            raise AttachmentError(
                f"network {request.network.name}: pasta gives the host's own address, not {request.ip}",
                cure="leave out --ip, or use a bridge or slirp network",
            )

        def tell(action: str, pid: int) -> None:
            container.tell(
                action, type="network", network=request.network.name, ifname=request.ifname, pid=str(pid)
            )

        # addresses that are not tentative for a second or two
        settings = {f"net/ipv6/conf/{one}/accept_dad": "0" for one in ("all", "default")}
        await self._sandbox.call("sysctl", netns=container.netns, settings=settings)
        pasta = Pasta(
            self._sandbox, options, netns=container.netns, ifname=request.ifname, mac=request.mac,
            name=f"{container.id[:12]}-{request.ifname}", on_change=tell,
        )  # fmt: skip
        await start_in_turn(
            f"detach {request.network.name}", partial(pasta.run, reservation), teardown, nursery
        )
        result = parse_result(msgspec.json.encode(await pasta.result()))
        return Attachment(
            network=request.network,
            ifname=request.ifname,
            result=result,
            publisher=pasta,
            reaches_host=options.host_loopback,
            asks=lambda: pasta.asks,
            teardown=teardown,
        )

    async def check(self, container_id: str, attachment: Attachment) -> None:
        """Raises: AttachmentError if pasta does not run."""
        if not isinstance(attachment.publisher, Pasta) or not attachment.publisher.pid:
            raise AttachmentError(f"network {attachment.network.name}: pasta does not run")
