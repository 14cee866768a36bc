"""An OCI bundle for the tests of the supervisor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def bundle(tmp_path: Path, busybox_rootfs: Path) -> Path:
    """A bundle as `crun spec` makes it, cut to what every kernel can give."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "rootfs").symlink_to(busybox_rootfs)
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "newinstance"],
        },
    ]
    process = {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "env": ["PATH=/bin:/sbin:/usr/bin"], "cwd": "/"}
    capabilities = ["CAP_KILL", "CAP_NET_RAW", "CAP_DAC_OVERRIDE"]
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), capabilities)
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    config = {"ociVersion": "1.0.0", "process": process, "root": {"path": "rootfs"}, "mounts": mounts,
              "linux": {"namespaces": namespaces}}  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return path
