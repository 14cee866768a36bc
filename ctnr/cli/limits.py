"""Containers held back: pause, unpause, update."""

from __future__ import annotations

from ctnr.cli.choosing import ALL, FILTER, LATEST
from ctnr.cli.grammar import Command, Parsed
from ctnr.cli.life import do_each, for_each
from ctnr.cli.request import limits_of
from ctnr.cli.run import LIMIT_OPTIONS, RESTART
from ctnr.client.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event


def pause(service: Service, options: Parsed) -> int:
    return for_each(service, options, "pause", {}, lambda row: row["state"] == "running")


def unpause(service: Service, options: Parsed) -> int:
    return for_each(service, options, "unpause", {}, lambda row: row["state"] == "paused")


def update(service: Service, options: Parsed) -> int:
    changes: Event = {}
    if limits := limits_of(options):
        changes["limits"] = limits
    if options.given("restart"):
        changes["restart"] = options.text("restart")
    if not changes:
        raise UsageError("update: nothing to change is given", cure="see ctnr update --help")
    return do_each(service, "update", options.args, changes)


_NAMES = "CONTAINER …"
_CHOICE = (ALL, FILTER, LATEST)

COMMANDS = {
    "pause": Command("pause", _NAMES, "Freeze all processes of containers.", _CHOICE, pause),
    "unpause": Command("unpause", _NAMES, "Let the processes of paused containers go on.", _CHOICE, unpause),
    "update": Command(
        "update", _NAMES, "Change containers, at once and for their next start.", (*LIMIT_OPTIONS, RESTART), update,
        least=1,
    ),
}  # fmt: skip
