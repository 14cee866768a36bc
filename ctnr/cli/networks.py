"""Networks: `net ls|inspect|create|rm|prune|check|gc|show|connect|disconnect`."""

from __future__ import annotations

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import human_size, list_rows, paint, table, write, write_json, write_value
from ctnr.cli.ps import describe_port
from ctnr.cli.request import base_request, service_environ
from ctnr.cli.run import UNASKED
from ctnr.cli.tell import Teller
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

_COLUMNS = {
    "NAME": "Name",
    "DRIVER": "Driver",
    "SUBNETS": "Subnets",
    "CONTAINERS": "Containers",
    "FROM": "Source",
}


def list_networks(service: Service, options: Parsed) -> int:
    networks: list[Event] = _ask(service, "net-list")
    form = options.text("format")
    if form == "json":
        write_json(networks)
        return 0
    rows = [
        {
            "Name": one["name"], "Driver": one["driver"], "Subnets": ", ".join(one["subnets"]),
            "Containers": ", ".join(one["containers"]), "Source": "built in" if one["builtin"] else one["source"],
            "Internal": one["internal"], "Gateway": one["gateway"], "Plugins": ", ".join(one["plugins"]),
        }
        for one in networks
    ]  # fmt: skip
    list_rows(rows, _COLUMNS, format=form, key="Name", quiet=options.flag("quiet"))
    return 0


def inspect(service: Service, options: Parsed) -> int:
    values = _ask(service, "net-inspect", names=options.args)
    form = options.text("format")
    list_rows(values, {}, format="json" if form is None else form)
    return 0


def create(service: Service, options: Parsed) -> int:
    fields = {key: options.text(key) for key in ("driver", "subnet", "gateway") if options.given(key)}
    more: dict[str, Any] = {"mtu": options.number("mtu")} if options.given("mtu") else {}
    network = _ask(
        service, "net-create", name=options.args[0], internal=options.flag("internal"),
        ipv6=options.flag("ipv6"), options=options.list("opt"), **fields, **more,
    )  # fmt: skip
    write_value(network, options.text("format"), lambda value: f"{value['name']}\n")
    return 0


def remove(service: Service, options: Parsed) -> int:
    for name in _ask(service, "net-rm", names=options.args) or ():
        write(f"{name}\n")
    return 0


def prune(service: Service, options: Parsed) -> int:
    write("".join(f"{name}\n" for name in remove_unused(service)))
    return 0


def remove_unused(service: Service) -> list[str]:
    """Their names. Raises: ClientError."""
    return _ask(service, "net-prune") or []


def check(service: Service, options: Parsed) -> int:
    """Exit status 1 if something is wrong; a built-in network that can't be had here is not."""
    rows: list[Event] = _ask(service, "net-check", names=options.args)
    if options.text("format") == "json":
        write_json(rows)
    else:
        width = max([len(row["network"]) for row in rows], default=0)
        for row in rows:
            mark = {True: paint("ok", "green", 1), False: paint("no", "red", 1), None: "--"}[row["ok"]]
            write(f"{mark}  {row['network'].ljust(width)}  {row['detail']}\n")
            if row.get("cure"):
                write(f"{' ' * (width + 6)}cure: {row['cure']}\n")
    return 1 if any(row["ok"] is False for row in rows) else 0


def collect(service: Service, options: Parsed) -> int:
    """Exit status 1 if something could not be released."""
    rows: list[Event] = _ask(service, "net-gc")
    if options.text("format") == "json":
        write_json(rows)
    else:
        for row in rows:
            what = " ".join(row[key] for key in ("container_id", "ifname", "address") if row.get(key))
            error = row.get("error")
            write(f"{row['network']}  {what}{'  ' if what and error else ''}{error or ''}\n")
    return 1 if any(row.get("error") for row in rows) else 0


def show(service: Service, options: Parsed) -> int:
    networks: list[Event] = _ask(service, "net-show", all=options.flag("all"))
    if options.text("format") == "json":
        write_json(networks)
        return 0
    if not networks:
        write("no container is on a network; --all shows those that there are\n")
    write("\n".join(draw(network) for network in networks))
    return 0


