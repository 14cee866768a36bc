"""What is done to containers that exist: attach, start, stop, restart, kill, rm, wait."""

from __future__ import annotations

from ctnr.cli.choosing import ALL, FILTER, FILTERS, LATEST, chosen, select
from ctnr.cli.filters import filter_option, parse_filters
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import write
from ctnr.cli.request import base_request
from ctnr.cli.run import DETACH_KEYS, SIG_PROXY, UNASKED, check_detach_keys
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

PRUNE_FILTERS: dict[str, tuple[str, ...]] = {"label": (), "until": ()}


def attach(service: Service, options: Parsed) -> int:
    from ctnr.cli.request import add_terminal
    from ctnr.client.session import run_foreground

    keys = options.text("detach_keys")
    check_detach_keys(keys)
    stdin = not options.flag("no_stdin")
    request = {**base_request("attach"), "container": chosen(service, options)[0], "stdin": stdin}
    add_terminal(request)
    teller = Teller()
    return run_foreground(
        service, request, tell=teller, detached=lambda event: teller.note("detached"), tty=True, interactive=stdin,
        detach_keys="ctrl-p,ctrl-q" if keys is None else keys,
        forward_signals=options.flag("sig_proxy", default=stdin),  # Ctrl-C of a mere watcher must not end it
    )  # fmt: skip


def start(service: Service, options: Parsed) -> int:
    if service.in_process:
        raise UsageError("--no-service start: nothing would keep it running", cure="leave out --no-service")
    if options.flag("attach") or options.flag("interactive"):
        return _start_here(service, options)
    return for_each(service, options, "start", {}, lambda row: not is_up(row))


def _start_here(service: Service, options: Parsed) -> int:
    from ctnr.cli.request import add_terminal
    from ctnr.client.session import run_foreground

    names = chosen(service, options, lambda row: not is_up(row))
    if len(names) != 1:
        raise UsageError("start --attach takes one container", cure="start the others without it")
    interactive = options.flag("interactive")
    found = ask(service, {**base_request("inspect"), "containers": names}, tell=Teller())[0]
    request = {**base_request("start-here"), "container": found["Id"], "interactive": interactive}
    tty = bool(found["Config"]["Tty"])
    if tty:
        add_terminal(request)
    keys = options.text("detach_keys")
    check_detach_keys(keys)
    teller = Teller()
    return run_foreground(
        service, request, tell=teller, tty=tty, interactive=interactive,
        detached=lambda event: teller.note(f"detached; ctnr attach {event.get('name')} comes back"),
        detach_keys="ctrl-p,ctrl-q" if keys is None else keys,
        forward_signals=options.flag("sig_proxy", default=True),
    )  # fmt: skip


def stop(service: Service, options: Parsed) -> int:
    return for_each(
        service, options, "stop", {"seconds": options.seconds("time"), "ignore": options.flag("ignore")}
    )


def restart(service: Service, options: Parsed) -> int:
    if service.in_process:
        raise UsageError(
            "--no-service restart: nothing would keep it running", cure="leave out --no-service"
        )
    meant = is_up if options.flag("running") else bool
    if options.flag("running") and not options.args:
        options.set("all", "true")
    return for_each(service, options, "restart", {"seconds": options.seconds("time")}, meant)


def kill(service: Service, options: Parsed) -> int:
    return for_each(service, options, "kill", {"signal": options.text("signal") or "KILL"})


def remove(service: Service, options: Parsed) -> int:
    fields: Event = {key: options.flag(key) for key in ("force", "ignore", "volumes")}
    if options.given("time"):
        if not options.flag("force"):
            raise UsageError("rm --time: it is how long --force waits", cure="ctnr rm -f -t 10 CONTAINER")
        fields["seconds"] = options.seconds("time")
    return for_each(service, options, "rm", fields, bool)


def rename(service: Service, options: Parsed) -> int:
    container, name = options.args
    ask(service, {**base_request("rename"), "container": container, "name": name}, tell=Teller())
    return 0


def prune(service: Service, options: Parsed) -> int:
    gone = [row["id"] for row in ended(service, parse_filters(options.list("filter"), PRUNE_FILTERS))]
    if gone:
        do_each(service, "rm", gone, {"ignore": True})
    return 0


def ended(service: Service, filters: Filters, *, size: bool = False) -> list[Event]:
    """Those that do not run: they have ended, or were never started; with `size` also what each has written.

    Raises: UsageError, ClientError.
    """
    rows: list[Event] = ask(service, {**base_request("ps"), "all": True, "size": size}, tell=Teller())
    return [row for row in select(service, rows, filters) if row["state"] in ("created", "stopped")]


def wait(service: Service, options: Parsed) -> int:
    request = {**base_request("wait"), "containers": chosen(service, options)}
    if (condition := options.text("condition")) is not None:
        request["condition"] = _CONDITIONS[condition]
    statuses = ask(service, request, tell=Teller())
    write("".join(f"{status}\n" for status in statuses))
    return 0


