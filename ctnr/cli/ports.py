"""Published ports: `port NAME`, `port add|rm NAME SPEC …`."""

from __future__ import annotations

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import write, write_json
from ctnr.cli.ps import describe_port
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import ClientError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event


def show(service: Service, options: Parsed) -> int:
    """``80/tcp -> 0.0.0.0:8080``; with a port only its addresses, as docker does."""
    container = options.args[0]
    ports: list[Event] = ask(service, {**base_request("port-list"), "container": container}, tell=Teller())
    if len(options.args) > 1:
        wanted = options.args[1] if "/" in options.args[1] else f"{options.args[1]}/tcp"
        ports = [port for port in ports if f"{port['container_port']}/{port['protocol']}" == wanted]
        if not ports:
            raise ClientError(
                f"container {container} does not publish {wanted}", cure=f"ctnr port {container}"
            )
    if options.text("format") == "json":
        write_json(ports)
        return 0
    for port in ports:
        address, _, inside = describe_port(port).partition("->")
        write(f"{address}\n" if len(options.args) > 1 else f"{inside} -> {address}\n")
    return 0


def add(service: Service, options: Parsed) -> int:
    return _change(service, options, "port-add")


def remove(service: Service, options: Parsed) -> int:
    return _change(service, options, "port-rm")


def _change(service: Service, options: Parsed, op: str) -> int:
    request = {**base_request(op), "container": options.args[0], "specs": options.args[1:]}
    for port in ask(service, request, tell=Teller()) or ():
        write(f"{describe_port(port)}\n")
    return 0


COMMANDS = {
    "port": Command(
        "port", "CONTAINER [PORT[/udp]]", "Show the published ports of a container that runs.",
        (Option("format", "text", "json", choices=("json",), metavar="json"),), show, least=1, most=2,
    ),
    "port add": Command(
        "port add", "CONTAINER [[IP:]HOST:]PORT[/udp] …", "Publish more ports of a container that runs.", (), add,
        least=2,
    ),
    "port rm": Command(
        "port rm", "CONTAINER [[IP:]HOST:]PORT[/udp] …",
        "Stop publishing ports of a container that runs; without HOST, all that lead to PORT.", (), remove, least=2,
    ),
}  # fmt: skip
