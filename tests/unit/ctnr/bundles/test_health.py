"""A container's health check from flags and image."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ctnr.bundles.errors import BundleError
from ctnr.bundles.health import build_health
from ctnr.bundles.image import ImageProcess
from ctnr.requests import HealthWish
from supervisor.health import HealthCheck, OnFailure


def image(**check: Any) -> ImageProcess:
    return msgspec.convert({"Healthcheck": check}, ImageProcess)


def test_the_images_check_with_dockers_defaults() -> None:
    check = build_health(None, image(Test=["CMD-SHELL", "curl -f x || exit 1"], Interval=5_000_000_000))
    assert check == HealthCheck(command=("/bin/sh", "-c", "curl -f x || exit 1"), interval_seconds=5)
    assert build_health(None, image(Test=["CMD", "true", "x"])) == HealthCheck(command=("true", "x"))


def test_none() -> None:
    for one in (image(Test=["NONE"]), image(Test=[]), image(), ImageProcess()):
        assert build_health(None, one) is None
    assert build_health(HealthWish(cmd="none"), image(Test=["CMD", "true"])) is None


def test_flags_go_before_the_image() -> None:
    wish = HealthWish(cmd="test -e /x", retries=7, start_period=9, on_failure="kill")
    check = build_health(wish, image(Test=["CMD", "true"], Retries=2, Timeout=1_000_000_000))
    assert check == HealthCheck(
        command=("/bin/sh", "-c", "test -e /x"), retries=7, start_period_seconds=9, timeout_seconds=1,
        on_failure=OnFailure.KILL,
    )  # fmt: skip
    listed = build_health(HealthWish(cmd='["CMD", "a", "b c"]'), ImageProcess())
    plain = build_health(HealthWish(cmd='["a", "b c"]'), ImageProcess())
    assert listed == plain == HealthCheck(command=("a", "b c"))


def test_the_images_shell() -> None:
    shell = msgspec.convert({"Shell": ["/bin/ash", "-ec"]}, ImageProcess)
    check = build_health(HealthWish(cmd="true"), shell)
    assert check is not None
    assert check.command == ("/bin/ash", "-ec", "true")


@pytest.mark.parametrize(
    "wish",
    [
        HealthWish(on_failure="pray"), HealthWish(on_failure="stop"), HealthWish(cmd=" "), HealthWish(cmd='["a"'),
        HealthWish(cmd="true", interval=-1), HealthWish(cmd="true", timeout=float("inf")),
    ],
)  # fmt: skip
def test_what_is_wrong(wish: HealthWish) -> None:
    with pytest.raises(BundleError, match="--health"):
        build_health(wish, ImageProcess())
