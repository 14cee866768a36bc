"""run and create: the option table, and the way from it to a container in the foreground or background."""

from __future__ import annotations

import posix as os

from ctnr.cli.grammar import Command, Option, Parsed
from ctnr.client.errors import ClientError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

QUIET = Option("quiet", "flag", "tell nothing but errors", short="q")
IMAGE_POLICY = Option(
    "image-policy", "text", "policy.json that decides which images are trusted, or insecure", metavar="FILE"
)
PLATFORM = Option("platform", "text", "choose of a multi-platform image", metavar="OS/ARCH[/VARIANT]")
UNASKED = Option("force", "flag", "without a question (none is asked)", short="f")  # as scripts write it
ARCH = Option("arch", "text", "the same, for Linux", metavar="ARCH")
PULL = Option("pull", "text", "when to fetch the image", choices=("missing", "always", "never", "newer"))
DETACH_KEYS = Option(
    "detach-keys", "text", 'keys that detach from it, "" for none [ctrl-p,ctrl-q]', metavar="KEYS"
)
SIG_PROXY = Option("sig-proxy", "flag", "pass signals on to the program [true]")

RESTART = Option(
    "restart",
    "text",
    "start it again when it ends: no, on-failure[:N], always, unless-stopped",
    metavar="POLICY",
)
LIMIT_OPTIONS = (
    Option(
        "cpu-period",
        "number",
        "length of the period that --cpu-quota is of [100000]",
        metavar="MICROSECONDS",
    ),
    Option("cpu-quota", "number", "processor time in each period", metavar="MICROSECONDS"),
    Option("cpu-shares", "number", "weight where processors are contended [1024]", short="c", metavar="N"),
    Option("cpus", "decimal", "how many processors' time it may use", metavar="N"),
    Option("cpuset-cpus", "text", "processors that it may use", metavar="0-2,4"),
    Option("cpuset-mems", "text", "memory nodes that it may use", metavar="0,1"),
    Option("memory", "limit", "most memory, or -1", short="m", metavar="SIZE"),
    Option("memory-reservation", "limit", "memory that is left to it when memory is short", metavar="SIZE"),
    Option(
        "memory-swap", "limit", "most memory and swap together, or -1 [twice the memory]", metavar="SIZE"
    ),
    Option("pids-limit", "number", "most processes and threads, or -1", metavar="N"),
)
CREATE_OPTIONS = (
    *LIMIT_OPTIONS,
    Option("add-host", "list", "a line for /etc/hosts", metavar="NAME:IP"),
    Option("annotation", "list", "add an OCI annotation", metavar="KEY=VALUE"),
    Option(
        "bundle", "text", "keep the file system under this name and use it again", short="b", metavar="NAME"
    ),
    Option("cap-add", "list", "add a capability, or ALL", metavar="CAP"),
    Option("cap-drop", "list", "drop a capability, or ALL", metavar="CAP"),
    Option("cidfile", "text", "write the container's id to a new file", metavar="FILE"),
    Option(
        "depends-on",
        "list",
        "start that one first, and wait until it is ready or healthy",
        metavar="NAME[:ready|healthy]",
        aliases=("requires",),
    ),
    Option("device", "list", "add a device of the host", metavar="SRC[:DST[:rwm]]"),
    Option("dns", "list", "name server, or none for the image's resolv.conf", metavar="IP"),
    Option(
        "dns-option", "list", "option for resolv.conf", metavar="OPTION", aliases=("dns-opt", "dns-opts")
    ),
    Option("dns-search", "list", "domain to search in", metavar="DOMAIN"),
    Option("entrypoint", "text", 'program to start instead of the image\'s, "" for none', metavar="PROGRAM"),
    Option(
        "env",
        "list",
        "set a variable, or pass on the caller's (NAME, NAME*)",
        short="e",
        metavar="NAME[=VALUE]",
    ),
    Option("env-file", "list", "read variables from a file", metavar="FILE"),
    Option("env-host", "flag", "pass on all of the caller's variables"),
    Option("expose", "list", "one more port for --publish-all", metavar="PORT[/udp]"),
    Option("group-add", "list", "one more group for the user", metavar="GROUP"),
    Option("health-cmd", "text", "command that tells whether it is healthy, or none", metavar="COMMAND"),
    Option("health-interval", "seconds", "time between two checks [30s]", metavar="TIME"),
    Option(
        "health-on-failure",
        "text",
        "what is done when it has become unhealthy [none]",
        choices=("none", "kill", "restart", "stop"),
    ),
    Option("health-retries", "number", "so many failures in a row make it unhealthy [3]", metavar="N"),
    Option(
        "health-start-interval",
        "seconds",
        "time between two checks in the start period [5s]",
        metavar="TIME",
    ),
    Option("health-start-period", "seconds", "time to start in: failures do not count [0s]", metavar="TIME"),
    Option(
        "health-timeout",
        "seconds",
        "a check that takes longer is killed, and has failed [30s]",
        metavar="TIME",
    ),
    Option("hostname", "text", "host name inside", short="h", metavar="NAME"),
    Option("hosts-entry", "list", "a line for /etc/hosts", metavar="NAME=IP"),
    Option("http-proxy", "flag", "pass on the caller's proxy variables [true]"),
    IMAGE_POLICY,
    Option("init", "flag", "run a small init as process 1 that reaps and passes signals on"),
    Option("interactive", "flag", "connect standard input", short="i"),
    Option("ip", "text", "address on its one network", metavar="ADDRESS"),
    Option(
        "ipc", "text", "IPC objects and /dev/shm: private, none, or the host's", metavar="private|none|host"
    ),
    Option("label", "list", "add a label", short="l", metavar="KEY=VALUE"),
    Option("label-file", "list", "read labels from a file, one a line", metavar="FILE"),
    Option("log-driver", "text", "where background output goes: k8s-file, journald, none", metavar="DRIVER"),
    Option(
        "log-opt",
        "list",
        "max-size=SIZE of a log file, max-file=N of them",
        metavar="KEY=VALUE",
    ),
    Option("mac-address", "text", "MAC address on its one network", metavar="MAC"),
    Option("mount", "list", "mount something: type=bind|volume|tmpfs,source=…,target=…", metavar="SPEC"),
    Option("name", "text", "name of the container", metavar="NAME"),
    Option(
        "network",
        "list",
        "networks in order (cni0, cni1, …), or host, none, container:NAME, ns:PATH",
        metavar="NAME[:OPTION=VALUE][,…]",
        aliases=("net",),
    ),
    Option("network-alias", "list", "one more name on its networks", metavar="NAME", aliases=("net-alias",)),
    Option("no-healthcheck", "flag", "without the image's health check"),
    Option("no-new-privileges", "flag", "setuid programs inside gain nothing"),
    Option("oom-score-adj", "number", "preference of the kernel's out-of-memory killer", metavar="N"),
    Option("pid", "text", "process namespace: private", metavar="private"),
    PLATFORM,
    ARCH,
    Option("privileged", "flag", "lift the limits on capabilities, system calls, devices and /proc"),
    Option("publish", "list", "open a port on the host", short="p", metavar="[[IP:]HOST:]PORT[/udp]"),
    Option(
        "publish-all",
        "flag",
        "open all ports that the image or --expose names, on random ports of the host",
        short="P",
    ),
    PULL,
    QUIET,
    Option(
        "ready",
        "text",
        "when it is ready: run -d waits, and so does who depends on it",
        metavar="health|notify|log:REGEX|port:N",
    ),
    Option("read-only", "flag", "make the root file system read-only", aliases=("readonly",)),
    Option("replace", "flag", "remove the container that has the name"),
    RESTART,
    Option("rm", "flag", "remove the container when it ends"),
    Option("rootless", "flag", "in a user namespace of its own, also when started by root"),
    Option("seccomp", "text", "profile of allowed system calls, or unconfined", metavar="FILE"),
    Option("security-opt", "list", "seccomp=FILE|unconfined or no-new-privileges", metavar="OPTION"),
    Option("shm-size", "size", "size of /dev/shm [64m]"),
    Option("stop-signal", "text", "what stop sends first", metavar="SIGNAL"),
    Option("stop-timeout", "seconds", "how long stop waits before it kills [10s]", metavar="TIME"),
    Option("sysctl", "list", "set a kernel parameter of the container's namespaces", metavar="NAME=VALUE"),
    Option("tmpfs", "list", "mount an empty file system in memory", metavar="DST[:OPTIONS]"),
    Option("tty", "flag", "give it a terminal", short="t"),
    Option("ulimit", "list", "set a resource limit", metavar="NAME=SOFT[:HARD]"),
    Option("update", "flag", "make the bundle anew if the image or the options have changed"),
    Option(
        "userns",
        "text",
        "user namespace: host, which is that of all containers of this user",
        metavar="host",
    ),
    Option("uts", "text", "host name: private, or the host's", metavar="private|host"),
    Option("user", "text", "user and group inside", short="u", metavar="USER[:GROUP]"),
    Option(
        "volume",
        "list",
        "bind a path of the host, or a named volume",
        short="v",
        metavar="[SRC:]DST[:OPTIONS]",
    ),
    Option("workdir", "text", "directory to start in", short="w", metavar="DIR", aliases=("cwd",)),
)
RUN_OPTIONS = (
    *CREATE_OPTIONS,
    Option("detach", "flag", "run in the background and print the id", short="d"),
    DETACH_KEYS,
    Option(
        "pidfile",
        "text",
        "write the number of its first process, as the host counts, to a file",
        metavar="FILE",
    ),
    SIG_PROXY,
)