def draw(network: Event) -> str:
    """One network as a tree: itself, its bridge, and below it each container with all that leads there."""
    words = [paint(network["name"], "bold", 1), network["driver"], *network["subnets"]]
    if network.get("bridge"):
        words.append(f"bridge {network['bridge']}")
    if network["gateway"]:
        words.append(f"gateway {network['gateway']}")
    if network["internal"]:
        words.append("internal")
    lines = ["  ".join(words) + "\n"]
    members = network["members"]
    cells = [
        [
            ("└─ " if at + 1 == len(members) else "├─ ") + member["container"], member["ifname"],
            ", ".join(member["addresses"]), _traffic(member),
            ", ".join(describe_port(port) for port in member["ports"]),
        ]
        for at, member in enumerate(members)
    ]  # fmt: skip
    if cells:
        lines.append(table(cells[0], cells[1:]))
    return "".join(lines)


def _traffic(member: Event) -> str:
    if member["received"] is None:
        return ""
    return f"in {human_size(member['received'])}, out {human_size(member['sent'])}"


def connect(service: Service, options: Parsed) -> int:
    fields: dict[str, Any] = {}
    if options.given("ip"):
        fields["ip"] = options.text("ip")
    if options.given("mac_address"):
        fields["mac"] = options.text("mac_address")
    network, container = options.args
    value = _ask(
        service, "net-connect", network=network, container=container, aliases=options.list("alias"), **fields
    )
    write("  ".join([value["ifname"], *value["addresses"]]) + "\n" if value else "")
    return 0


def disconnect(service: Service, options: Parsed) -> int:
    network, container = options.args
    _ask(service, "net-disconnect", network=network, container=container)
    return 0


def _ask(service: Service, op: str, **fields: Any) -> Any:
    request = {**base_request(op), **fields}
    if environ := service_environ():
        request["environ"] = environ
    return ask(service, request, tell=Teller())


_JSON = Option("format", "text", "json", choices=("json",), metavar="json")
_TEMPLATE = Option(
    "format", "text", "json, or a template of fields such as '{{.Name}}'", short="f", metavar="FORMAT"
)

COMMANDS = {
    "net ls": Command(
        "net ls", "", "List networks.", (_TEMPLATE, Option("quiet", "flag", "names only", short="q")), list_networks,
        most=0,
    ),
    "net inspect": Command(
        "net inspect", "NETWORK …", "Show all that is known about networks.", (_TEMPLATE,), inspect, least=1
    ),
    "net create": Command(
        "net create", "NETWORK", "Make a network: a file in the first directory with configurations.",
        (
            Option(
                "driver", "text", "bridge, slirp or pasta [bridge]", short="d", choices=("bridge", "slirp", "pasta"),
                metavar="DRIVER",
            ),
            Option("format", "text", "json, or a template", metavar="FORMAT"),
            Option("gateway", "text", "the bridge's address [the subnet's first]", metavar="ADDRESS"),
            Option("internal", "flag", "no way out of it"),
            Option("ipv6", "flag", "IPv6 addresses as well; a free subnet is found"),
            Option("mtu", "number", "largest packet", metavar="BYTES"),
            Option("opt", "list", "an option of the driver", short="o", metavar="KEY=VALUE"),
            Option("subnet", "text", "its addresses [a free subnet is found]", metavar="SUBNET"),
        ),
        create, least=1, most=1,
    ),
    "net rm": Command("net rm", "NETWORK …", "Remove networks.", (), remove, least=1),
    "net prune": Command(
        "net prune", "", "Remove the networks made by net create that no container names.", (UNASKED,), prune, most=0
    ),
    "net check": Command(
        "net check", "[NETWORK …]", "Look at every configuration, its plugins, and what is attached.", (_JSON,), check
    ),
    "net gc": Command(
        "net gc", "", "Release what is left of containers that are gone.", (_JSON,), collect, most=0
    ),
    "net show": Command(
        "net show", "", "Draw networks with what is on them.",
        (Option("all", "flag", "also those that nobody is on", short="a"), _JSON), show, most=0,
    ),
    "net connect": Command(
        "net connect", "NETWORK CONTAINER", "Give a container that runs one more network.",
        (
            Option("alias", "list", "one more name there", metavar="NAME"),
            Option("ip", "text", "address there", metavar="ADDRESS"),
            Option("mac-address", "text", "MAC address there", metavar="MAC"),
        ),
        connect, least=2, most=2,
    ),
    "net disconnect": Command(
        "net disconnect", "NETWORK CONTAINER", "Take a network from a container that runs.", (), disconnect, least=2,
        most=2,
    ),
}  # fmt: skip
