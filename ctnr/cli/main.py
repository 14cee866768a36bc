"""`ctnr`: finds the command, runs it, and is the one place that prints errors and picks the exit status.

Exit status: the program's own; 125 for errors of ours, 126 and 127 as the shell does, 128+n for signal n.
"""

from __future__ import annotations

import posix as os
import sys

from ctnr.client.errors import ClientError, Interrupted, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctnr.cli.grammar import Command, Option, Parsed

BROKEN_PIPE = 128 + 13
FAILED = 125

# command → (module of ctnr.cli, what `ctnr help` says). Modules are imported when their command is called.
COMMANDS = {
    "run": ("run", "run a program in a new container"),
    "create": ("run", "make a container to be started later"),
    "exec": ("exec", "run one more program in a running container"),
    "ps": ("ps", "list containers"),
    "events": ("events", "show what happens to containers as it happens"),
    "attach": ("life", "connect the terminal to a container that runs"),
    "logs": ("logs", "show what a background container has written"),
    "inspect": ("looking", "show all that is known about containers"),
    "start": ("life", "start containers that were made or have ended"),
    "stop": ("life", "ask containers to end, and kill them if they do not"),
    "restart": ("life", "stop containers and start them again"),
    "kill": ("life", "send containers a signal"),
    "stats": ("watching", "show what containers use, again and again"),
    "top": ("watching", "show the processes of a container"),
    "pause": ("limits", "freeze all processes of containers"),
    "unpause": ("limits", "let the processes of paused containers go on"),
    "update": ("limits", "change limits and restart policies of containers"),
    "cp": ("files", "copy files out of containers and into them"),
    "diff": ("files", "show what a container has changed in its image's files"),
    "wait": ("life", "wait for containers to end and print their exit statuses"),
    "healthcheck run": ("life", "run a container's health check once, now"),
    "rm": ("life", "remove containers"),
    "rename": ("life", "give a container another name"),
    "container prune": ("life", "remove all containers that do not run"),
    "pull": ("images", "fetch images"),
    "images": ("image_table", "list images"),
    "rmi": ("images", "remove images"),
    "image list": ("image_table", "list images"),
    "image import": ("images", "make an image of a root file system"),
    "image export": ("images", "write an image to a directory or an archive"),
    "image tag": ("images", "give an image one more name"),
    "image untag": ("images", "take names away"),
    "image rm": ("images", "remove images"),
    "image gc": ("images", "drop images without a name, and what no image needs"),
    "image fsck": ("images", "look whether the image store is whole, and mend it"),
    "image cat-config": ("images", "print an image's configuration"),
    "image inspect": ("images", "show the configurations of images"),
    "bundle list": ("bundles", "list bundles"),
    "bundle create": ("bundles", "make a bundle without running it"),
    "bundle run": ("bundles", "run a bundle again"),
    "bundle delete": ("bundles", "delete bundles with all that was written in them"),
    "bundle gc": ("bundles", "delete bundles that have no name and no container"),
    "port": ("ports", "show the published ports of a container"),
    "port add": ("ports", "publish more ports of a container that runs"),
    "port rm": ("ports", "stop publishing ports of a container that runs"),
    "net ls": ("networks", "list networks"),
    "net inspect": ("networks", "show all that is known about networks"),
    "net create": ("networks", "make a network"),
    "net rm": ("networks", "remove networks"),
    "net prune": ("networks", "remove the networks that no container names"),
    "net check": ("networks", "look whether networks work"),
    "net gc": ("networks", "release what gone containers have left"),
    "net show": ("networks", "draw networks and what is on them"),
    "net connect": ("networks", "give a container that runs one more network"),
    "net disconnect": ("networks", "take a network from a container that runs"),
    "volume ls": ("volumes", "list volumes"),
    "volume inspect": ("volumes", "show all that is known about volumes"),
    "volume create": ("volumes", "make a volume"),
    "volume rm": ("volumes", "remove volumes"),
    "volume prune": ("volumes", "remove the volumes that nobody has"),
    "generate systemd": ("generate", "print a systemd unit that runs a container"),
    "completion": ("completion", "print the completion script of a shell"),
    "info": ("system", "show the host: what is missing, and what cures it"),
    "version": ("system", "show the version"),
    "system df": ("disk", "show what takes how much of the disk"),
    "system prune": ("disk", "remove what nobody uses"),
    "supervisor status": ("system", "show the service of this user"),
    "supervisor start": ("system", "start the service of this user, and what is to run with it"),
    "supervisor stop": ("system", "end the service of this user"),
}
ALIASES = {
    "image ls": "image list", "image pull": "pull", "image remove": "image rm", "image delete": "image rm",
    "image prune": "image gc", "bundle ls": "bundle list", "bundle rm": "bundle delete", "bundle prune": "bundle gc",
    "container ls": "ps", "container list": "ps", "container ps": "ps", "list": "ps", "tag": "image tag",
    "untag": "image untag", "net list": "net ls", "net remove": "net rm", "port remove": "port rm",
    "system info": "info",
    **{f"network {word}": f"net {word}" for word in
       ("ls", "inspect", "create", "rm", "prune", "check", "show", "connect", "disconnect")},
    "network list": "net ls", "network remove": "net rm", "volume list": "volume ls", "volume remove": "volume rm",
}  # fmt: skip
GROUPS = (
    "generate",
    "healthcheck",
    "image",
    "bundle",
    "net",
    "network",
    "volume",
    "system",
    "supervisor",
    "container",
)


