"""`ctnr events`: what happens to containers, as it happens, in docker's words."""

from __future__ import annotations

import time

from ctnr.cli.filters import all_fit, filter_option, label_fits, parse_filters
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.moment import parse_moment
from ctnr.cli.output import write
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ctnr.cli.filters import Filters
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

ACTIONS = (
    "attach", "connect", "create", "destroy", "detach", "die", "disconnect", "exec_die", "exec_start", "failed",
    "health_status", "kill", "oom", "pasta_died", "pasta_restarted", "pause", "ready", "rename", "restart",
    "restarting", "slirp_died", "slirp_restarted", "start", "stop", "unpause", "update",
)  # fmt: skip
FILTERS: dict[str, tuple[str, ...]] = {
    "event": (), "container": (), "id": (), "name": (), "image": (), "label": (), "network": (),
    "type": ("container", "network", "image", "volume"), "status": (),
    "health": ("starting", "healthy", "unhealthy"),
}  # fmt: skip
_PODMAN = {"died": "die", "remove": "destroy", "exec": "exec_start", "exec_died": "exec_die"}


def events(service: Service, options: Parsed) -> int:
    filters = parse_filters(options.list("filter"), FILTERS)
    for key, value in filters:
        if key in ("event", "status") and value.partition(":")[0] not in (*ACTIONS, *_PODMAN):
            raise UsageError(f"--filter={key}={value}: {key} is one of {', '.join(ACTIONS)}")
    form = options.text("format")
    if options.flag("json"):
        if form not in (None, "json"):
            raise UsageError("--json and --format: one of them")
        form = "json"
    show = _printer(form, whole=options.flag("no_trunc"))
    request: Event = base_request("events")
    for key in ("since", "until"):
        if (text := options.text(key)) is not None:
            request[key] = parse_moment(text, "--" + key)
    if not options.flag("stream", default=True):
        request["stream"] = False
    teller = Teller()

    def tell(event: Event) -> None:
        if event.get("event") != "item":
            teller(event)
        elif fits(event["value"], filters):
            write(show(event["value"]) + "\n")

    ask(service, request, tell=tell)
    return 0


def fits(value: Event, filters: Filters) -> bool:
    """Whether it is one of those. What is lost is always told."""
    return value["type"] == "events" or all_fit(filters, lambda key, text: _fits(value, key, text))


def display(value: Event) -> Event:
    """One event with the names that people know from docker's and podman's `--format`."""
    attributes = {**value["attributes"], "name": value["name"]}
    if value["status"] is not None:
        attributes["exitCode"] = str(value["status"])
    image = attributes.get("image", "")
    actor = value["id"]
    if value["type"] == "network":
        attributes["container"], attributes["name"] = actor, attributes.get("network", "")
        actor = attributes["name"]
    return {
        "Type": value["type"],
        "Action": value["action"],
        "Status": value["action"],
        "Actor": {"ID": actor, "Attributes": attributes},
        "ID": value["id"],
        "Name": value["name"],
        "Image": image,
        "From": image,
        "ContainerExitCode": value["status"],
        "HealthStatus": attributes.get("health", ""),
        "Attributes": attributes,
        "Scope": "local",
        "Time": int(value["time"]),
        "TimeNano": int(value["time"] * 1e9),
    }


def describe(value: Event, *, whole: bool) -> str:
    """``2026-01-31T12:00:00.000000+00:00 container start 0123456789ab (image=demo, name=web)``."""
    seen = display(value)
    told = ", ".join(
        f"{key}={text if whole else text[:12] if key == 'container' else text}"
        for key, text in sorted(seen["Actor"]["Attributes"].items())
    )
    actor = seen["Actor"]["ID"]
    actor = actor if whole or value["type"] == "network" else actor[:12]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(value["time"]))
    fraction = f".{int(value['time'] % 1 * 1e6):06d}"
    zone = time.strftime("%z", time.localtime(value["time"]))
    words = [f"{moment}{fraction}{zone[:3]}:{zone[3:]}", value["type"], value["action"], actor]
    return f"{' '.join(word for word in words if word)} ({told})"


def _printer(form: str | None, *, whole: bool) -> Callable[[Event], str]:
    """Raises: UsageError for a template that can't be understood, before anything is asked."""
    if form is None:
        return lambda value: describe(value, whole=whole)
    if form == "json":
        from ctnr.client import jsonlite

        return lambda value: jsonlite.encode(display(value)).decode()
    from ctnr.cli.template import Template

    template = Template(form)
    return lambda value: template.render(display(value))


def _fits(value: Event, key: str, text: str) -> bool:
    attributes: dict[str, Any] = value["attributes"]
    if key in ("event", "status"):
        word, colon, health = text.partition(":")  # docker's health_status: healthy
        return (
            _PODMAN.get(word, word) == value["action"]
            and (not colon or attributes.get("health") == health.strip())
        )  # fmt: skip
    if key == "container":
        return text == value["name"] or bool(text and value["id"].startswith(text))
    if key == "id":
        return bool(value["id"].startswith(text))
    if key == "image":
        image = str(attributes.get("image", ""))
        return image == text or image.rpartition("/")[2] in (text, f"{text}:latest")
    if key == "label":
        return label_fits(attributes, text)
    if key in ("network", "health"):
        return bool(attributes.get(key) == text)
    return bool(value[key] == text)  # name, type


COMMANDS = {
    "events": Command(
        "events", "", "Show what happens to containers, as it happens.",
        (
            filter_option(FILTERS),
            Option("format", "text", "json, or a template such as '{{.Action}} {{.Name}}'", metavar="FORMAT"),
            Option("json", "flag", "one JSON object a line"),
            Option("no-trunc", "flag", "whole ids"),
            Option("since", "text", "from then on: a date, or how long ago", metavar="TIME"),
            Option("stream", "flag", "go on with what is to come [true]"),
            Option("until", "text", "up to then", metavar="TIME"),
        ),
        events, most=0,
    ),
}  # fmt: skip
