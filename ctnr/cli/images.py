"""Images: pull, rmi, and `image import|export|tag|untag|rm|gc|fsck|cat-config|inspect`."""

from __future__ import annotations

from ctnr.cli.filters import filter_option, parse_filters
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.image_table import matching
from ctnr.cli.output import describe, human_size, list_rows, write, write_json
from ctnr.cli.request import base_request, pull_request, resolve_env, wants_progress, words
from ctnr.cli.run import ARCH, IMAGE_POLICY, PLATFORM, PULL, QUIET, UNASKED
from ctnr.cli.tell import Teller
from ctnr.client.environ import absolute
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.cli.filters import Filters
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

PRUNE_FILTERS: dict[str, tuple[str, ...]] = {"label": (), "until": ()}
TRANSPORTS = ("docker", "oci", "oci-archive", "docker-archive", "docker-daemon", "dir", "containers-storage")
EXPORTS = ("oci", "oci-archive", "docker-archive", "dir")


def pull(service: Service, options: Parsed) -> int:
    value = {}
    for image in options.args:
        request = pull_request(options, absolute_reference(image))
        value = _with_progress(service, request, quiet=options.flag("quiet"))
        write(f"{value['id']}\n")
    return 0


def import_image(service: Service, options: Parsed) -> int:
    """A root filesystem (directory, tar, or - for standard input) becomes an image; a reference is pulled."""
    source = options.args[0]
    quiet = options.flag("quiet")
    if source.partition(":")[0] in TRANSPORTS and ":" in source:
        value = _with_progress(service, pull_request(options, absolute_reference(source)), quiet=quiet)
        if len(options.args) > 1:
            ask(
                service,
                {**base_request("image-tag"), "image": value["id"], "name": options.args[1]},
                tell=Teller(),
            )
        write(f"{value['id']}\n")
        return 0
    if len(options.args) < 2:
        raise UsageError("image import needs a name", cure="ctnr image import DIRECTORY|TAR|- NAME")
    request = {
        **base_request("image-import"),
        "name": options.args[1],
        "env": resolve_env(options.list("env")),
    }
    request["source"] = None if source == "-" else absolute(source)
    for key in ("cmd", "entrypoint"):
        if (text := options.text(key)) is not None:
            request[key] = words(text)
    for key in ("workdir", "user"):
        if options.given(key):
            request[key] = options.text(key)
    request["labels"] = options.list("label")
    value = _with_progress(service, request, quiet=quiet, descriptors=(0, 1, 2) if source == "-" else ())
    write(f"{value['id']}\n")
    return 0


def export_image(service: Service, options: Parsed) -> int:
    image, destination = options.args
    transport, colon, path = destination.partition(":")
    if not colon or transport not in EXPORTS or not path:
        expected = "oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE or dir:DIR"
        raise UsageError(f"{destination}: not a destination", cure=expected)
    request = {
        **base_request("image-export"),
        "image": image,
        "destination": f"{transport}:{absolute(path)}",
    }
    ask(service, request, tell=Teller())
    return 0


def tag(service: Service, options: Parsed) -> int:
    ask(
        service,
        {**base_request("image-tag"), "image": options.args[0], "name": options.args[1]},
        tell=Teller(),
    )
    return 0


def untag(service: Service, options: Parsed) -> int:
    for name in options.args:
        ask(service, {**base_request("image-untag"), "name": name}, tell=Teller())
        write(f"{name}\n")
    return 0


def remove(service: Service, options: Parsed) -> int:
    request = {**base_request("image-rm"), "images": options.args, "force": options.flag("force")}
    _print_removed(ask(service, request, tell=Teller()), options.args)
    return 0


def collect(service: Service, options: Parsed) -> int:
    filters = parse_filters(options.list("filter"), PRUNE_FILTERS)
    gone = remove_unused(service, filters, every=options.flag("all"))
    write("".join(f"{image}\n" for image in gone["images"]))
    write(f"Total reclaimed space: {human_size(gone['bytes'])}\n")
    return 0


def remove_unused(service: Service, filters: Filters, *, every: bool) -> Event:
    """Those without a name, or with `every` all that nobody uses: {"images": ids, "bytes": …}.

    Raises: UsageError, ClientError.
    """
    request = {**base_request("image-gc"), "all": every}
    if filters:
        request["among"] = [image["id"] for image in matching(service, filters)]
    gone: Event = ask(service, request, tell=Teller())
    return gone


def check(service: Service, options: Parsed) -> int:
    """A line for each finding; 1 if something is left that is not right."""
    request = {
        **base_request("image-fsck"),
        "repair": options.flag("repair"),
        "quick": options.flag("quick"),
    }
    teller = Teller()
    verdict: Event = ask(service, request, tell=teller)
    findings: list[Event] = verdict["findings"]
    left = sum(one.get("done") is None for one in findings)
    write("".join(": ".join(filter(None, (one["what"], one.get("done")))) + "\n" for one in findings))
    looked_at = ", ".join(f"{verdict[kind + 's']} {kind}(s)" for kind in ("image", "layer", "blob"))
    teller.note(f"{looked_at}: {f'{left} finding(s) left' if left else 'all right'}")
    return 1 if left else 0


