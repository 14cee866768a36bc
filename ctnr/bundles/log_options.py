"""--log-driver and --log-opt: where the output of a background container goes."""

from __future__ import annotations

from ctnr.bundles.errors import BundleError
from ctnr.requests import Run
from supervisor.runtime.journald import check_journal
from supervisor.runtime.logs import FILE, JOURNAL, NONE, LogOptions

# docker's and podman's names → ours: podman, too, writes k8s-file where json-file is asked for
DRIVERS = {"k8s-file": FILE, "json-file": FILE, "local": FILE, "journald": JOURNAL, "none": NONE}


def log_driver(run: Run) -> str:
    """Raises: BundleError if it is not known."""
    driver = DRIVERS.get(run.log_driver or FILE)
    if driver is None:
        raise BundleError(
            f"log driver {run.log_driver}: not known here", cure=f"one of: {', '.join(DRIVERS)}"
        )
    return driver


def check_log_options(run: Run) -> None:
    """Told before an image is fetched. Raises: BundleError, SupervisorError."""
    driver = log_driver(run)
    if driver == JOURNAL:
        check_journal()
    if driver != FILE and (run.log_max_bytes or run.log_max_files):
        raise BundleError(
            f"--log-opt max-size, max-file: not with log driver {driver}", cure="leave them out"
        )


def build_log_options(run: Run, container_id: str, name: str) -> LogOptions:
    """Raises: BundleError."""
    return LogOptions(
        driver=log_driver(run),
        max_bytes=run.log_max_bytes,
        max_files=run.log_max_files or 1,
        fields={  # what `journalctl CONTAINER_NAME=…` is used to
            "CONTAINER_NAME": name,
            "CONTAINER_ID": container_id[:12],
            "CONTAINER_ID_FULL": container_id,
            "SYSLOG_IDENTIFIER": name,
        },
    )
