"""Whether a container is started again, and when: docker's four policies, its back-off and its reset. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from supervisor.errors import SupervisorError


class Restart(StrEnum):
    """When the supervisor starts a container again by itself."""

    NO = "no"
    ON_FAILURE = "on-failure"  # its exit status was not 0
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """The pause before a restart doubles from first to last; a run of `steady_seconds` begins anew with the first."""

    when: Restart = Restart.NO
    retries: int | None = None  # of on-failure; None: as often as it takes
    first_seconds: float = 0.1
    last_seconds: float = 60.0
    steady_seconds: float = 10.0

    @property
    def is_lasting(self) -> bool:
        """Whether the container is to run whenever its supervisor does."""
        return self.when in (Restart.ALWAYS, Restart.UNLESS_STOPPED)

    def __str__(self) -> str:
        return self.when if self.retries is None else f"{self.when}:{self.retries}"


NEVER = RestartPolicy()


class Backoff:
    """The restarts of one container. `count` is how many there have been."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self.count = 0
        self._pause = 0.0

    def next_pause(self, status: int, ran_seconds: float) -> float | None:
        """Seconds until the next start after a run that ended like that; None if there is none. Counts it."""
        policy = self.policy
        if policy.when is Restart.NO:
            return None
        if policy.when is Restart.ON_FAILURE and (
            status == 0 or (policy.retries is not None and self.count >= policy.retries)
        ):
            return None
        steady = ran_seconds >= policy.steady_seconds
        self._pause = (
            policy.first_seconds if steady or not self._pause else min(self._pause * 2, policy.last_seconds)
        )
        self.count += 1
        return self._pause

    def reset(self) -> None:
        """Somebody has started it by hand."""
        self.count, self._pause = 0, 0.0


def parse_restart_policy(text: str) -> RestartPolicy:
    """``no``, ``on-failure[:N]``, ``always`` or ``unless-stopped``. Raises: SupervisorError."""
    word, colon, number = text.partition(":")
    try:
        when = Restart(word or "no")
    except ValueError:
        raise SupervisorError(
            f"restart policy {text}: not known",
            cure=f"one of {', '.join(Restart)}; on-failure:N ends after N",
        ) from None
    if not colon:
        return RestartPolicy(when=when)
    if when is not Restart.ON_FAILURE:
        raise SupervisorError(
            f"restart policy {text}: only on-failure takes a number", cure="for example on-failure:5"
        )
    if not (number.isascii() and number.isdigit()):
        raise SupervisorError(
            f"restart policy {text}: {number!r} is not a count", cure="for example on-failure:5"
        )
    return RestartPolicy(when=when, retries=int(number) or None)  # docker: 0 is no limit
