"""The defaults that make a container safe, and where each comes from.

They are podman's, so that an image behaves here as it does there. Sources: containers-common's
containers.conf (capabilities, sysctls, /dev/shm), podman 5.8's masked and read-only paths, and the
runtime-spec's "Default Filesystems" (config-linux.md).
"""

from __future__ import annotations

from ctnr.bundles.spec import Mount

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/interrupts",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)

READONLY_PATHS = (
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE_BYTES = 64 << 20
PING_GROUP_RANGE = "0 0"  # containers.conf: root in the container may ping without CAP_NET_RAW
RLIMIT_CEILING = {"RLIMIT_NOFILE": 1 << 20, "RLIMIT_NPROC": 1 << 22}  # podman's: as high as the user may go
READ_ONLY_TMPFS = ("/run", "/tmp", "/var/tmp")
PRIVILEGED_DEVICES = ("/dev/net/tun", "/dev/fuse", "/dev/kvm")  # what nested engines and VMs open

MOUNT_PROC = Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev"))
MOUNT_DEV = Mount(
    destination="/dev",
    type="tmpfs",
    source="tmpfs",
    options=("nosuid", "noexec", "strictatime", "mode=755", "size=65536k"),
)
MOUNT_MQUEUE = Mount(
    destination="/dev/mqueue", type="mqueue", source="mqueue", options=("nosuid", "noexec", "nodev")
)


def mount_pts(*, tty_group: bool) -> Mount:
    """/dev/pts. Without `tty_group`, gid 5 is not mapped here, and the option would be EINVAL."""
    options = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")
    return Mount(
        destination="/dev/pts",
        type="devpts",
        source="devpts",
        options=(*options, "gid=5") if tty_group else options,
    )


def mount_shm(size_bytes: int) -> Mount:
    """/dev/shm of that size."""
    options = ("nosuid", "noexec", "nodev", "mode=1777", f"size={size_bytes}")
    return Mount(destination="/dev/shm", type="tmpfs", source="shm", options=options)


def mount_sys(*, writable: bool, from_host: bool) -> Mount:
    """/sys: a mount of its own, or the host's where the netns is not ours (the kernel refuses sysfs there)."""
    options = ("nosuid", "noexec", "nodev", "rw" if writable else "ro")
    if from_host:
        return Mount(destination="/sys", type="bind", source="/sys", options=("rbind", "rslave", *options))
    return Mount(destination="/sys", type="sysfs", source="sysfs", options=options)


def mount_cgroup(*, writable: bool) -> Mount:
    """/sys/fs/cgroup: the container's own part of the tree."""
    options = ("nosuid", "noexec", "nodev", "relatime", "rw" if writable else "ro")
    return Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=options)