def entry() -> None:
    """The process's main: never returns. Leaving by _exit spares the interpreter's own clean-up, 2 ms."""
    status = FAILED
    try:
        _open_standard_descriptors()
        status = main(sys.argv[1:])
    finally:
        os._exit(status)


def main(argv: Sequence[str]) -> int:
    """Exit status of one command line."""
    settings = Settings()
    try:
        return _run(settings, list(argv))
    except ClientError as error:
        _print_error(error.message, error.cure)
        if settings.debug and error.remote_traceback:
            _print(error.remote_traceback)
        elif settings.debug:
            _print_traceback(error)
        return error.exit_status
    except Interrupted as error:
        return 128 + error.number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        _print_error(
            f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error), None
        )
        if settings.debug:
            _print_traceback(error)
        return FAILED
    except Exception as error:
        known = hasattr(error, "cure")  # of the service that runs in this process
        message = str(error) if known else f"internal error: {type(error).__name__}: {error}"
        _print_error(message, getattr(error, "cure", None) if known else "ctnr --debug … shows where")
        if settings.debug:
            _print_traceback(error)
        return int(getattr(error, "exit_status", FAILED))


class Settings:
    """What stands before the command."""

    def __init__(self) -> None:
        self.debug = False
        self.in_process = False
        self.store_dir: str | None = None
        self.log_level: str | None = None


def find_command(argv: list[str]) -> tuple[Command, list[str]]:
    """The command that the words name, and what follows it. Raises: UsageError."""
    name = " ".join(argv[:2])
    if name not in COMMANDS and name not in ALIASES:
        if argv[0] == "container" and len(argv) > 1 and argv[1] in COMMANDS:
            argv = argv[1:]
        name = argv[0]
    if name not in COMMANDS and name not in ALIASES:
        raise _unknown(argv)
    rest = argv[len(name.split(" ")) :]
    name = ALIASES.get(name, name)
    module = __import__("ctnr.cli." + COMMANDS[name][0], None, None, ["COMMANDS"])
    command: Command = module.COMMANDS[name]
    return command, rest


def _run(settings: Settings, argv: list[str]) -> int:
    if argv and argv[0][:1] == "-":
        globals_ = _parse_globals(argv)
        if globals_ is None:
            return _help([])
        argv = ["version"] if globals_.flag("version") else globals_.args
        settings.debug = globals_.flag("debug")
        settings.in_process = globals_.flag("no_service")
        settings.store_dir = globals_.text("store_dir")
        settings.log_level = globals_.text("log_level") or ("debug" if settings.debug else None)
        if globals_.flag("quiet"):
            from ctnr.cli.tell import Teller

            Teller.all_quiet = True
    if not argv or argv[0] == "help":
        return _help(argv[1:])
    if argv[0] in GROUPS and (len(argv) == 1 or argv[1] in ("--help", "-h", "help")):
        return _help(argv[:1])
    command, rest = find_command(argv)
    from ctnr.cli.grammar import parse

    options = parse(command, rest)
    if options is None:
        return _help(argv[:1], command)
    from ctnr.client.connect import Service

    service = Service(settings.store_dir, in_process=settings.in_process, log_level=settings.log_level)
    try:
        return command.run(service, options)
    finally:
        service.close()


