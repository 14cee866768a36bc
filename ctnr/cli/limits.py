"""Containers held back: pause, unpause, update."""

from __future__ import annotations

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.life import for_each
from ctnr.cli.output import write
from ctnr.cli.request import base_request, limits_of
from ctnr.cli.run import LIMIT_OPTIONS
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service


def pause(service: Service, options: Parsed) -> int:
    return for_each(service, options, "pause", {})


def unpause(service: Service, options: Parsed) -> int:
    return for_each(service, options, "unpause", {})


def update(service: Service, options: Parsed) -> int:
    request = {**base_request("update"), "containers": options.args}
    if limits := limits_of(options):
        request["limits"] = limits
    if len(request) == 3:
        raise UsageError("update: nothing to change is given", cure="see ctnr update --help")
    ask(service, request, tell=Teller())
    write("".join(f"{name}\n" for name in options.args))
    return 0


_NAMES = "CONTAINER …"
_ALL = (Option("all", "flag", "all there are", short="a"),)

COMMANDS = {
    "pause": Command("pause", _NAMES, "Freeze all processes of containers.", _ALL, pause),
    "unpause": Command("unpause", _NAMES, "Let the processes of paused containers go on.", _ALL, unpause),
    "update": Command(
        "update", _NAMES, "Change the limits of containers, at once and for their next start.", LIMIT_OPTIONS, update,
        least=1,
    ),
}  # fmt: skip
