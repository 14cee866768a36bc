"""Looking at containers (and images) whole: inspect."""

from __future__ import annotations

from ctnr.cli.choosing import LATEST, chosen
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.images import inspect_images
from ctnr.cli.output import list_rows
from ctnr.cli.request import base_request, service_environ
from ctnr.cli.tell import Teller
from ctnr.client.errors import ClientError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctnr.client.connect import Service
    from ctnr.client.frames import Event


def inspect(service: Service, options: Parsed) -> int:
    """Without --type, names that no containers have are tried as images', volumes' and networks', as docker does."""
    kind, form = options.text("type"), options.text("format")
    if form not in (None, "json"):
        from ctnr.cli.template import Template

        Template(str(form))  # what is wrong with it is told before anything is asked
    if options.flag("latest"):
        kind = "container"
    list_rows(
        _find(service, chosen(service, options), (kind,) if kind else KINDS), {}, format=form or "json"
    )
    return 0


def _find(service: Service, names: list[str], kinds: Sequence[str]) -> list[Event]:
    """Raises: ClientError, what the first of the kinds has to say."""
    failed: list[ClientError] = []
    for kind in kinds:
        try:
            if kind == "image":
                return inspect_images(service, names)
            op, field = _ASKED[kind]
            found: list[Event] = ask(
                service, {**base_request(op), field: names, **_steering(op)}, tell=Teller()
            )
            return found
        except ClientError as error:
            failed.append(error)
    raise failed[0]


def _steering(op: str) -> Event:
    """Networks are looked for where the caller has them."""
    return {"environ": service_environ()} if op == "net-inspect" else {}


KINDS = ("container", "image", "volume", "network")
_ASKED = {
    "container": ("inspect", "containers"), "volume": ("volume-inspect", "names"), "network": ("net-inspect", "names"),
}  # fmt: skip

COMMANDS = {
    "inspect": Command(
        "inspect", "CONTAINER …", "Show all that is known about containers; or images, volumes, networks of that name.",
        (Option("format", "text", "json, or a template such as '{{.State.Status}}'", short="f", metavar="FORMAT"),
         LATEST,
         Option("type", "text", "what the names are", choices=KINDS),),
        inspect, least=1,
    ),
}  # fmt: skip
