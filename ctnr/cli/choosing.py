"""Which containers a command is about: those that are named, or --all, --latest or --filter."""

from __future__ import annotations

from functools import partial

from ctnr.cli.filters import all_fit, filter_option, label_fits, name_fits, parse_filters
from ctnr.cli.grammar import Option, Parsed
from ctnr.cli.moment import parse_moment
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import ClientError, UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ctnr.cli.filters import Filters
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

STATES = ("created", "running", "paused", "restarting", "exited", "stopped", "removing", "dead")
FILTERS: dict[str, tuple[str, ...]] = {
    "id": (), "name": (), "image": (), "ancestor": (), "status": STATES, "state": STATES, "label": (), "network": (),
    "exited": (), "before": (), "since": (), "until": (), "volume": (),
    "health": ("starting", "healthy", "unhealthy", "none"),
}  # fmt: skip
ALL = Option("all", "flag", "all there are", short="a")
LATEST = Option("latest", "flag", "the one that was made last", short="l")
FILTER = filter_option(FILTERS)


def chosen(service: Service, options: Parsed, is_meant: Callable[[Event], bool] = bool) -> list[str]:
    """Names or ids. With --all and --filter only those that are meant, for there is something to do with them.

    Raises: UsageError, ClientError.
    """
    filters = read_filters(options.list("filter") if options.given("filter") else [])
    by = [flag for flag in ("all", "latest") if options.given(flag) and options.flag(flag)]
    by += ["filter"] * bool(filters)
    if not by:
        if not options.args:
            raise UsageError("missing CONTAINER …", cure=f"see ctnr {options.command} --help")
        return options.args
    if options.args:
        raise UsageError(f"{options.command} --{by[0]} takes no names")
    if "latest" in by and len(by) > 1:
        raise UsageError(f"{options.command} --latest, --all and --filter: one of them")
    if "latest" in by:
        return [latest(service)]
    return [row["id"] for row in select(service, _every(service), filters) if is_meant(row)]


def with_latest(service: Service, options: Parsed) -> list[str]:
    """The arguments, behind the container that --latest stands for. Raises: ClientError."""
    return [latest(service), *options.args] if options.flag("latest") else options.args


def latest(service: Service) -> str:
    """The id of the container that was made last, running or not. Raises: ClientError."""
    rows = _every(service)
    if not rows:
        raise ClientError("--latest: there is no container", cure="ctnr run IMAGE makes one")
    newest: Event = max(rows, key=lambda row: float(row["created"]))
    return str(newest["id"])


def read_filters(texts: list[str]) -> Filters:
    """Raises: UsageError."""
    filters = parse_filters(texts, FILTERS)
    for key, value in filters:
        if key == "exited" and not value.isdecimal():
            raise UsageError(f"--filter=exited={value}: an exit status is a number")
    return filters


def select(service: Service, rows: list[Event], filters: Filters) -> list[Event]:
    """The rows of `ps` that fit. Raises: UsageError, ClientError."""
    same = {"ancestor": "image", "status": "state"}
    wanted = [(same.get(key, key), value) for key, value in filters]
    moments = {
        (key, value): parse_moment(value, "--filter until") if key == "until" else _made(service, key, value)
        for key, value in wanted
        if key in ("before", "since", "until")
    }
    return [row for row in rows if all_fit(wanted, partial(_fits, row, moments))]


def state_of(row: Event) -> str:
    """OCI says stopped where people say exited."""
    state = str(row.get("state") or "")
    return "exited" if state == "stopped" else state


def networks_of(row: Event) -> list[str]:
    return [one["network"] if isinstance(one, dict) else str(one) for one in row.get("networks") or ()]


def _every(service: Service) -> list[Event]:
    rows: list[Event] = ask(service, {**base_request("ps"), "all": True}, tell=Teller())
    return rows


def _made(service: Service, key: str, name: str) -> float:
    """When another one was made, in Unix seconds."""
    for row in _every(service):
        if name == row["name"] or row["id"].startswith(name):
            return float(row["created"])
    raise UsageError(f"--filter {key}={name}: no container has that name or id", cure="ctnr ps -a")


def _fits(row: Event, moments: dict[tuple[str, str], float], key: str, value: str) -> bool:
    if key in ("before", "since", "until"):
        created, moment = float(row["created"]), moments[key, value]
        return created > moment if key == "since" else created < moment
    if key == "id":
        return str(row["id"]).startswith(value)
    if key == "name":
        return name_fits(value.removeprefix("/"), row["name"])
    if key == "image":
        image = str(row.get("image") or "")
        return image == value or image.rpartition("/")[2] in (value, f"{value}:latest") or value in image
    if key == "state":
        return {"stopped": "exited"}.get(value, value) == state_of(row)
    if key == "health":
        return value == (row.get("health") or "none")
    if key == "label":
        return label_fits(row.get("labels") or {}, value)
    if key == "volume":
        return any(value in part.split(":") for part in row.get("volumes") or ())
    if key == "network":
        return value in networks_of(row)
    return str(row.get("status")) == value  # exited=N
