"""Who is in the virtual machine, and what they have."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.login import SECONDS, Login
from tests.world import images


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    for above in (folder, *folder.parents[:2]):
        above.chmod(0o755)
    base = images.tar_folder(images.busybox_rootfs(folder / "root"))
    return images.write_image(folder / "busybox", [base], {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]})


@pytest.fixture(scope="session", params=["root", "alice"])
def me(request: pytest.FixtureRequest, image: Path) -> Iterator[Login]:
    """Somebody who has the image `demo`."""
    if not os.path.exists("/run/systemd/system"):
        raise pytest.UsageError("these checks are for a machine that systemd runs: make vm")
    login = Login(request.param)
    pulled = login.ctnr("pull", "-q", "--image-policy=insecure", f"oci:{image}").ok.stdout.strip()
    login.ctnr("image", "tag", pulled, "demo").ok  # noqa: B018
    yield login
    login.ctnr("supervisor", "stop", "--force")


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait until something is so."""

    def wait(check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not check():
            assert time.monotonic() < deadline
            time.sleep(0.2)

    return wait
