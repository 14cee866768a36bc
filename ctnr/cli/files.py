"""Files of containers: cp, diff."""

from __future__ import annotations

import posix as os

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import list_rows, write
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.environ import absolute
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

_LETTERS = {0: "C", 1: "A", 2: "D"}


def copy(service: Service, options: Parsed) -> int:
    """docker's rules: see the text of `--help`."""
    (source, source_path), (target, target_path) = map(split_place, options.args)
    if not source and not target:
        raise UsageError("cp: neither is in a container", cure="ctnr cp NAME:PATH PATH, or PATH NAME:PATH")
    request: Event = {**base_request("cp"), "source_path": source_path, "target_path": target_path}
    if source:
        request["source"] = source
    if target:
        request["target"] = target
    for key, option in (("archive", "archive"), ("follow", "follow_link")):
        if options.flag(option):
            request[key] = True
    descriptors: tuple[int, ...] = ()
    if not source and source_path == "-":
        request["from_archive"], descriptors = True, (0,)
    elif not target and target_path == "-":
        if os.isatty(1):
            raise UsageError(
                "cp: an archive is nothing for a terminal", cure="ctnr cp NAME:PATH - > FILE.tar"
            )
        request["to_archive"], descriptors = True, (1,)
    ask(service, request, descriptors=descriptors, tell=Teller())
    return 0


def split_place(text: str) -> tuple[str, str]:
    """(container, path) of ``NAME:PATH``; ("", absolute path) of what begins as a path does, and of ``-``."""
    name, colon, path = text.partition(":")
    if text == "-":
        return "", "-"
    if not colon or text[0] in "/.":
        whole = absolute(text)
        for ending in ("/.", "/"):  # they mean something: the content, and a directory
            if text.endswith(ending) or text == ending[1:]:
                return "", whole.rstrip("/") + ending
        return "", whole
    if not name:
        raise UsageError(f"cp: {text}: the container's name is missing", cure="NAME:PATH")
    return name, "/" + path if not path.startswith("/") else path


def diff(service: Service, options: Parsed) -> int:
    rows: list[Event] = ask(service, {**base_request("diff"), "container": options.args[0]}, tell=Teller())
    form = options.text("format")
    if form is not None:
        list_rows([{"Kind": row["kind"], "Path": row["path"]} for row in rows], {}, format=form)
    else:
        write("".join(f"{_LETTERS[row['kind']]} {row['path']}\n" for row in rows))
    return 0


COMMANDS = {
    "cp": Command(
        "cp", "NAME:PATH|PATH|- NAME:PATH|PATH|-",
        "Copy files out of a container, into one, or between two; - is a tar archive on stdin or stdout. "
        "A directory goes into one that exists, or becomes the one that does not; DIR/. means what is in it.",
        (
            Option("archive", "flag", "keep the numbers of owners and groups", short="a"),
            Option("follow-link", "flag", "what a link at the source leads to, not the link", short="L"),
        ),
        copy, least=2, most=2,
    ),
    "diff": Command(
        "diff", "CONTAINER", "Show what a container has added (A), changed (C) and deleted (D) in its image's files.",
        (Option("format", "text", "json, or a template such as '{{.Path}}'", metavar="FORMAT"),), diff,
        least=1, most=1,
    ),
}  # fmt: skip
