"""Looking at containers (and images) whole: inspect."""

from __future__ import annotations

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.images import inspect_images
from ctnr.cli.output import list_rows
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import ClientError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event


def inspect(service: Service, options: Parsed) -> int:
    """Without --type, names that no containers have are tried as images', as docker does."""
    kind, form = options.text("type"), options.text("format")
    if form not in (None, "json"):
        from ctnr.cli.template import Template

        Template(str(form))  # what is wrong with it is told before anything is asked
    if kind == "image":
        values = inspect_images(service, options.args)
    else:
        try:
            values = ask(service, {**base_request("inspect"), "containers": options.args}, tell=Teller())
        except ClientError as error:
            values = [] if kind == "container" else _images(service, options.args)
            if not values:
                raise error from None
    list_rows(values, {}, format=form or "json")
    return 0


def _images(service: Service, names: list[str]) -> list[Event]:
    try:
        return inspect_images(service, names)
    except ClientError:
        return []


COMMANDS = {
    "inspect": Command(
        "inspect", "CONTAINER …", "Show all that is known about containers.",
        (Option("format", "text", "json, or a template such as '{{.State.Status}}'", short="f", metavar="FORMAT"),
         Option("type", "text", "what the names are", choices=("container", "image")),),
        inspect, least=1,
    ),
}  # fmt: skip
