"""Volumes: `volume ls|inspect|create|rm|prune`."""

from __future__ import annotations

from ctnr.cli.asking import is_sure
from ctnr.cli.filters import BOOLEAN, all_fit, filter_option, is_true, label_fits, name_fits, parse_filters
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.moment import parse_moment
from ctnr.cli.output import human_size, list_rows, write
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.cli.filters import Filters
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

FILTERS: dict[str, tuple[str, ...]] = {"name": (), "label": (), "dangling": BOOLEAN, "anonymous": BOOLEAN}
PRUNE_FILTERS: dict[str, tuple[str, ...]] = {"name": (), "label": (), "anonymous": BOOLEAN, "until": ()}
_COLUMNS = {"DRIVER": "Driver", "VOLUME NAME": "Name"}


def list_volumes(service: Service, options: Parsed) -> int:
    filters = parse_filters(options.list("filter"), FILTERS)
    rows = [row for row in _rows(service) if fits(row, filters)]
    list_rows(
        rows, _COLUMNS, format=options.text("format"), key="Name", quiet=options.flag("quiet")
    )  # fmt: skip
    return 0


def inspect(service: Service, options: Parsed) -> int:
    """Their descriptions as a list, as docker and podman have it."""
    names = _names(service, options)
    rows = ask(service, {**base_request("volume-inspect"), "names": names}, tell=Teller())
    list_rows(rows, {}, format=options.text("format") or "json")
    return 0


def create(service: Service, options: Parsed) -> int:
    request = {
        **base_request("volume-create"),
        "name": options.args[0] if options.args else None,
        "labels": options.list("label"),
        "ignore": options.flag("ignore"),
    }
    write(f"{ask(service, request, tell=Teller())}\n")
    return 0


def remove(service: Service, options: Parsed) -> int:
    """Names of those with which it went well are printed, also if others fail."""
    names = _names(service, options)
    if not names:
        return 0
    from ctnr.cli.life import do_each

    return do_each(service, "volume-rm", names, {"force": options.flag("force")}, key="names")


def prune(service: Service, options: Parsed) -> int:
    """Data may be lost by it, so it asks; in a script only --force is an answer."""
    names = unused(service, parse_filters(options.list("filter"), PRUNE_FILTERS))
    if names and not options.flag("force"):
        text = f"These {len(names)} volumes, which no container has, will be removed with all that is in them:\n"
        if not is_sure("volume prune", text + "".join(f"  {name}\n" for name in names), "Remove them?"):
            return 0
    told = remove_unused(service, names)
    write("".join(f"{name}\n" for name in told["volumes"]))
    write(f"Total reclaimed space: {human_size(told['bytes'])}\n")
    return 0


def unused(service: Service, filters: Filters) -> list[str]:
    """Names of those that nobody has. Raises: UsageError, ClientError."""
    before = [parse_moment(value, "--filter until") for key, value in filters if key == "until"]
    wanted = [one for one in (*filters, ("dangling", "true")) if one[0] != "until"]
    return [
        row["Name"]
        for row in _rows(service)
        if fits(row, wanted)
        and all(parse_moment(row["CreatedAt"], "CreatedAt") < moment for moment in before)
    ]


def remove_unused(service: Service, names: list[str]) -> Event:
    """{"volumes": those that nobody had meanwhile, "bytes": how many they took}. Raises: ClientError."""
    gone: Event = {"volumes": [], "bytes": 0}
    if names:
        gone = ask(service, {**base_request("volume-prune"), "names": names}, tell=Teller())
    return gone


def fits(row: Event, filters: Filters) -> bool:
    return all_fit(filters, lambda key, value: _fits(row, key, value))


def _fits(row: Event, key: str, value: str) -> bool:
    if key == "name":
        return name_fits(value, row["Name"])
    if key == "label":
        return label_fits(row["Labels"], value)
    answer = row["Anonymous"] if key == "anonymous" else not row["UsedBy"]
    return bool(answer) == is_true(value)


def _names(service: Service, options: Parsed) -> list[str]:
    """Those that are given, or with --all those that there are. Raises: UsageError."""
    if options.flag("all"):
        if options.args:
            raise UsageError(f"{options.command} --all takes no names")
        return [row["Name"] for row in _rows(service)]
    if not options.args:
        raise UsageError("missing VOLUME …", cure=f"see ctnr {options.command} --help")
    return options.args


def _rows(service: Service) -> list[Event]:
    rows: list[Event] = ask(service, base_request("volume-list"), tell=Teller())
    return rows


_FORMAT = Option(
    "format", "text", "json, or a template of fields such as '{{.Name}}'", metavar="FORMAT"
)  # fmt: skip


COMMANDS = {
    "volume ls": Command(
        "volume ls", "", "List volumes.",
        (filter_option(FILTERS), _FORMAT, Option("quiet", "flag", "names only", short="q")), list_volumes, most=0,
    ),
    "volume inspect": Command(
        "volume inspect", "VOLUME …", "Show all that is known about volumes, and who has them.",
        (
            Option("all", "flag", "all there are", short="a"),
            Option("format", "text", "json, or a template such as '{{.Mountpoint}}'", short="f", metavar="FORMAT"),
        ),
        inspect,
    ),
    "volume create": Command(
        "volume create", "[NAME]", "Make a volume, under a random name if none is given.",
        (
            Option("driver", "text", "where it lies: local is all there is", short="d", choices=("local",),
                   metavar="DRIVER"),
            Option("ignore", "flag", "one that exists is fine"),
            Option("label", "list", "add a label", short="l", metavar="KEY=VALUE"),
        ),
        create, most=1,
    ),
    "volume rm": Command(
        "volume rm", "VOLUME …", "Remove volumes with all that is in them.",
        (
            Option("all", "flag", "all there are", short="a"),
            Option("force", "flag", "with the containers that have them; no error for names that no volume has",
                   short="f"),
        ),
        remove,
    ),
    "volume prune": Command(
        "volume prune", "", "Remove the volumes that no container has, running or not, and no bundle.",
        (filter_option(PRUNE_FILTERS, ""), Option("force", "flag", "without a question", short="f")), prune, most=0,
    ),
}  # fmt: skip
