"""Every story cancelled at every step of it: by its own clean-up, or the supervisor's, nothing is left."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from tests.sweep.length import covered, stride
from tests.sweep.stage import Home
from tests.sweep.stories import STORIES, Props
from tests.sweep.sweeping import CancelAtStep, sweep_all, sweep_on

KINDS = pytest.mark.parametrize("rootless", [False, True], ids=["plain", "userns"])
# In CI one point in so many steps, of which a story has 50 to 220.
STRIDES = {
    "plain": 5, "slirp": 6, "slirp+bridge": 22, "bridge": 22, "names": 22, "terminal": 7, "log": 8, "connect": 45,
    "relay": 8, "ports": 30, "pasta": 8, "restarts": 24, "watched": 24, "searched": 8,
    "exec": 14, "group": 30, "embedded": 30, "confined": 14, "foreground": 4, "detached": 18, "pull": 25,
}  # fmt: skip
WITH_THE_SUPERVISOR = {"slirp": 11, "slirp+bridge": 30}


@KINDS
@pytest.mark.parametrize("name", STRIDES)
def test_a_story(name: str, home: Home, props: Props, rootless: bool) -> None:
    """The supervisor lives on, and what it had before the story is what it has after it."""
    play = partial(STORIES[name], props=props)

    async def sweep() -> int:
        async with home.open_stage(rootless=rootless) as stage:
            await stage.prepare()
            return await sweep_on(stage, play, CancelAtStep, stride(STRIDES[name]))

    points = trio.run(sweep)
    covered(f"{name} cancelled at {points} steps")
    assert points > 3


@KINDS
@pytest.mark.parametrize("name", WITH_THE_SUPERVISOR)
def test_a_story_and_its_supervisor(name: str, home: Home, props: Props, rootless: bool) -> None:
    play = partial(STORIES[name], props=props)
    points = sweep_all(home, play, CancelAtStep, stride(WITH_THE_SUPERVISOR[name]), rootless=rootless)
    covered(f"{name} and its supervisor cancelled at {points} steps")
    assert points > 3