def _parse_globals(argv: list[str]) -> Parsed | None:
    from ctnr.cli.grammar import Command, parse

    def nothing(service: object, options: object) -> int:
        return 0

    return parse(Command("", "COMMAND", "", global_options(), nothing, stops=True), argv)


def global_options() -> tuple[Option, ...]:
    from ctnr.cli.grammar import Option

    return (
        Option("debug", "flag", "show where errors come from"),
        Option(
            "log-level", "text", "what a service that is started writes to its log",
            choices=("debug", "info", "warning", "error"),
        ),
        Option("no-service", "flag", "run the supervisor in this process, for this command only"),
        Option("quiet", "flag", "tell nothing but errors and warnings", short="q"),
        Option("store-dir", "text", "images and bundles [~/.ctnr]", metavar="DIR"),
        Option("version", "flag", "show the version", short="v"),
    )  # fmt: skip


def _help(words: list[str], command: Command | None = None) -> int:
    from ctnr.cli.help import command_help, overview
    from ctnr.cli.output import write

    if command is None and words and words[0] not in GROUPS:
        command, _ = find_command(words)
    if command is None and len(words) > 1:
        command, _ = find_command(words)
    if command is not None:
        write(command_help(command))
        return 0
    titles = {
        "": "Commands", "image": "Images", "bundle": "Bundles", "port": "Ports", "net": "Networks",
        "volume": "Volumes", "system": "Disk", "supervisor": "Service",
        "healthcheck": "Health", "generate": "Units", "container": "Containers",
    }  # fmt: skip
    words = ["net" if word == "network" else word for word in words]
    grouped: dict[str, list[tuple[str, str]]] = {}
    for name, (_, summary) in COMMANDS.items():
        group, blank, _ = name.partition(" ")
        if not words or group == words[0] or words[0] == "container":
            grouped.setdefault(group if blank else "", []).append((name, summary))
    write(overview([(titles[group], commands) for group, commands in grouped.items()], global_options()))
    return 0


def _unknown(argv: list[str]) -> UsageError:
    from ctnr.cli.elsewhere import CURES
    from ctnr.cli.grammar import suggest

    known = [*COMMANDS, *ALIASES]
    for words in (" ".join(argv[:2]), argv[0]):
        if words in CURES:
            return UsageError(f"{words} is not known here", cure=CURES[words])
    if argv[0] not in GROUPS:
        near = suggest(argv[0], known)
        cure = f"did you mean {near}?" if near else "see ctnr help"
        return UsageError(f"unknown command {argv[0]}", cure=cure)
    group, word = argv[:2]
    # by the second word alone: with the first one all of a group are near to each other
    last = suggest(word, [name.partition(" ")[2] for name in known if name.startswith(f"{group} ")])
    cure = f"did you mean {group} {last}?" if last else f"see ctnr help {group}"
    return UsageError(f"unknown command {group} {word}", cure=cure)


def _open_standard_descriptors() -> None:
    """What was closed becomes /dev/null, or the next socket would take its number and be handed to a container."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)


def _print_error(message: str, cure: str | None) -> None:
    """One line. The terminal's colours are left to those who have asked for none of them."""
    from ctnr.cli.output import paint

    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    if cure:
        text += "; " + " ".join(cure.splitlines())
    _print(paint("ctnr:", "red", 2) + " " + text)


def _print_traceback(error: BaseException) -> None:
    import traceback

    _print("".join(traceback.format_exception(error)))


def _print(text: str) -> None:
    from ctnr.cli.output import write

    write(text.rstrip("\n") + "\n", 2)