def run_health_check(service: Service, options: Parsed) -> int:
    """As podman's: the status tells, and the word only if it is not healthy."""
    request = {**base_request("health-run"), "container": options.args[0]}
    value = ask(service, request, tell=Teller())
    if value["status"] == 0:
        return 0
    write(f"{value['health']}\n")
    if value["output"]:
        write(value["output"].rstrip("\n") + "\n", 2)
    return 1


def is_up(row: Event) -> bool:
    """Whether it runs, is paused, or is being started."""
    return row["state"] not in ("created", "stopped")


def for_each(
    service: Service,
    options: Parsed,
    op: str,
    fields: dict[str, Any],
    is_meant: Callable[[Event], bool] = is_up,
) -> int:
    """One request for all that are chosen, and their names printed, as scripts expect. Raises: ClientError."""
    names = chosen(service, options, is_meant)
    given = {key: value for key, value in fields.items() if value is not None}
    return do_each(service, op, names, given) if names else 0


def do_each(
    service: Service, op: str, names: list[str], fields: dict[str, Any], *, key: str = "containers"
) -> int:
    """Print the names of those with which it went well, also if others fail. Raises: ClientError."""
    teller = Teller()

    def tell(event: Event) -> None:
        if event.get("event") == "item":
            write(f"{event['value']}\n")
        else:
            teller(event)

    done = ask(service, {**base_request(op), key: names, **fields}, tell=tell)
    write("".join(f"{name}\n" for name in done))
    return 0


_CONDITIONS = {
    "stopped": "stopped", "exited": "stopped", "not-running": "stopped", "running": "running", "healthy": "healthy",
    "ready": "ready", "removed": "removed",
}  # fmt: skip
_IGNORE = Option("ignore", "flag", "no error for names that nobody has", short="i")
_NAMES = "CONTAINER …"
_TIME = Option(
    "time", "seconds", "how long to wait before killing [10s]",
    short="t", metavar="TIME", aliases=("timeout",),
)  # fmt: skip

COMMANDS = {
    "attach": Command(
        "attach", "CONTAINER", "Connect the terminal to a container that runs.",
        (
            Option("detach-keys", "text", 'keys that detach from it, "" for none [ctrl-p,ctrl-q]', metavar="KEYS"),
            LATEST,
            Option("no-stdin", "flag", "only watch"),
            Option("sig-proxy", "flag", "pass signals on to the program [true, unless --no-stdin]"),
        ),
        attach, least=1, most=1,
    ),
    "start": Command(
        "start", _NAMES, "Start containers that were made or have ended.",
        (
            Option("all", "flag", "all that do not run"),
            Option("attach", "flag", "in the foreground, as run does", short="a"),
            DETACH_KEYS,
            FILTER,
            Option("interactive", "flag", "connect standard input; means --attach", short="i"),
            LATEST,
            SIG_PROXY,
        ),
        start,
    ),
    "stop": Command(
        "stop", _NAMES, "Ask containers to end, and kill them if they do not.",
        (ALL, FILTER, _IGNORE, LATEST, _TIME), stop,
    ),
    "restart": Command(
        "restart", _NAMES, "Stop containers and start them again; those that have ended are started.",
        (ALL, FILTER, LATEST, Option("running", "flag", "all that run"), _TIME), restart,
    ),
    "kill": Command(
        "kill", _NAMES, "Send containers a signal.",
        (ALL, FILTER, LATEST, Option("signal", "text", "by name or number [KILL]", short="s", metavar="SIGNAL")), kill,
    ),
    "rm": Command(
        "rm", _NAMES, "Remove containers.",
        (
            ALL,
            filter_option(FILTERS, ""),
            Option("force", "flag", "also those that run", short="f"),
            _IGNORE,
            LATEST,
            Option("time", "seconds", "ask those that run to end, and wait so long before killing [0s]", short="t",
                   metavar="TIME"),
            Option("volumes", "flag", "with their anonymous volumes", short="v"),
        ),
        remove,
    ),
    "rename": Command("rename", "CONTAINER NAME", "Give a container another name.", (), rename, least=2, most=2),
    "container prune": Command(
        "container prune", "", "Remove all containers that do not run.",
        (
            filter_option(PRUNE_FILTERS, ""),
            UNASKED,
        ),
        prune, most=0,
    ),
    "wait": Command(
        "wait", _NAMES,
        "Wait for containers to end and print their exit statuses; or, printing nothing, for another condition.",
        (Option("condition", "text", "what to wait for [stopped]", choices=tuple(_CONDITIONS)), LATEST), wait, least=1,
    ),
    "healthcheck run": Command(
        "healthcheck run", "CONTAINER",
        "Run the container's health check once, now. Exit status 0 if it succeeds, 1 if it fails.",
        (), run_health_check, least=1, most=1,
    ),
}  # fmt: skip
