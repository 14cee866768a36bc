"""What takes place on the disk, and what of it may go: `system df|prune`."""

from __future__ import annotations

from functools import partial

from ctnr.cli import image_table, images, life, networks, volumes
from ctnr.cli.asking import is_sure
from ctnr.cli.filters import filter_option, parse_filters
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import human_size, list_rows, rows_text, write, write_json
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ctnr.cli.filters import Filters
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

    Step = Callable[[Service, Filters], int]  # bytes that are free now

FILTERS: dict[str, tuple[str, ...]] = {"label": (), "until": ()}
_COLUMNS = {
    "TYPE": "Type", "TOTAL": "Total", "ACTIVE": "Active", "SIZE": "Size", "RECLAIMABLE": "Reclaimable",
}  # fmt: skip


def usage(service: Service, options: Parsed) -> int:
    """As podman prints it; sizes are those on disk, of images compressed and unpacked."""
    form = options.text("format")
    if options.flag("verbose") and form not in (None, "json"):
        raise UsageError("system df: a template is for its short form", cure="leave out --verbose")
    kinds: list[Event] = ask(service, base_request("disk-usage"), tell=Teller())
    if not options.flag("verbose"):
        list_rows([_summary(one) for one in kinds], _COLUMNS, format=form)
    elif form == "json":
        write_json(kinds)
    else:
        write("\n".join(_verbose(kinds)))
    return 0


def _summary(one: Event) -> Event:
    percent = round(100 * one["reclaimable"] / one["bytes"]) if one["bytes"] else 0
    return {
        "Type": one["kind"],
        "Total": one["total"],
        "Active": one["active"],
        "Size": human_size(one["bytes"]),
        "Reclaimable": f"{human_size(one['reclaimable'])} ({percent}%)",
        "TotalCount": one["total"],
        "RawSize": one["bytes"],
        "RawReclaimable": one["reclaimable"],
    }


def _verbose(kinds: list[Event]) -> Iterator[str]:
    rows = {one["kind"]: one["rows"] for one in kinds}
    yield _titled("Images", _IMAGES, map(_image, rows["Images"]))
    yield _titled("Containers", _CONTAINERS, map(_container, rows["Containers"]))
    yield _titled("Local Volumes", _VOLUMES, map(_thing, rows["Local Volumes"]))
    yield _titled("Bundles", _BUNDLES, map(_thing, rows["Bundles"]))


def _titled(kind: str, columns: Mapping[str, str], rows: Iterable[Event]) -> str:
    return f"{kind} space usage:\n\n{rows_text(list(rows), columns, format=None)}"


def _image(row: Event) -> Event:
    return {
        **image_table.display(row, (*row["names"], "")[0]),
        "Size": human_size(row["bytes"]),
        "SharedSize": human_size(row["shared"]),
        "UniqueSize": human_size(row["bytes"] - row["shared"]),
        "Containers": row["containers"],
    }


def _container(row: Event) -> Event:
    from ctnr.cli.ps import display

    return {**display(row), "LocalVolumes": row["local_volumes"], "Size": human_size(row["bytes"])}


def _thing(row: Event) -> Event:
    return {**row, "Size": human_size(row["bytes"])}


def prune(service: Service, options: Parsed) -> int:
    filters = parse_filters(options.list("filter"), FILTERS)
    steps = _steps(filters, every=options.flag("all"), with_volumes=options.flag("volumes"))
    if not options.flag("force"):
        fitting = " that fit" if filters else ""
        text = "".join(f"  - {what}\n" for what, _ in steps)
        if not is_sure("system prune", f"This removes all of these{fitting}:\n{text}", "Remove them?"):
            return 0
    freed = sum(step(service, filters) for _, step in steps)
    write(f"Total reclaimed space: {human_size(freed)}\n")
    return 0


def _steps(filters: Filters, *, every: bool, with_volumes: bool) -> list[tuple[str, Step]]:
    """What goes and how, containers first: what only they had goes with them."""
    steps: list[tuple[str, Step]] = [("containers that do not run", _prune_containers)]
    if not filters:  # these have no labels, and of networks nobody knows how old they are
        steps.append(("bundles that have no name and no container", _prune_bundles))
        steps.append(("networks made by net create that no container names", _prune_networks))
    if with_volumes:
        steps.append(("volumes that no container and no bundle has", _prune_volumes))
    kind = (
        "images that no container and no bundle uses" if every else "images without a name that nobody uses"
    )
    return [*steps, (kind, partial(_prune_images, every=every))]


def _told(title: str, names: Sequence[str]) -> None:
    if names:
        write("".join(f"{line}\n" for line in (f"Deleted {title}", *names)))


def _prune_containers(service: Service, filters: Filters) -> int:
    rows = life.ended(service, filters, size=True)
    if rows:
        write("Deleted Containers\n")
        life.do_each(service, "rm", [row["id"] for row in rows], {"ignore": True})
    return sum(row["size_bytes"] for row in rows if row["bundle"] == row["id"])


def _prune_bundles(service: Service, filters: Filters) -> int:
    gone: Event = ask(service, base_request("bundle-gc"), tell=Teller())
    _told("Bundles", gone["bundles"])
    return int(gone["bytes"])


def _prune_networks(service: Service, filters: Filters) -> int:
    _told("Networks", networks.remove_unused(service))
    return 0


def _prune_volumes(service: Service, filters: Filters) -> int:
    gone = volumes.remove_unused(service, volumes.unused(service, filters))
    _told("Volumes", gone["volumes"])
    return int(gone["bytes"])


def _prune_images(service: Service, filters: Filters, *, every: bool) -> int:
    gone = images.remove_unused(service, filters, every=every)
    _told("Images", gone["images"])
    return int(gone["bytes"])


_IMAGES = {
    "REPOSITORY": "Repository", "TAG": "Tag", "IMAGE ID": "ID", "CREATED": "CreatedSince", "SIZE": "Size",
    "SHARED SIZE": "SharedSize", "UNIQUE SIZE": "UniqueSize", "CONTAINERS": "Containers",
}  # fmt: skip
_CONTAINERS = {
    "CONTAINER ID": "ID", "IMAGE": "Image", "COMMAND": "Command", "LOCAL VOLUMES": "LocalVolumes", "SIZE": "Size",
    "CREATED": "RunningFor", "STATUS": "Status", "NAMES": "Names",
}  # fmt: skip
_VOLUMES = {"VOLUME NAME": "name", "LINKS": "links", "SIZE": "Size"}
_BUNDLES = {"NAME": "name", "CONTAINERS": "containers", "SIZE": "Size"}

COMMANDS = {
    "system df": Command(
        "system df", "", "Show what takes how much of the disk, and how much of that could go.",
        (
            Option("format", "text", "json, or a template of fields such as '{{.Type}}'", metavar="FORMAT"),
            Option("verbose", "flag", "each image, container, volume and bundle", short="v"),
        ),
        usage, most=0,
    ),
    "system prune": Command(
        "system prune", "",
        "Remove containers that do not run, networks and bundles that nobody has, and images without a name.",
        (
            Option("all", "flag", "also images with a name that no container and no bundle uses", short="a"),
            filter_option(FILTERS, ""),
            Option("force", "flag", "without a question", short="f"),
            Option("volumes", "flag", "also volumes that no container and no bundle has"),
        ),
        prune, most=0,
    ),
}  # fmt: skip
