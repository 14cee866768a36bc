"""How long the commands of every day take: run, exec, stop, rm, ps, many at once, the first one, pull."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.bench.pairs import Engine, Pair, Row

RUNNING = 50
AT_ONCE = 8
TRUE = ("demo", "true")
SLEEP = ("demo", "sleep", "10000")


def rows(pair: Pair) -> Iterator[Row]:
    run = ("run", "--rm")
    yield pair.measure(
        "run --rm --network=none IMAGE true", 0.4, lambda e: e.milliseconds(*run, "--network=none", *TRUE)
    )
    yield pair.measure("run --rm, slirp", 0.4, lambda e: e.milliseconds(*run, e.slirp(), *TRUE))
    yield pair.measure(
        "run --rm, bridge", 0.45, lambda e: e.milliseconds(*run, "--network=bridge", *TRUE), rounds=7
    )
    yield pair.measure("run -d, slirp", 0.7, _detached)
    for engine in pair:
        engine.start("x", engine.slirp(), *SLEEP)
    yield pair.measure("exec NAME true", 0.3, lambda e: e.milliseconds("exec", "x", "true"))
    for engine in pair:
        engine.remove("x")
    yield pair.measure("stop -t0", 0.35, _ended("stop"))
    yield pair.measure("rm -f", 0.35, _ended("rm", "-f"))
    for engine in pair:
        start_many(engine, RUNNING)
    yield pair.measure(f"ps, {RUNNING} running", 0.8, lambda e: e.milliseconds("ps"))
    for engine in pair:
        remove_many(engine, RUNNING)
    yield pair.measure(f"50 × run --rm, slirp, {AT_ONCE} at a time", 0.45, _fifty, rounds=3)
    yield pair.measure("50 × run -d, slirp, all at once", 0.7, _fifty_detached, rounds=2)
    yield pair.measure("first run with no service up, slirp", 2.0, _first, rounds=7)


def pulls(pair: Pair, reference: str) -> Iterator[Row]:
    """Each pull into a store of its own, since ext4 makes files ten times slower where some were just removed."""

    def pulled(engine: Engine) -> float:
        store = engine.person.home / f"stores/{engine.name}{next(numbers)}"
        place = ("--root" if engine.is_podman else "--store-dir", str(store))
        policy = () if engine.is_podman else ("--image-policy=insecure",)
        engine.do(*place, "images")
        taken = engine.milliseconds(*place, "pull", *policy, f"docker://{reference}")
        if not engine.is_podman:
            engine.do(*place, "supervisor", "stop")
        return taken

    numbers = itertools.count()
    yield pair.measure("pull and unpack of a 3-layer Debian image", 0.7, pulled, rounds=5)


def start_many(engine: Engine, count: int) -> None:
    for number in range(count):
        engine.start(f"m{number}", engine.slirp(), *SLEEP)


def remove_many(engine: Engine, count: int) -> None:
    engine.remove(*[f"m{number}" for number in range(count)])


def _detached(engine: Engine) -> float:
    taken = engine.milliseconds("run", "-d", "--name", "d", engine.slirp(), *SLEEP)
    engine.remove("d")
    return taken


def _ended(*args: str) -> Callable[[Engine], float]:
    def measure(engine: Engine) -> float:
        engine.start("e", "--network=none", *SLEEP)
        zero = ("-t0",) if engine.is_podman or args[0] == "stop" else ()
        taken = engine.milliseconds(*args, *zero, "e")
        if args[0] == "stop":
            engine.remove("e")
        return taken

    return measure


def _fifty(engine: Engine) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda _: engine.do("run", "--rm", engine.slirp(), *TRUE), range(50)))
    return (time.perf_counter() - start) * 1000


def _fifty_detached(engine: Engine) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda n: engine.start(f"m{n}", engine.slirp(), *SLEEP), range(50)))
    taken = (time.perf_counter() - start) * 1000
    remove_many(engine, 50)
    return taken


def _first(engine: Engine) -> float:
    if not engine.is_podman:
        with contextlib.suppress(RuntimeError):
            engine.do("supervisor", "stop")
    return engine.milliseconds("run", "--rm", engine.slirp(), *TRUE)
