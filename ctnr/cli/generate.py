"""`generate systemd NAME`: a unit for a container that exists, of the user's or of the system's manager."""

from __future__ import annotations

import posix as os

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.cli.output import write
from ctnr.cli.request import base_request
from ctnr.cli.tell import Teller
from ctnr.client.connect import default_store_dir
from ctnr.client.environ import absolute, lookup
from ctnr.client.errors import ClientError
from ctnr.client.session import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

RESTARTS = ("no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always")
STOP_SLACK_SECONDS = 60  # the manager's patience beyond ours
_STATUSES_OF_STOPPED = "0 143"  # SIGTERM is what was asked for


def systemd(service: Service, options: Parsed) -> int:
    found = ask(service, {**base_request("inspect"), "containers": options.args}, tell=Teller())[0]
    text = unit(found, options, service.store_dir)
    if not options.flag("files"):
        write(text)
        return 0
    path = f"{os.getcwd()}/{_unit_name(found, options)}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            write(text, descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ClientError(f"write {path}: {error.strerror}") from None
    write(f"{path}\n")
    return 0


def unit(found: Event, options: Parsed, store_dir: str) -> str:
    """systemd.service(5). The container stays in the foreground of the unit's main process, and ends with it.

    The service that the unit's client may have started is everybody's: KillMode=process leaves it alone.
    """
    ctnr = [_program()]
    if store_dir != default_store_dir():
        ctnr += ["--store-dir", store_dir]
    name = str(found["Name"])
    given = options.seconds("time")
    grace = float(found["Config"]["StopTimeout"] if given is None else given)
    root = os.geteuid() == 0
    elsewhere = lookup("CTNR_RUNTIME_DIR")
    after = ["network-online.target", *options.list("after")]
    lines = [
        f"# {_unit_name(found, options)}: written by ctnr generate systemd {name}",
        "[Unit]",
        f"Description=Container {name}",
        "Documentation=man:ctnr(1)",
        f"Wants={' '.join(['network-online.target', *options.list('wants')])}",
        f"After={' '.join(after)}",
        *(f"Requires={one}" for one in options.list("requires")),
        f"RequiresMountsFor={_quoted(store_dir)}",
        "",
        "[Service]",
        "Type=exec",
        *([f"Environment={_quoted(f'CTNR_RUNTIME_DIR={absolute(elsewhere)}')}"] if elsewhere else ()),
        f"ExecStart={_line([*ctnr, 'start', '--attach', name])}",
        f"ExecStop={_line([*ctnr, 'stop', '--ignore', '--time', f'{grace:g}', name])}",
        f"Restart={options.text('restart_policy') or 'on-failure'}",
        f"SuccessExitStatus={_STATUSES_OF_STOPPED}",
        f"TimeoutStopSec={grace + STOP_SLACK_SECONDS:g}",
        "KillMode=process",
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if root else 'default.target'}",
    ]
    return "\n".join(lines) + "\n"


def _unit_name(found: Event, options: Parsed) -> str:
    prefix = options.text("container_prefix")
    return f"{'ctnr' if prefix is None else prefix}-{found['Name']}.service".removeprefix("-")


def _program() -> str:
    """Where this command was found: a manager has a PATH of its own."""
    for directory in (lookup("PATH") or "").split(":"):
        if directory and os.access(f"{directory}/ctnr", os.X_OK):
            return f"{absolute(directory)}/ctnr"
    import ctnr

    return f"{next(iter(ctnr.__path__))}/bin/ctnr"


def _line(words: list[str]) -> str:
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """systemd.syntax(7) and systemd.unit(5): % and $ mean something in units."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return f'"{word}"' if " " in word or "'" in word or not word else word


COMMANDS = {
    "generate systemd": Command(
        "generate systemd", "CONTAINER", "Print a systemd unit that runs a container which exists.",
        (
            Option("after", "list", "one more unit to be started before", metavar="UNIT"),
            Option("container-prefix", "text", "how the unit's name begins [ctnr]", metavar="WORD"),
            Option("files", "flag", "write it to a file here, and print its path", short="f"),
            Option("requires", "list", "a unit without which it can't be", metavar="UNIT"),
            Option("restart-policy", "text", "when the manager starts it again", choices=RESTARTS),
            Option("time", "seconds", "how long stop waits [as the container says]", short="t", metavar="TIME"),
            Option("wants", "list", "one more unit to be started with it", metavar="UNIT"),
        ),
        systemd, least=1, most=1,
    ),
}  # fmt: skip
