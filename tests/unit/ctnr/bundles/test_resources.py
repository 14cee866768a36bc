"""--memory and its like: from what is typed to what the kernel takes. What can't be is in tests/cli/test_limits.py."""

from __future__ import annotations

import pytest

from ctnr.bundles.errors import BundleError
from ctnr.bundles.resources import build_limits, merge
from ctnr.requests import Limits as Asked
from supervisor.cgroups.limits import Limits


def test_numbers() -> None:
    assert build_limits(None) == build_limits(Asked()) == Limits()
    assert not build_limits(Asked())
    limits = build_limits(Asked(memory=64 << 20, cpus=0.25, cpu_shares=0, cpuset_cpus="0", pids=0))
    assert limits == Limits(memory=64 << 20, cpu_quota=25_000, cpu_period=100_000, cpuset_cpus="0", pids=-1)
    assert build_limits(Asked(memory=0, memory_swap=-1, cpus=0)) == Limits(
        memory=-1, memory_swap=-1, cpu_quota=-1
    )
    assert build_limits(Asked(cpu_quota=0, cpu_period=0)) == Limits(cpu_quota=-1)


@pytest.mark.parametrize("text", ["", "0-", "-1", "0,,1", "a", "0-1-2", "٣"])
def test_what_is_no_list_of_processors(text: str) -> None:
    with pytest.raises(BundleError, match="cpuset-cpus"):
        build_limits(Asked(cpuset_cpus=text))


def test_an_update_keeps_the_rest() -> None:
    before = Asked(memory=64 << 20, memory_swap=80 << 20, cpus=1.0, pids=9)
    assert merge(before, Asked(pids=5)) == Asked(memory=64 << 20, memory_swap=80 << 20, cpus=1.0, pids=5)
    assert merge(before, Asked(memory=128 << 20)) == Asked(memory=128 << 20, cpus=1.0, pids=9)
    assert merge(before, Asked(cpu_quota=5000)).cpus is None
    assert merge(Asked(cpu_quota=5000, cpu_period=9000), Asked(cpus=2)) == Asked(cpus=2)
    assert merge(None, Asked(pids=3)) == Asked(pids=3)
    unlimited = Asked(memory=64 << 20, memory_swap=-1)
    assert merge(unlimited, Asked(memory=128 << 20)).memory_swap == -1
