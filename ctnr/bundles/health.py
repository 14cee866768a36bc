"""A container's health check: the image's, with what the flags say of it."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import msgspec

from ctnr.bundles.errors import BundleError
from ctnr.bundles.image import ImageHealth, ImageProcess
from ctnr.requests import HealthWish
from supervisor.health import HealthCheck, OnFailure

SHELL = ("/bin/sh", "-c")
NANOSECONDS = 1e9


def build_health(wish: HealthWish | None, image: ImageProcess) -> HealthCheck | None:
    """None if there is to be none. Raises: BundleError."""
    wish = wish or HealthWish()
    check_health(wish)
    of_image = image.healthcheck or ImageHealth()
    test = tuple(of_image.test or ()) if wish.cmd is None else _parse_command(wish.cmd)
    command = _command(test, tuple(image.shell or SHELL))
    if command is None:
        if wish.on_failure != OnFailure.NONE and wish.cmd != "none":
            raise BundleError(
                f"--health-on-failure={wish.on_failure}: there is no health check",
                cure="--health-cmd COMMAND",
            )
        return None
    chosen = {
        "interval_seconds": wish.interval or of_image.interval / NANOSECONDS,
        "timeout_seconds": wish.timeout or of_image.timeout / NANOSECONDS,
        "retries": wish.retries or of_image.retries,
        "start_period_seconds": wish.start_period or of_image.start_period / NANOSECONDS,
        "start_interval_seconds": wish.start_interval or of_image.start_interval / NANOSECONDS,
    }
    check = HealthCheck(command=command, on_failure=OnFailure(wish.on_failure))
    return replace(check, **{key: value for key, value in chosen.items() if value})  # type: ignore[arg-type]


def check_health(wish: HealthWish | None) -> None:
    """Told before an image is fetched. Raises: BundleError."""
    if wish is None:
        return
    try:
        OnFailure(wish.on_failure)
    except ValueError:
        raise BundleError(
            f"--health-on-failure={wish.on_failure}: not known", cure=f"one of {', '.join(OnFailure)}"
        ) from None
    for name in ("interval", "timeout", "retries", "start_period", "start_interval"):
        value = getattr(wish, name)
        if value is not None and not 0 <= value < inf:
            raise BundleError(f"--health-{name.replace('_', '-')}={value}: must not be negative")
    if wish.cmd is not None:
        _parse_command(wish.cmd)


def _parse_command(text: str) -> tuple[str, ...]:
    """``none``, a JSON list (docker's Test, or just words), or a line for the shell."""
    if text == "none":
        return ("NONE",)
    if not text.strip():
        raise BundleError("--health-cmd: empty", cure="a command, or --no-healthcheck")
    if not text.startswith("["):
        return ("CMD-SHELL", text)
    try:
        words = msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.DecodeError:
        raise BundleError(
            f"--health-cmd={text}: not a JSON list of words", cure='["PROGRAM", "ARGUMENT"]'
        ) from None
    return words if words[:1] in (("CMD",), ("CMD-SHELL",), ("NONE",)) else ("CMD", *words)


def _command(test: tuple[str, ...], shell: tuple[str, ...]) -> tuple[str, ...] | None:
    if not test or test[0] == "NONE" or len(test) < 2:
        return None
    return (*shell, test[1]) if test[0] == "CMD-SHELL" else test[1:]