def run(service: Service, options: Parsed) -> int:
    """`ctnr run [OPTIONS] IMAGE [COMMAND …]`; without an image the bundle that -b names is run again."""
    if "---" in options.args:
        return _run_many(service, options)
    if not options.args and not options.given("bundle"):
        raise UsageError(
            "run needs an image", cure="ctnr run IMAGE [COMMAND …], or -b NAME for an existing bundle"
        )
    return run_image(service, options, options.args[0] if options.args else None, options.args[1:])


def _run_many(service: Service, options: Parsed) -> int:
    """`run [OPTIONS] IMAGE [COMMAND …] --- [OPTIONS] IMAGE [COMMAND …]`"""
    from ctnr.cli import request as build
    from ctnr.cli.grammar import parse
    from ctnr.cli.group import run_group, split_group

    if service.in_process:
        raise UsageError("--no-service run … ---: one container at a time", cure="leave out --no-service")
    first, *others = split_group(options.args)
    parts = [options]
    options.args[:] = first
    for words in others:
        part = parse(COMMANDS["run"], words)
        if part is None or not (part.args or part.given("bundle")):
            raise UsageError(
                "run … ---: an image is missing", cure="ctnr run IMAGE [COMMAND …] --- IMAGE [COMMAND …]"
            )
        parts.append(part)
    requests = []
    started: list[Callable[[Event], None]] = []
    for part in parts:
        requests.append(build.run_request(part, part.args[0] if part.args else None, part.args[1:]))
        path = _reserve_id_file(part)

        def on_start(event: Event, path: str | None = path) -> None:
            if path is not None:
                _write_id_file(path, event["container"])

        started.append(on_start)
    return run_group(service, parts, requests, started)


