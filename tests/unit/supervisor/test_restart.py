"""Restart policies: again or not, and after how long."""

from __future__ import annotations

import pytest

from supervisor.errors import SupervisorError
from supervisor.restart import Backoff, Restart, RestartPolicy, parse_restart_policy


@pytest.mark.parametrize(
    ("policy", "status", "again"),
    [
        ("no", 1, False), ("no", 0, False), ("on-failure", 1, True), ("on-failure", 0, False), ("always", 0, True),
        ("always", 137, True), ("unless-stopped", 0, True), ("on-failure:1", 3, True),
    ],
)  # fmt: skip
def test_again_or_not(policy: str, status: int, again: bool) -> None:
    assert (Backoff(parse_restart_policy(policy)).next_pause(status, 0) is not None) is again


def test_the_pause_doubles_up_to_a_minute_and_begins_anew_after_a_steady_run() -> None:
    backoff = Backoff(RestartPolicy(when=Restart.ALWAYS))
    pauses = [backoff.next_pause(1, 0.1) for _ in range(12)]
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert pauses[-2:] == [60, 60]
    assert backoff.next_pause(1, 9.9) == 60
    assert backoff.next_pause(1, 10) == 0.1
    assert backoff.next_pause(1, 0) == 0.2
    assert backoff.count == 15
    backoff.reset()
    assert (backoff.next_pause(0, 0), backoff.count) == (0.1, 1)


def test_on_failure_gives_up_after_its_retries() -> None:
    backoff = Backoff(parse_restart_policy("on-failure:2"))
    assert [backoff.next_pause(1, 0) for _ in range(3)] == [0.1, 0.2, None]
    assert backoff.count == 2


@pytest.mark.parametrize("text", ["no", "always", "unless-stopped", "on-failure", "on-failure:3"])
def test_policies_read_as_they_are_written(text: str) -> None:
    assert str(parse_restart_policy(text)) == text


def test_what_docker_takes_as_well() -> None:
    assert parse_restart_policy("").when is Restart.NO
    assert parse_restart_policy("on-failure:0").retries is None
    assert parse_restart_policy("unless-stopped").is_lasting
    assert not parse_restart_policy("on-failure").is_lasting


@pytest.mark.parametrize(
    "text", ["sometimes", "always:3", "on-failure:", "on-failure:x", "on-failure:-1", "ALWAYS"]
)
def test_what_is_wrong_is_told_in_one_line(text: str) -> None:
    with pytest.raises(SupervisorError) as told:
        parse_restart_policy(text)
    assert text in told.value.message
    assert told.value.cure