def cat_config(service: Service, options: Parsed) -> int:
    write_json(ask(service, {**base_request("image-config"), "image": options.args[0]}, tell=Teller()))
    return 0


def inspect(service: Service, options: Parsed) -> int:
    """The configurations of images, as a list."""
    found = inspect_images(service, options.args)
    form = options.text("format")
    list_rows(found, {}, format="json" if form is None else form)
    return 0


def inspect_images(service: Service, names: list[str]) -> list[Event]:
    """Their configurations. Raises: ClientError."""
    return [ask(service, {**base_request("image-config"), "image": name}, tell=Teller()) for name in names]


def absolute_reference(image: str) -> str:
    """The paths of ``oci:DIR``, ``dir:DIR`` and archives, seen from the caller's directory."""
    transport, colon, path = image.partition(":")
    if colon and transport in ("oci", "oci-archive", "docker-archive", "dir") and path:
        return f"{transport}:{absolute(path)}"
    return image


def _with_progress(
    service: Service, request: Event, *, quiet: bool, descriptors: tuple[int, ...] = ()
) -> dict[str, Any]:
    if request["op"] == "pull":
        request["progress"] = wants_progress(quiet=quiet)
    teller = Teller(quiet=quiet)
    try:
        value: dict[str, Any] = ask(service, request, descriptors=descriptors, tell=teller)
    finally:
        teller.finish()
    return value


def _print_removed(value: object, names: list[str]) -> None:
    """What the service says it removed; the names that were given, if it says nothing."""
    if isinstance(value, dict):
        write(describe(value))
    elif isinstance(value, list):
        write("".join(f"{item}\n" for item in value))
    else:
        write("".join(f"{name}\n" for name in names))


_REMOVE = (Option("force", "flag", "also if bundles use them", short="f"),)

COMMANDS = {
    "pull": Command(
        "pull", "IMAGE …", "Fetch images.", (ARCH, IMAGE_POLICY, PLATFORM, PULL, QUIET), pull, least=1
    ),
    "rmi": Command("rmi", "IMAGE …", "Remove images.", _REMOVE, remove, least=1),
    "image import": Command(
        "image import", "SOURCE [NAME]",
        "Make an image of a root file system: a directory, a tar file, or - for standard input. docker://… is pulled.",
        (
            Option("cmd", "text", "default command, as words or a JSON list", metavar="WORDS"),
            Option("entrypoint", "text", "program to start, as words or a JSON list", metavar="WORDS"),
            Option("env", "list", "set a variable", short="e", metavar="NAME[=VALUE]"),
            IMAGE_POLICY,
            Option("label", "list", "add a label", short="l", metavar="KEY=VALUE"),
            PLATFORM,
            ARCH,
            PULL,
            QUIET,
            Option("user", "text", "user and group inside", short="u", metavar="USER[:GROUP]"),
            Option("workdir", "text", "directory to start in", short="w", metavar="DIR"),
        ),
        import_image, least=1, most=2,
    ),
    "image export": Command(
        "image export", "IMAGE DESTINATION",
        "Write an image to oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE or dir:DIR.", (), export_image, least=2,
        most=2,
    ),
    "image tag": Command("image tag", "IMAGE NAME", "Give an image one more name.", (), tag, least=2, most=2),
    "image untag": Command("image untag", "NAME …", "Take names away.", (), untag, least=1),
    "image rm": Command("image rm", "IMAGE …", "Remove images.", _REMOVE, remove, least=1),
    "image gc": Command(
        "image gc", "", "Drop images without a name, and what no image needs.",
        (
            Option("all", "flag", "also images with a name that no container and no bundle uses", short="a"),
            filter_option(PRUNE_FILTERS, ""),
            UNASKED,
        ),
        collect, most=0,
    ),
    "image fsck": Command(
        "image fsck", "",
        "Look whether the image store is whole: blobs, records, names and layers. A line tells each finding.",
        (
            Option("quick", "flag", "leave out what is in the layers"),
            Option("repair", "flag", "mend what can be mended, forget images that cannot"),
        ),
        check, most=0,
    ),
    "image cat-config": Command(
        "image cat-config", "IMAGE", "Print an image's configuration.", (), cat_config, least=1, most=1
    ),
    "image inspect": Command(
        "image inspect", "IMAGE …", "Show the configurations of images.",
        (Option("format", "text", "json, or a template", short="f", metavar="FORMAT"),), inspect, least=1,
    ),
}  # fmt: skip