def run_image(service: Service, options: Parsed, image: str | None, args: list[str]) -> int:
    from ctnr.cli import request as build

    if service.in_process and options.flag("detach"):
        raise UsageError(
            "--no-service run -d: nothing would keep it running", cure="leave out one of the two"
        )
    request = build.run_request(options, image, args)
    quiet = options.flag("quiet")
    request["progress"] = build.wants_progress(quiet=quiet)
    id_file = _reserve_id_file(options)
    if options.flag("detach"):
        if options.flag("tty"):
            build.add_terminal(request)
        return _in_background(service, request, quiet, id_file, options)
    from ctnr.cli.tell import Teller
    from ctnr.client.session import run_foreground

    tty = options.flag("tty")
    keys = "" if service.in_process else options.text("detach_keys")
    if tty:
        build.add_terminal(request)
        check_detach_keys(keys)
    teller = Teller(quiet=quiet)

    def started(event: Event) -> None:
        teller.finish()
        if id_file is not None:
            _write_id_file(id_file, event["container"])
        _write_pid_file(service, options, event["container"])

    def detached(event: Event) -> None:
        teller.note(f"detached; ctnr attach {event.get('name')} comes back")

    try:
        status = run_foreground(
            service, request, tell=teller, started=started, detached=detached, tty=tty,
            interactive=options.flag("interactive"), detach_keys="ctrl-p,ctrl-q" if keys is None else keys,
            forward_signals=options.flag("sig_proxy", default=True),
        )  # fmt: skip
    finally:
        teller.finish()
        if id_file is not None and options.flag("rm"):
            _remove(id_file)
    return status


