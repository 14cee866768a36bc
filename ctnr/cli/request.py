"""Parsed options → the plain dict that `ctnr.requests.Run` (or ExecIn) is on the other side.

What only the caller's process knows is settled here: its directory (paths become absolute) and its environment.
"""

from __future__ import annotations

import posix as os

from ctnr import __version__
from ctnr.cli.grammar import Parsed, parse_size
from ctnr.client.environ import absolute, lookup, names
from ctnr.client.errors import ClientError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.frames import Event

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")
STEERING = (
    "NETCONFPATH", "CNI_PATH", "CNI_ARGS", "CAP_ARGS", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME", "CONTAINERS_REGISTRIES_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR", *PROXIES,
    *[name.upper() for name in PROXIES],
)  # fmt: skip

# option → field, where nothing happens to the value on its way
_PLAIN_TEXT = (
    "name", "bundle", "workdir", "user", "hostname", "stop_signal", "log_driver", "ipc", "pid", "uts", "userns", "pull",
    "ip", "mac_address:mac", "restart", "ready",
)  # fmt: skip
_PLAIN_LIST = (
    "publish", "expose", "tmpfs", "group_add", "dns", "dns_search", "cap_add", "cap_drop", "ulimit:ulimits",
    "sysctl:sysctls",
    "annotation:annotations", "dns_option:dns_options", "network_alias:aliases", "depends_on",
)  # fmt: skip
_PLAIN_FLAG = (
    "update",
    "publish_all",
    "detach",
    "interactive",
    "tty",
    "rm:remove",
    "privileged",
    "rootless",
    "read_only",
    "replace",
    "init",
)


def base_request(op: str) -> Event:
    return {"op": op, "version": __version__}


def run_request(options: Parsed, image: str | None, args: list[str]) -> Event:
    """Raises: UsageError, ClientError for a file that can't be read."""
    request = base_request("run")
    if image is not None:
        request["image"] = image
    request["args"] = args
    for flag in _PLAIN_FLAG:
        key, _, field = flag.partition(":")
        if options.given(key):
            request[field or key] = options.flag(key)
    for entry in _PLAIN_TEXT:
        key, _, field = entry.partition(":")
        if options.given(key):
            request[field or key] = options.text(key)
    for entry in _PLAIN_LIST:
        key, _, field = entry.partition(":")
        if options.given(key):
            request[field or key] = options.list(key)
    if "bundle" in request:
        request.setdefault("name", request["bundle"])
    if options.given("network"):
        request["networks"] = [name for text in options.list("network") for name in split_networks(text)]
    if options.given("volume"):
        request["volumes"] = [resolve_volume(volume) for volume in options.list("volume")]
    if options.given("mount"):
        request["mounts"] = [resolve_mount(mount) for mount in options.list("mount")]
    if options.given("device"):
        request["devices"] = [_resolve_device(device) for device in options.list("device")]
    if environment := _environment(options):
        request["env"] = environment
    if options.given("entrypoint"):
        request["entrypoint"] = words(options.text("entrypoint") or "", split=False)
    if hosts := [*options.list("add_host"), *options.list("hosts_entry")]:
        request["hosts_entries"] = [_check_host(entry) for entry in hosts]
    _security(options, request)
    if labels := [*_lines_of(options.list("label_file")), *options.list("label")]:
        request["labels"] = labels
    for key in ("shm_size", "oom_score_adj"):
        if options.given(key):
            request[key] = options.number(key)
    if options.given("stop_timeout"):
        request["stop_timeout"] = options.seconds("stop_timeout")
    if limits := limits_of(options):
        request["limits"] = limits
    if health := _health(options):
        request["health"] = health
    _log_options(options.list("log_opt"), request)
    _platform(options, request)
    _image_policy(options, request)
    if environ := service_environ():
        request["environ"] = environ
    return request


def _health(options: Parsed) -> Event:
    if options.flag("no_healthcheck"):
        if options.given("health_cmd"):
            raise UsageError("--no-healthcheck and --health-cmd: one of them")
        return {"cmd": "none"}
    health: Event = {}
    for key in ("cmd", "on_failure"):
        if options.given(f"health_{key}"):
            health[key] = options.text(f"health_{key}")
    for key in ("interval", "timeout", "start_period", "start_interval"):
        if options.given(f"health_{key}"):
            health[key] = options.seconds(f"health_{key}")
    if options.given("health_retries"):
        health["retries"] = options.number("health_retries")
    return health


