"""Many containers of one person, all at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.world.people import Person

MANY = 100


def test_a_hundred_are_started_and_stopped_at_once(me: Person, names: list[str]) -> None:
    names += [f"many-{number}" for number in range(MANY)]

    def start(name: str) -> int:
        return me.ctnr(
            "run", "-d", "--name", name, "--network=slirp", "demo", "sleep", "1000", seconds=120
        ).status

    def stop(name: str) -> int:
        return me.ctnr("stop", "-t", "0", name, seconds=120).status

    with ThreadPoolExecutor(MANY) as pool:
        assert {0} == set(pool.map(start, names))
        running = me.ctnr("ps", "--format", "{{.Names}}").ok.stdout.split()
        assert sorted(names) == sorted(running)
        assert {0} == set(pool.map(stop, names))
    assert me.ctnr("ps", "-q").ok.stdout == ""
    me.ctnr("rm", *names).ok  # noqa: B018 -- and the guard looks for what is left
