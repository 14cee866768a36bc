"""What a client may ask for: the typed side of the wire.

The thin client builds plain dicts of the same shape (`ctnr/cli/request.py`); one contract test drives both.
Paths arrive absolute and environment variables resolved: only the client knows the caller's directory and environment.
"""

from __future__ import annotations

import msgspec


class Request(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag=str.lower
):
    """One request per connection; its frame carries the client's version."""

    version: str


class Run(Request, tag="run"):
    """Make a container and start it. Descriptors 0, 1, 2 of the caller come with the frame."""

    image: str | None = None
    args: tuple[str, ...] = ()
    name: str | None = None
    bundle: str | None = None
    update: bool = False
    detach: bool = False
    interactive: bool = False
    tty: bool = False
    remove: bool = False
    start: bool = True  # False: `ctnr create`
    privileged: bool = False
    rootless: bool = False
    networks: tuple[str, ...] | None = None
    publish: tuple[str, ...] = ()
    publish_all: bool = False  # what the image and `expose` name, on random ports
    expose: tuple[str, ...] = ()
    ip: str | None = None  # on the one network
    mac: str | None = None
    aliases: tuple[str, ...] = ()  # further names on all networks
    volumes: tuple[str, ...] = ()  # SRC:DST[:OPTIONS], as with -v; SRC absolute or a volume name
    mounts: tuple[str, ...] = ()  # type=bind,source=…,target=…
    tmpfs: tuple[str, ...] = ()  # DST[:OPTIONS]
    env: tuple[str, ...] = ()  # NAME=VALUE, in order, later wins
    workdir: str | None = None
    user: str | None = None
    group_add: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None  # (): the image's is cleared
    hostname: str | None = None
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    hosts_entries: tuple[str, ...] = ()  # NAME:IP (--add-host) and NAME=IP (--hosts-entry)
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    seccomp: str | None = None  # None: default profile; "unconfined"; or an absolute path
    no_new_privileges: bool = False
    read_only: bool = False
    init: bool = False
    devices: tuple[str, ...] = ()
    ulimits: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()
    shm_size: int | None = None  # bytes
    labels: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    replace: bool = False  # the container that has the name is removed
    ipc: str | None = None
    pid: str | None = None
    uts: str | None = None
    userns: str | None = None
    log_driver: str | None = None  # None: k8s-file
    log_max_bytes: int | None = None  # a log file is full then, and the next one begun
    log_max_files: int | None = None
    stop_signal: str | None = None
    stop_timeout: float | None = None
    health: HealthWish | None = None
    ready: str | None = None  # health | notify | log:REGEX | port:N; `run -d` is answered when it is
    depends_on: tuple[str, ...] = ()  # NAME[:started|ready|healthy]
    restart: str = "no"  # no | on-failure[:N] | always | unless-stopped
    image_policy: str | None = None  # absolute path, or "insecure"
    pull: str = "missing"  # missing | always | never | newer
    platform: str | None = None  # OS/ARCH[/VARIANT]
    oom_score_adj: int | None = None
    limits: Limits | None = None
    terminal: Terminal | None = None
    progress: bool = False
    environ: dict[str, str] = {}  # the caller's NETCONFPATH, CNI_PATH, REGISTRY_AUTH_FILE, *_proxy, …


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """As typed; None is not given, -1 no limit. Sizes in bytes, times in µs."""

    memory: int | None = None
    memory_swap: int | None = None
    memory_reservation: int | None = None
    cpus: float | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids: int | None = None


class HealthWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Flags of a health check. Times are seconds; what is None is the image's, or docker's default."""

    cmd: str | None = None  # for a shell, or a JSON list; "none": no check
    interval: float | None = None
    timeout: float | None = None
    retries: int | None = None
    start_period: float | None = None
    start_interval: float | None = None
    on_failure: str = "none"  # none | kill | restart | stop


class Terminal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The caller's terminal: its size and kind."""

    rows: int
    columns: int
    term: str = "xterm"


class Pull(Request, tag="pull"):
    image: str
    image_policy: str | None = None
    pull: str = "always"
    platform: str | None = None
    progress: bool = False
    environ: dict[str, str] = {}