def limits_of(options: Parsed) -> Event:
    """--memory, --cpus and the like, those that are given."""
    limits: Event = {}
    for key in ("memory", "memory_swap", "memory_reservation", "cpu_quota", "cpu_period", "cpu_shares"):
        if options.given(key):
            limits[key] = options.number(key)
    for key in ("cpuset_cpus", "cpuset_mems"):
        if options.given(key):
            limits[key] = options.text(key)
    if options.given("cpus"):
        limits["cpus"] = options.decimal("cpus")
    if options.given("pids_limit"):
        limits["pids"] = options.number("pids_limit")
    return limits


def pull_request(options: Parsed, image: str) -> Event:
    request = base_request("pull")
    request["image"] = image
    _platform(options, request)
    if options.given("pull"):
        request["pull"] = options.text("pull")
    _image_policy(options, request)
    if environ := service_environ():
        request["environ"] = environ
    return request


def service_environ() -> dict[str, str]:
    """The caller's variables that steer the service: it was perhaps started by a command without them."""
    found = {name: lookup(name) for name in STEERING}
    return {name: value for name, value in found.items() if value is not None}


def add_terminal(request: Event) -> None:
    """The size and kind of the caller's terminal, if there is one."""
    from ctnr.client.tty import describe_terminal

    if (terminal := describe_terminal()) is not None:
        request["terminal"] = terminal


def wants_progress(*, quiet: bool) -> bool:
    """Bars need a terminal that can move its cursor."""
    return not quiet and os.isatty(2) and lookup("TERM") not in (None, "", "dumb")


def split_networks(text: str) -> list[str]:
    """``a,b`` is two networks; in ``slirp:mtu=1500,cidr=10.9.0.0/24,bridge`` what holds a = belongs to slirp."""
    networks: list[str] = []
    for part in text.split(","):
        if "=" in part and ":" not in part.partition("=")[0] and networks and ":" in networks[-1]:
            networks[-1] += "," + part
        elif part:
            networks.append(part)
        else:
            raise UsageError(f"--network={text}: an empty name")
    return networks


def resolve_volume(volume: str) -> str:
    """``SRC:DST[:OPTIONS]`` with an absolute source if it is a path: what begins with a dot or holds a slash; other
    names are volumes'."""
    source, colon, rest = volume.partition(":")
    if colon and (source.startswith(".") or "/" in source):
        return f"{absolute(source)}:{rest}"
    return volume


def resolve_mount(mount: str) -> str:
    """``type=bind,source=…``, the source of a bind made absolute."""
    parts = mount.split(",")
    if "type=bind" not in parts:
        return mount
    for at, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if equals and key in ("source", "src"):
            parts[at] = f"{key}={absolute(value)}"
    return ",".join(parts)


def resolve_env(entries: list[str]) -> list[str]:
    """``NAME=VALUE`` stays; ``NAME`` comes from the caller, or falls away; ``NAME*`` is all that begin so."""
    resolved = []
    for entry in entries:
        name, equals, _ = entry.partition("=")
        if not name:
            raise UsageError(f"--env={entry}: the name is missing", cure="--env NAME=VALUE or --env NAME")
        if equals:
            resolved.append(entry)
            continue
        wanted = (
            [known for known in names() if known.startswith(name[:-1])] if name.endswith("*") else [name]
        )
        resolved += [f"{known}={value}" for known in wanted if (value := lookup(known)) is not None]
    return resolved


def read_env_file(path: str) -> list[str]:
    """No quotes, no expansion: blanks are stripped before the name only, and # counts at the start of a line only."""
    entries = []
    for number, line in enumerate(_read_text(path).removeprefix("\ufeff").split("\n"), 1):
        line = line.removesuffix("\r").lstrip(" \t")
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        if not name or (name.rstrip("*" if not equals else "") == "" and not equals):
            raise UsageError(
                f"{path}:{number}: the name is missing", cure="a line is NAME=VALUE, or NAME alone"
            )
        if " " in name or "\t" in name:
            raise UsageError(
                f"{path}:{number}: the name {name!r} holds a blank", cure="a line is NAME=VALUE"
            )
        if "\0" in line:
            raise UsageError(
                f"{path}:{number}: a NUL, which no variable can hold", cure="a line is NAME=VALUE"
            )
        entries.append(line)
    return resolve_env(entries)


