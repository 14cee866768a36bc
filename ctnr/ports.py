"""The ports that a container shall have on the host: `-p`, and with `-P` those that `--expose` and the image name."""

from __future__ import annotations

from collections.abc import Iterable

from ctnr import requests
from ctnr.networks import Chosen
from supervisor.network.ports import PortMapping, PortSpecError, parse_all_ports, parse_ports
from supervisor.network.wishes import check_publishable


def choose_ports(
    request: requests.Run, chosen: Chosen, *, rootless: bool, exposed: Iterable[str] = ()
) -> tuple[PortMapping, ...]:
    """`exposed` are the image's; they get random ports of the host, unless `-p` has opened them already.

    Raises: PortSpecError, AttachmentError if the first network can't publish one of them.
    """
    ports = parse_all_ports(request.publish)
    named = [one for spec in request.expose for one in _parse_exposed(spec, "--expose PORT[/udp]")]
    if chosen.host:  # every port is open
        return ()
    if request.publish_all:
        named += [one for spec in exposed for one in _parse_exposed(spec, "leave out -P")]
        opened = {(one.container_port, one.protocol) for one in ports}
        wanted = (one for one in named if (one.container_port, one.protocol) not in opened)
        ports = (*ports, *dict.fromkeys(wanted))
    if chosen.requests:
        check_publishable(chosen.requests[0].network, ports, rootless=rootless)
    return ports


def _parse_exposed(spec: str, cure: str) -> tuple[PortMapping, ...]:
    try:
        if ":" in spec:
            raise PortSpecError(spec, "only a port of the container can be exposed, and that is a number")
        return parse_ports(spec)
    except PortSpecError as exc:
        exc.cure = cure
        raise