class Images(Request, tag="images"):
    """All images, newest first, as a list of `ctnr.images.view.ImageSummary`."""


class ImageImport(Request, tag="image-import"):
    """Take a root filesystem (directory, or tar on descriptor 0 if `source` is None) as an image of one layer."""

    source: str | None
    name: str
    cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    labels: tuple[str, ...] = ()


class ImageExport(Request, tag="image-export"):
    image: str
    destination: str  # oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, dir:DIR; paths absolute


class ImageTag(Request, tag="image-tag"):
    image: str
    name: str


class ImageUntag(Request, tag="image-untag"):
    name: str


class ImageRemove(Request, tag="image-rm"):
    images: tuple[str, ...]
    force: bool = False


class ImageGc(Request, tag="image-gc"):
    """Drop untagged images, and blobs and layers that nothing refers to."""

    all: bool = False  # also tagged images that no bundle uses
    among: tuple[str, ...] | None = None  # none but these images, by id


class ImageFsck(Request, tag="image-fsck"):
    """Look whether the store is what it should be; the answer is a `ctnr.images.fsck.Verdict`."""

    repair: bool = False
    quick: bool = False  # not what is in the layers


class ImageConfig(Request, tag="image-config"):
    """The image's configuration as JSON, as it lies in the store (`image cat-config`, `image inspect`)."""

    image: str


class BundleList(Request, tag="bundle-list"):
    pass


class BundleDelete(Request, tag="bundle-delete"):
    names: tuple[str, ...]
    force: bool = False


class BundleGc(Request, tag="bundle-gc"):
    pass


class Info(Request, tag="info"):
    pass


class DiskUsage(Request, tag="disk-usage"):
    """Bytes on disk, as a list of `ctnr.disk_usage.Usage`."""


class ServiceStatus(Request, tag="service-status"):
    pass


class ServiceStart(Request, tag="service-start"):
    """Answered when the containers that are to run whenever the service does have been started."""


class ServiceStop(Request, tag="service-stop"):
    force: bool = False  # also when containers run: they are stopped


class ExecIn(Request, tag="exec"):
    container: str
    args: tuple[str, ...]
    interactive: bool = False
    tty: bool = False
    detach: bool = False
    privileged: bool = False
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    terminal: Terminal | None = None


class Ps(Request, tag="ps"):
    all: bool = False
    size: bool = False  # what each has written


class Inspect(Request, tag="inspect"):
    containers: tuple[str, ...]


class Start(Request, tag="start"):
    containers: tuple[str, ...]


class StartHere(Request, tag="start-here"):
    """Start a container as `run` does in the foreground; descriptors 0, 1, 2 come along. One that runs is joined."""

    container: str
    interactive: bool = False
    terminal: Terminal | None = None


class Stop(Request, tag="stop"):
    containers: tuple[str, ...]
    seconds: float | None = None  # grace; None: the container's own
    ignore: bool = False  # names that nobody has


class Restart(Request, tag="restart"):
    containers: tuple[str, ...]
    seconds: float | None = None  # grace; None: the container's own


class Kill(Request, tag="kill"):
    containers: tuple[str, ...]
    signal: str = "KILL"


class Remove(Request, tag="rm"):
    containers: tuple[str, ...]
    force: bool = False
    ignore: bool = False  # names that nobody has
    volumes: bool = False  # with their anonymous volumes
    seconds: float | None = None  # with `force`: grace for one that runs; None: none


class Rename(Request, tag="rename"):
    container: str
    name: str


class Pause(Request, tag="pause"):
    containers: tuple[str, ...]


class Unpause(Request, tag="unpause"):
    containers: tuple[str, ...]


class Update(Request, tag="update"):
    """Change what is given, at once and for the next start."""

    containers: tuple[str, ...]
    limits: Limits | None = None
    restart: str | None = None  # as of `Run`


class Stats(Request, tag="stats"):
    """What containers use, as one `item` event per sample: a list of rows."""

    containers: tuple[str, ...] = ()  # none: all that run
    all: bool = False  # with none: also those that do not run
    interval: float | None = None  # seconds; None: one sample


class Top(Request, tag="top"):
    container: str
    columns: tuple[str, ...] = ()  # names as in `ctnr.top.COLUMNS`, or options of ps


