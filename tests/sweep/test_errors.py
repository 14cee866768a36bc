"""Every story with an error at each call to the world: one clean error, nothing left, and the next run works."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from tests.sweep.failing import FailingCall, doors
from tests.sweep.length import covered, stride
from tests.sweep.stage import Home
from tests.sweep.stories import STORIES, Props
from tests.sweep.sweeping import sweep_all, sweep_on

KINDS = pytest.mark.parametrize("rootless", [False, True], ids=["plain", "userns"])
# In CI one point in so many calls, of which a story has 5 to 170; each is played again after its error.
STRIDES = {
    "plain": 2, "slirp": 4, "slirp+bridge": 30, "bridge": 25, "names": 40, "terminal": 3, "log": 4, "connect": 45,
    "relay": 6, "ports": 40, "pasta": 4, "exec": 4, "group": 6, "embedded": 24, "confined": 15, "detached": 24,
    "pull": 32, "restarts": 16, "watched": 16, "searched": 8, "foreground": 16,
}  # fmt: skip
WITH_THE_SUPERVISOR = {"plain": 6, "bridge": 16}


@KINDS
@pytest.mark.parametrize("name", STRIDES)
def test_a_story(name: str, home: Home, props: Props, rootless: bool) -> None:
    play = partial(STORIES[name], props=props)

    async def sweep() -> int:
        async with home.open_stage(rootless=rootless) as stage:
            await stage.prepare()
            stage.forgets_late = True
            return await sweep_on(stage, play, FailingCall, stride(STRIDES[name]), replay=True)

    with doors():
        points = trio.run(sweep)
    covered(f"{name} with an error at {points} calls")
    assert points > 1


@KINDS
@pytest.mark.parametrize("name", WITH_THE_SUPERVISOR)
def test_a_story_and_its_supervisor(name: str, home: Home, props: Props, rootless: bool) -> None:
    play = partial(STORIES[name], props=props)
    with doors():
        points = sweep_all(home, play, FailingCall, stride(WITH_THE_SUPERVISOR[name]), rootless=rootless)
    covered(f"{name} and its supervisor with an error at {points} calls")
    assert points > 1