def words(text: str, *, split: bool = True) -> list[str]:
    """A program with its arguments: a JSON list, or (with `split`) as a shell would split it, or one word."""
    if text.startswith("["):
        from ctnr.client import jsonlite

        try:
            value = jsonlite.decode(text.encode())
        except ValueError:
            value = None
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise UsageError(f"{text}: not a JSON list of words", cure='["PROGRAM", "ARGUMENT"]')
        return value
    if not split:
        return [text] if text else []
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text}: {str(error).lower()}") from None


def _environment(options: Parsed) -> list[str]:
    """The caller's proxies, then --env-host, the files, and -e: later ones win."""
    found = []
    if options.flag("http_proxy", default=True):
        found += resolve_env([name for proxy in PROXIES for name in (proxy, proxy.upper())])
    if options.flag("env_host"):
        found += resolve_env(names())
    for path in options.list("env_file"):
        found += read_env_file(path)
    return found + resolve_env(options.list("env"))


def _security(options: Parsed, request: Event) -> None:
    seccomp = options.text("seccomp")
    no_new_privileges = options.flag("no_new_privileges")
    for entry in options.list("security_opt"):
        key, _, value = entry.replace(":", "=", 1).partition("=")
        if key == "seccomp":
            seccomp = value
        elif key == "no-new-privileges":
            no_new_privileges = value in ("", "true")
        elif entry.replace(":", "=", 1) not in (
            "label=disable",
            "apparmor=unconfined",
        ):  # never confined by these
            raise UsageError(
                f"--security-opt={entry}: not known here",
                cure="seccomp=FILE|unconfined or no-new-privileges",
            )
    if seccomp is not None:
        request["seccomp"] = seccomp if seccomp == "unconfined" else _existing(seccomp, "--seccomp")
    if no_new_privileges:
        request["no_new_privileges"] = True


def _log_options(entries: list[str], request: Event) -> None:
    for entry in entries:
        key, _, value = entry.partition("=")
        try:
            if key == "max-size":
                request["log_max_bytes"] = parse_size(value)
            elif key == "max-file" and int(value) > 0:
                request["log_max_files"] = int(value)
            else:
                raise ValueError(entry)
        except ValueError:
            raise UsageError(f"--log-opt={entry}: not known", cure="max-size=10m or max-file=3") from None


def _platform(options: Parsed, request: Event) -> None:
    platform, machine = options.text("platform"), options.text("arch")
    if platform is not None and machine is not None:
        raise UsageError("--platform and --arch: one of them")
    if platform is not None or machine is not None:
        request["platform"] = platform or f"linux/{machine}"


def _image_policy(options: Parsed, request: Event) -> None:
    policy = options.text("image_policy")
    if policy is not None:
        request["image_policy"] = policy if policy == "insecure" else _existing(policy, "--image-policy")


def _existing(path: str, flag: str) -> str:
    if not os.access(path, os.R_OK):
        raise ClientError(
            f"{flag}={path}: no such file, or not readable", cure=f"give {flag} a file that exists"
        )
    return absolute(path)


def _check_host(entry: str) -> str:
    """``NAME:IP`` (docker) or ``NAME=IP`` (the old ctnr)."""
    at = min((at for at in (entry.find("="), entry.find(":")) if at >= 0), default=-1)
    if at <= 0 or at == len(entry) - 1:
        raise UsageError(f"hosts entry {entry}: NAME:IP or NAME=IP is expected")
    return entry


def _resolve_device(device: str) -> str:
    return absolute(device) if device.startswith(".") else device


def _lines_of(paths: list[str]) -> list[str]:
    lines = [line.strip() for path in paths for line in _read_text(path).split("\n")]
    return [line for line in lines if line and not line.startswith("#")]


def _read_text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode()
    except OSError as error:
        raise ClientError(f"read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ClientError(f"read {path}: not UTF-8") from None