def create(service: Service, options: Parsed) -> int:
    """As run, but nothing is started."""
    from ctnr.cli import request as build

    request = build.run_request(options, options.args[0], options.args[1:])
    request["start"] = False
    quiet = options.flag("quiet")
    request["progress"] = build.wants_progress(quiet=quiet)
    return _in_background(service, request, quiet, _reserve_id_file(options))


def check_detach_keys(keys: str | None) -> None:
    """Raises: ClientError, before anything has been started."""
    if keys is not None:
        from ctnr.client.tty import DetachKeys

        DetachKeys(keys)


def _in_background(
    service: Service, request: Event, quiet: bool, id_file: str | None, options: Parsed | None = None
) -> int:
    from ctnr.cli.output import write
    from ctnr.cli.tell import Teller
    from ctnr.client.session import ask

    teller = Teller(quiet=quiet)
    try:
        value = ask(service, request, tell=teller)
    finally:
        teller.finish()
    if id_file is not None:
        _write_id_file(id_file, value["container"])
    if options is not None:
        _write_pid_file(service, options, value["container"])
    write(f"{value['container']}\n")
    return 0


def _reserve_id_file(options: Parsed) -> str | None:
    path = options.text("cidfile")
    if path is not None and os.access(path, os.F_OK):
        raise ClientError(
            f"--cidfile={path}: exists", cure="remove it if its container is gone, or choose another"
        )
    return path


def _write_id_file(path: str, container: str) -> None:
    """Whoever waits for the file sees it whole; somebody else's is not replaced."""
    unfinished = f"{path}.{os.getpid()}"
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, container.encode())
            os.link(unfinished, path)
        finally:
            os.close(descriptor)
            os.unlink(unfinished)
    except OSError as error:
        raise ClientError(f"write {path}: {error.strerror}") from None


def _write_pid_file(service: Service, options: Parsed, container: str) -> None:
    """As podman's: replaced if it exists, and left behind. Nothing for a program that has ended already."""
    path = options.text("pidfile")
    if path is None:
        return
    from ctnr.cli.request import base_request
    from ctnr.client.session import ask

    found = ask(service, {**base_request("inspect"), "containers": [container]})
    pid = found[0]["State"]["Pid"]
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, f"{pid}".encode() if pid else b"")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ClientError(f"write {path}: {error.strerror}") from None


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


COMMANDS = {
    "run": Command(
        "run", "IMAGE [COMMAND …] [--- …]",
        "Run a program in a new container. After --- comes one more with its own options: they end together.",
        RUN_OPTIONS, run, stops=True,
    ),
    "create": Command(
        "create", "IMAGE [COMMAND …]", "Make a container to be started later.", CREATE_OPTIONS, create, least=1,
        stops=True,
    ),
}  # fmt: skip
