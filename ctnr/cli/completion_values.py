"""Values that Tab offers behind an option: fixed ones, those of filters, and names that the service knows."""

from __future__ import annotations

from ctnr.client.environ import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ctnr.cli.grammar import Command, Option

    Candidates = Iterable[tuple[str, str]]  # (word, what it is)
    Sources = Mapping[str, Callable[[], Candidates]]  # by CONTAINER, IMAGE, NETWORK, VOLUME, BUNDLE

FILES = ":files"  # the one line that means: the shell completes names of files

_MACHINES = ("amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64")
_CAPABILITIES = (
    "ALL", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
FIXED: dict[str, tuple[str, ...]] = {
    "arch": _MACHINES,
    "cap-add": _CAPABILITIES,
    "cap-drop": _CAPABILITIES,
    "format": ("json",),
    "health-cmd": ("none",),
    "image-policy": ("insecure", FILES),
    "ipc": ("private", "none", "host"),
    "log-driver": ("k8s-file", "json-file", "local", "journald", "none"),
    "log-opt": ("max-size=", "max-file="),
    "mount": ("type=bind,source=", "type=volume,source=", "type=tmpfs,target="),
    "pid": ("private",),
    "platform": tuple(f"linux/{machine}" for machine in _MACHINES),
    "ready": ("health", "notify", "log:", "port:"),
    "restart": ("no", "on-failure", "on-failure:", "always", "unless-stopped"),
    "seccomp": ("unconfined", FILES),
    "security-opt": ("seccomp=", "seccomp=unconfined", "no-new-privileges", "label=disable", "apparmor=unconfined"),
    "tail": ("all",),
    "userns": ("host",),
    "uts": ("private", "host"),
}  # fmt: skip
BUILT_IN_NETWORKS = ("bridge", "default", "pasta", "slirp")  # known also where no service runs
# command → module of ctnr.cli and the table in it
_FILTERS = {
    **dict.fromkeys(("ps", "start", "stop", "restart", "kill", "rm", "pause", "unpause"), ("choosing", "FILTERS")),
    "events": ("events", "FILTERS"), "container prune": ("life", "PRUNE_FILTERS"),
    "volume ls": ("volumes", "FILTERS"), "volume prune": ("volumes", "PRUNE_FILTERS"),
    "images": ("image_table", "FILTERS"), "image list": ("image_table", "FILTERS"),
    "image gc": ("images", "PRUNE_FILTERS"), "system prune": ("disk", "FILTERS"),
}  # fmt: skip
_NAMED_BY = {
    "name": "CONTAINER", "id": "CONTAINER", "container": "CONTAINER", "before": "CONTAINER", "since": "CONTAINER",
    "image": "IMAGE", "ancestor": "IMAGE", "network": "NETWORK", "volume": "VOLUME",
}  # fmt: skip


def values_of(command: Command | None, option: Option, word: str, sources: Sources) -> Candidates:
    """What may stand behind an option. `word` is its beginning: what is not asked for by it need not be found."""
    if option.choices:
        return [(choice, "") for choice in option.choices]
    name = option.name
    if name in FIXED:
        return [(one, "") for one in FIXED[name]]
    if name == "filter" and command is not None:
        return _filters(command, word, sources)
    if name == "network":
        return _networks(word, sources)
    if name == "depends-on":
        return [
            (f"{one}{end}", about)
            for one, about in sources["CONTAINER"]()
            for end in ("", ":ready", ":healthy")
        ]
    if name == "bundle":
        return sources["BUNDLE"]()
    if name == "volume":
        return [(FILES, ""), *((f"{one}:", about) for one, about in sources["VOLUME"]())]
    if name in ("signal", "stop-signal"):
        from signal import Signals

        return [(one.name.removeprefix("SIG"), "") for one in Signals]
    if name == "sort":
        from ctnr.cli.ps import SORT_KEYS

        return [(one, "") for one in SORT_KEYS]
    if name == "env":
        return [(one, "") for one in names()]
    if option.metavar in ("FILE", "DIR") or "SRC" in option.metavar:
        return [(FILES, "")]
    return ()


def _filters(command: Command, word: str, sources: Sources) -> Candidates:
    """``KEY=``, and behind it the values that there are."""
    module, table = _FILTERS[command.name]
    known: Mapping[str, tuple[str, ...]] = getattr(
        __import__(f"ctnr.cli.{module}", None, None, [table]), table
    )
    key, equals, _ = word.partition("=")
    if not equals:
        return [(f"{one}=", "") for one in known]
    values = known.get(key, ())
    if command.name == "events" and key in ("event", "status"):
        from ctnr.cli.events import ACTIONS

        values = ACTIONS
    if values:
        return [(f"{key}={value}", "") for value in values]
    source = _NAMED_BY.get(key)
    if key == "name" and command.name.startswith("volume "):
        source = "VOLUME"
    elif command.name in ("images", "image list"):
        source = "IMAGE" if key in ("reference", "before", "since") else None
    found = sources[source]() if source is not None and key in known else ()
    return [(f"{key}={one}", about) for one, about in found]


def _networks(word: str, sources: Sources) -> Candidates:
    fixed = {"host": "the host's network", "none": "no network", **dict.fromkeys(BUILT_IN_NETWORKS, "")}
    if not word.startswith("c"):
        return {**fixed, **dict(sources["NETWORK"]())}.items()
    containers = {f"container:{one}": about for one, about in sources["CONTAINER"]()}
    return {**fixed, "container:": "", **dict(sources["NETWORK"]()), **containers}.items()
