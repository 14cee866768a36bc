"""The host and the service: info, version, `supervisor status|start|stop`."""

from __future__ import annotations

import time

from ctnr import __version__
from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import describe, human_time, paint, write_value
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.errors import UsageError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

NOT_RUNNING = 3  # what systemctl status says, too


def info(service: Service, options: Parsed) -> int:
    value = ask(service, base_request("info"), tell=Teller())
    write_value(value, options.text("format"), _describe_host)
    return 0


def _describe_host(value: Event) -> str:
    """One line per check, and what cures those that failed; then the facts."""
    width = max([len(check["name"]) for check in value["checks"]], default=0)
    lines = []
    for check in value["checks"]:
        mark = paint("ok", "green", 1) + "  " if check["ok"] else paint("no", "red", 1) + "  "
        lines.append(f"{mark}{check['name'].ljust(width)}  {check['detail']}\n")
        if not check["ok"] and check.get("cure"):
            lines.append(f"{' ' * (width + 6)}cure: {check['cure']}\n")
    return "".join(lines) + "\n" + describe(value["facts"])


def version(service: Service, options: Parsed) -> int:
    write_value({"client": __version__}, options.text("format"), lambda value: f"ctnr {value['client']}\n")
    return 0


def status(service: Service, options: Parsed) -> int:
    """Asks a service that is there; starts none."""
    value = ask(service, base_request("service-status"), tell=Teller(), start=False)
    form = options.text("format")
    if value is None:
        write_value({"running": False}, form, lambda _: "service: not running\n")
        return NOT_RUNNING
    write_value({"running": True, **value}, form, _describe_service)
    return 0


def _describe_service(value: Event) -> str:
    since = human_time(time.time() - value["started"])
    return describe({**value, "started": f"{since} ago"})


def start(service: Service, options: Parsed) -> int:
    """Starts one unless it runs, and waits for the containers that are to run whenever it does."""
    if service.in_process:
        raise UsageError(
            "--no-service supervisor start: it would end at once", cure="leave out --no-service"
        )
    ask(service, base_request("service-start"), tell=Teller())
    return 0


def stop(service: Service, options: Parsed) -> int:
    """Fine if none runs."""
    request = {**base_request("service-stop"), "force": options.flag("force")}
    ask(service, request, tell=Teller(), start=False)
    _await_end(service)
    return 0


def _await_end(service: Service) -> None:
    """Until the service has let go of its lock: nothing of it is left then."""
    import fcntl
    import posix as os

    try:
        lock = os.open(service.runtime_dir + "/service.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(lock)


_FORMAT = (Option("format", "text", "json, or a template", short="f", metavar="FORMAT"),)

COMMANDS = {
    "info": Command(
        "info", "", "Show the host: what is there, what is missing, and what cures it.", _FORMAT, info, most=0
    ),
    "version": Command("version", "", "Show the version.", _FORMAT, version, most=0),
    "supervisor status": Command(
        "supervisor status", "", f"Show the service of this user; exit status {NOT_RUNNING} if none runs.", _FORMAT,
        status, most=0,
    ),
    "supervisor start": Command(
        "supervisor start", "",
        "Start the service of this user unless it runs, and the containers with --restart=always or unless-stopped "
        "that nobody has stopped. Every command starts it, too; this is for after a reboot.",
        (), start, most=0,
    ),
    "supervisor stop": Command(
        "supervisor stop", "", "End the service of this user; the next command starts it again.",
        (Option("force", "flag", "also if containers run: they are stopped", short="f"),), stop, most=0,
    ),
}  # fmt: skip
