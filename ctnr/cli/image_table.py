"""Images in a table: images, image list."""

from __future__ import annotations

from functools import partial

from ctnr.cli.filters import BOOLEAN, all_fit, filter_option, is_true, label_fits, parse_filters
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.moment import parse_moment
from ctnr.cli.output import age, human_size, list_rows, short_id
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

FILTERS: dict[str, tuple[str, ...]] = {
    "reference": (), "dangling": BOOLEAN, "before": (), "since": (), "until": (), "label": (), "id": (),
}  # fmt: skip
_COLUMNS = {
    "REPOSITORY": "Repository", "TAG": "Tag", "DIGEST": "Digest", "IMAGE ID": "ID", "CREATED": "CreatedSince",
    "SIZE": "Size",
}  # fmt: skip


def list_images(service: Service, options: Parsed) -> int:
    filters = parse_filters(options.list("filter"), FILTERS)
    filters += [("reference", pattern) for pattern in options.args]
    named = [(image, name) for image in matching(service, filters) for name in _names(image, filters)]
    if (key := options.text("sort")) is not None:
        named.sort(key=lambda pair: SORT_KEYS[key](*pair))
    form, quiet = options.text("format"), options.flag("quiet")
    if form == "json":
        list_rows(list({image["id"]: image for image, _ in named}.values()), {}, format=form)
        return 0
    rows = [display(image, name, whole=options.flag("no_trunc")) for image, name in named]
    if quiet:
        rows = list({row["ID"]: row for row in rows}.values())
    columns = {
        head: field for head, field in _COLUMNS.items() if head != "DIGEST" or options.flag("digests")
    }
    list_rows(rows, columns, format=form, key="ID", quiet=quiet)
    return 0


def matching(service: Service, filters: Filters) -> list[Event]:
    """The images that fit, the newest addition first. Raises: UsageError, ClientError."""
    every: list[Event] = ask(service, base_request("images"), tell=Teller())
    moments = {
        (key, value): parse_moment(value, "--filter until") if key == "until" else _made(every, key, value)
        for key, value in filters
        if key in ("until", "before", "since")
    }

    def fits(image: Event, key: str, value: str) -> bool:
        if key == "reference":
            return any(reference_fits(value, name) for name in image["names"])
        if key == "dangling":
            return is_true(value) == (not image["names"])
        if key == "label":
            return label_fits(image["labels"], value)
        if key == "id":
            return bool(image["id"].startswith(value.removeprefix("sha256:")))
        moment = moments[key, value]
        return _created(image) > moment if key == "since" else _created(image) < moment

    return [image for image in every if all_fit(filters, partial(fits, image))]


def reference_fits(pattern: str, name: str) -> bool:
    """`pattern` is a name or its end at a slash, with or without its tag; *, ? and [] stop at slashes."""
    wanted = pattern.split("/")
    for candidate in (name, _split(name)[0]):
        its = candidate.split("/")[-len(wanted) :]
        if len(its) == len(wanted) and all(map(_part_fits, wanted, its)):
            return True
    return False


def _part_fits(pattern: str, part: str) -> bool:
    if not any(letter in pattern for letter in "*?["):
        return pattern == part
    from fnmatch import fnmatchcase

    return fnmatchcase(part, pattern)


def _made(images: list[Event], key: str, text: str) -> float:
    """When the image that `text` names was made. Raises: UsageError."""
    tagged = text if _split(text)[1] else f"{text}:latest"
    for image in images:
        by_id = image["id"].startswith(text.removeprefix("sha256:"))
        if by_id or any(reference_fits(tagged, name) for name in image["names"]):
            return _created(image)
    raise UsageError(f"--filter={key}={text}: no image has that name or id", cure="ctnr images")


def display(image: Event, name: str, *, whole: bool = False) -> Event:
    """A row for one name, or for none, under the names that people know from `docker images --format`."""
    repository, tag = _split(name)
    return {
        "Repository": repository or "<none>",
        "Tag": tag or "<none>",
        "ID": short_id(image["id"], whole=whole),
        "CreatedSince": _since(image.get("created")),
        "CreatedAt": image.get("created") or "",
        "Size": human_size(image.get("size_bytes")),
        "Name": name or "<none>:<none>",
        "Digest": image.get("digest") or "",
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(image["labels"].items())),
    }


def _names(image: Event, filters: Filters) -> list[str]:
    """Those that were asked for; an empty one for an image without any."""
    patterns = [value for key, value in filters if key == "reference"]
    names = [
        name for name in image["names"] if not patterns or any(reference_fits(one, name) for one in patterns)
    ]
    return names or [""]


def _split(name: str) -> tuple[str, str]:
    """Repository and tag; a colon before a slash is a port's, or a transport's."""
    name = name.partition("@")[0]
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "")


def _created(image: Event) -> float:
    """Unix seconds; 0 where the image does not say."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(image.get("created") or "").timestamp()
    except ValueError:
        return 0.0


def _since(created: str | None) -> str:
    """How long ago an RFC 3339 date was; images made to be reproducible have one of 1970 or none."""
    moment = _created({"created": created})
    return age(moment) if moment or created else ""


SORT_KEYS: dict[str, Callable[[Event, str], Any]] = {
    "created": lambda image, name: -_created(image),
    "id": lambda image, name: image["id"],
    "repository": lambda image, name: _split(name),
    "size": lambda image, name: image["size_bytes"],
    "tag": lambda image, name: _split(name)[::-1],
}
_OPTIONS = (
    Option("all", "flag", "the same: no image here is only a step of another one", short="a"),
    Option("digests", "flag", "also the digests of what they were pulled from"),
    filter_option(FILTERS),
    Option("format", "text", "json, or a template of fields such as '{{.Repository}}'", metavar="FORMAT"),
    Option("no-trunc", "flag", "whole ids"),
    Option("quiet", "flag", "ids only", short="q"),
    Option("sort", "text", "by what [the newest addition first]", metavar="KEY", choices=tuple(SORT_KEYS)),
)

COMMANDS = {
    name: Command(name, "[NAME]", "List images; all, or those that a name or a pattern such as 'alpine:3.*' fits.",
                  _OPTIONS, list_images, most=1)
    for name in ("images", "image list")
}  # fmt: skip