class Wait(Request, tag="wait"):
    containers: tuple[str, ...]
    condition: str = "stopped"  # stopped | running | healthy | ready | removed


class HealthRun(Request, tag="health-run"):
    """Run a container's health check once, now."""

    container: str


class Events(Request, tag="events"):
    """What happens, as `item` events; without `stream` what is kept from `since` on."""

    since: float | None = None  # Unix seconds; None: from now on
    until: float | None = None
    stream: bool = True


class Logs(Request, tag="logs"):
    """Each `item` event brings `container` (its place in the list) and `entries` (lines as they lie in the file)."""

    containers: tuple[str, ...]
    follow: bool = False
    tail: int | None = None  # last N lines
    since: float | None = None  # Unix seconds
    until: float | None = None


class Copy(Request, tag="cp"):
    """`source` and `target` are containers, "" the host; an archive's descriptor comes with the frame."""

    source_path: str
    target_path: str
    source: str = ""
    target: str = ""
    archive: bool = False  # keep owners and groups
    follow: bool = False
    from_archive: bool = False  # the source is a tar archive
    to_archive: bool = False


class Diff(Request, tag="diff"):
    container: str


class Attach(Request, tag="attach"):
    container: str
    terminal: Terminal | None = None
    stdin: bool = True


class PortList(Request, tag="port-list"):
    """The published ports of a container that runs."""

    container: str


class PortAdd(Request, tag="port-add"):
    """Publish more ports of a container that runs."""

    container: str
    specs: tuple[str, ...]  # as with -p


class PortRemove(Request, tag="port-rm"):
    container: str
    specs: tuple[str, ...]


class NetList(Request, tag="net-list"):
    environ: dict[str, str] = {}  # the caller's NETCONFPATH


class NetInspect(Request, tag="net-inspect"):
    names: tuple[str, ...]
    environ: dict[str, str] = {}  # the caller's NETCONFPATH


class NetCreate(Request, tag="net-create"):
    name: str
    driver: str = "bridge"
    subnet: str | None = None  # None: a free one
    gateway: str | None = None
    mtu: int | None = None
    internal: bool = False
    ipv6: bool = False  # as well
    options: tuple[str, ...] = ()  # KEY=VALUE, the driver's
    environ: dict[str, str] = {}  # the caller's NETCONFPATH


class NetRemove(Request, tag="net-rm"):
    names: tuple[str, ...]
    environ: dict[str, str] = {}  # the caller's NETCONFPATH


class NetPrune(Request, tag="net-prune"):
    environ: dict[str, str] = {}  # the caller's NETCONFPATH


class NetCheck(Request, tag="net-check"):
    names: tuple[str, ...] = ()  # none: all of them, and every file
    environ: dict[str, str] = {}  # the caller's NETCONFPATH


class NetGc(Request, tag="net-gc"):
    environ: dict[str, str] = {}  # the caller's NETCONFPATH and CNI_PATH


class NetShow(Request, tag="net-show"):
    all: bool = False  # also those that nobody is on
    environ: dict[str, str] = {}  # the caller's NETCONFPATH


class NetConnect(Request, tag="net-connect"):
    network: str  # NAME[:OPTION=VALUE,…]
    container: str
    ip: str | None = None
    mac: str | None = None
    aliases: tuple[str, ...] = ()
    environ: dict[str, str] = {}  # the caller's NETCONFPATH


class NetDisconnect(Request, tag="net-disconnect"):
    network: str
    container: str
    environ: dict[str, str] = {}  # the caller's NETCONFPATH


class VolumeList(Request, tag="volume-list"):
    pass


class VolumeInspect(Request, tag="volume-inspect"):
    names: tuple[str, ...]


class VolumeCreate(Request, tag="volume-create"):
    name: str | None  # None: a random one
    labels: tuple[str, ...] = ()  # KEY=VALUE
    ignore: bool = False  # one that exists is fine


class VolumeRemove(Request, tag="volume-rm"):
    names: tuple[str, ...]
    force: bool = False  # with the containers that have them, and no error for names that nobody has


class VolumePrune(Request, tag="volume-prune"):
    """Remove those of `names` that nobody has; the answer is {"volumes": [NAME, …], "bytes": N}."""

    names: tuple[str, ...]
