"""Bundles: file systems that stay under a name. `bundle list|create|run|delete|gc`."""

from __future__ import annotations

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import age, list_rows, write
from ctnr.cli.request import base_request
from ctnr.cli.run import CREATE_OPTIONS, RUN_OPTIONS, run_image
from ctnr.cli.run import create as create_container
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

_COLUMNS = {"NAME": "Name", "IMAGE": "Image", "CREATED": "Created", "RUNNING": "Running"}


def list_bundles(service: Service, options: Parsed) -> int:
    bundles: list[Event] = ask(service, base_request("bundle-list"), tell=Teller())
    form = options.text("format")
    if form == "json":
        list_rows(bundles, {}, format=form)
        return 0
    rows = [
        {
            "Name": bundle["name"], "Image": bundle.get("image") or "", "Created": age(bundle.get("created")),
            "Running": bundle.get("running"),
        }
        for bundle in bundles
    ]  # fmt: skip
    list_rows(rows, _COLUMNS, format=form, key="Name", quiet=options.flag("quiet"))
    return 0


def create(service: Service, options: Parsed) -> int:
    if not options.given("bundle"):
        raise UsageError("bundle create needs a name", cure="ctnr bundle create -b NAME IMAGE")
    return create_container(service, options)


def run(service: Service, options: Parsed) -> int:
    """`ctnr bundle run [OPTIONS] BUNDLE [COMMAND …]`"""
    options.set("bundle", options.args[0])
    return run_image(service, options, None, options.args[1:])


def delete(service: Service, options: Parsed) -> int:
    request = {**base_request("bundle-delete"), "names": options.args, "force": options.flag("force")}
    ask(service, request, tell=Teller())
    write("".join(f"{name}\n" for name in options.args))
    return 0


def collect(service: Service, options: Parsed) -> int:
    gone = ask(service, base_request("bundle-gc"), tell=Teller())
    write("".join(f"{name}\n" for name in gone["bundles"]))
    return 0


COMMANDS = {
    "bundle list": Command(
        "bundle list", "", "List bundles.",
        (
            Option("format", "text", "json, or a template of fields such as '{{.Name}}'", metavar="FORMAT"),
            Option("quiet", "flag", "names only", short="q"),
        ),
        list_bundles, most=0,
    ),
    "bundle create": Command(
        "bundle create", "-b NAME IMAGE [COMMAND …]", "Make a bundle without running it.", CREATE_OPTIONS, create,
        least=1, stops=True,
    ),
    "bundle run": Command(
        "bundle run", "BUNDLE [COMMAND …]", "Run a bundle again.", RUN_OPTIONS, run, least=1, stops=True
    ),
    "bundle delete": Command(
        "bundle delete", "BUNDLE …", "Delete bundles with all that was written in them.",
        (Option("force", "flag", "also those in use: their containers are stopped", short="f"),), delete, least=1,
    ),
    "bundle gc": Command("bundle gc", "", "Delete bundles that have no name and no container.", (), collect, most=0),
}  # fmt: skip
