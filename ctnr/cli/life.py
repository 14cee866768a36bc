"""What is done to containers that exist: attach, start, stop, restart, kill, rm, wait."""

from __future__ import annotations

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import write
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.client.connect import Service


def attach(service: Service, options: Parsed) -> int:
    from ctnr.cli.request import add_terminal
    from ctnr.cli.run import check_detach_keys
    from ctnr.client.session import run_foreground

    keys = options.text("detach_keys")
    check_detach_keys(keys)
    stdin = not options.flag("no_stdin")
    request = {**base_request("attach"), "container": options.args[0], "stdin": stdin}
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
    return for_each(service, options, "start", {})


def stop(service: Service, options: Parsed) -> int:
    return for_each(service, options, "stop", {"seconds": options.seconds("time")})


def restart(service: Service, options: Parsed) -> int:
    if service.in_process:
        raise UsageError(
            "--no-service restart: nothing would keep it running", cure="leave out --no-service"
        )
    return for_each(service, options, "restart", {"seconds": options.seconds("time")})


def kill(service: Service, options: Parsed) -> int:
    return for_each(service, options, "kill", {"signal": options.text("signal") or "KILL"})


def remove(service: Service, options: Parsed) -> int:
    return for_each(service, options, "rm", {"force": options.flag("force")})


def wait(service: Service, options: Parsed) -> int:
    statuses = ask(service, {**base_request("wait"), "containers": options.args}, tell=Teller())
    write("".join(f"{status}\n" for status in statuses))
    return 0


def for_each(service: Service, options: Parsed, op: str, fields: dict[str, Any]) -> int:
    """One request for all that are named (or --all there are), and their names printed, as scripts expect."""
    names = list(options.args)
    if op != "start" and options.flag("all"):
        if names:
            raise UsageError(f"{op} --all takes no names")
        found = ask(service, {**base_request("ps"), "all": op == "rm"}, tell=Teller())
        names = [row["id"] for row in found if op not in _STATES or row["state"] == _STATES[op]]
        if not names:
            return 0
    if not names:
        raise UsageError("missing CONTAINER …", cure=f"see ctnr {op} --help")
    given = {key: value for key, value in fields.items() if value is not None}
    ask(service, {**base_request(op), "containers": names, **given}, tell=Teller())
    write("".join(f"{name}\n" for name in names))
    return 0


_STATES = {
    "pause": "running",
    "unpause": "paused",
}  # --all of them means those for which there is something to do
_ALL = Option("all", "flag", "all there are", short="a")
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
            Option("no-stdin", "flag", "only watch"),
            Option("sig-proxy", "flag", "pass signals on to the program [true, unless --no-stdin]"),
        ),
        attach, least=1, most=1,
    ),
    "start": Command("start", _NAMES, "Start containers that were made or have ended.", (), start, least=1),
    "stop": Command(
        "stop", _NAMES, "Ask containers to end, and kill them if they do not.",
        (
            _ALL,
            _TIME,
        ),
        stop,
    ),
    "restart": Command(
        "restart", _NAMES, "Stop containers and start them again; those that have ended are started.",
        (_ALL, _TIME), restart,
    ),
    "kill": Command(
        "kill", _NAMES, "Send containers a signal.",
        (_ALL, Option("signal", "text", "by name or number [KILL]", short="s", metavar="SIGNAL")), kill,
    ),
    "rm": Command(
        "rm", _NAMES, "Remove containers.",
        (_ALL, Option("force", "flag", "also those that run", short="f")), remove,
    ),
    "wait": Command("wait", _NAMES, "Wait for containers to end and print their exit statuses.", (), wait, least=1),
}  # fmt: skip
