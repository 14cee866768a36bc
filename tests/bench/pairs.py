"""The two engines side by side: how one is called, how both are timed, and what a row of the table is."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.world.people import Person

ROUNDS = 15


@dataclass(frozen=True)
class Row:
    """One line of the table: medians in `unit`. `budget`: ctnr × podman at most, or at least where `more_is_better`.

    `podman` is None where podman has no such thing.
    """

    name: str
    podman: float | None
    ctnr: float
    budget: float | None = None
    unit: str = "ms"
    more_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        return self.ctnr / self.podman if self.podman else None

    def cells(self) -> tuple[str, str, str, str, str]:
        """As text: name, podman, ctnr, ratio, aim."""
        digits = 0 if max(self.podman or 0, self.ctnr) >= 100 else 1
        values = [
            f"{value:.{digits}f} {self.unit}" if value is not None else "–"
            for value in (self.podman, self.ctnr)
        ]
        aim = "" if self.budget is None else f"{'≥' if self.more_is_better else '≤'} {self.budget:g} ×"
        return self.name, values[0], values[1], f"{self.ratio:.2f} ×" if self.ratio else "–", aim


class Engine:
    """One of the two, as the ordinary user of the test machine."""

    def __init__(self, person: Person, program: str, env: dict[str, str]) -> None:
        self.name = program
        self.person = person
        self._program = shutil.which(program, path=person.env["PATH"]) or program
        own = {
            name: value
            for name, value in person.env.items()
            if program == "ctnr" or not name.startswith("CTNR_")
        }
        self._env = {**own, **env}

    @property
    def is_podman(self) -> bool:
        return self.name == "podman"

    def popen(self, *args: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._program, *args], env=self._env, cwd=self.person.home, stdin=subprocess.DEVNULL,
            stdout=stdout, stderr=subprocess.PIPE, user=self.person.uid, group=self.person.uid,
            extra_groups=[], start_new_session=True,
        )  # fmt: skip

    def do(self, *args: str) -> str:
        """Run it to its end. Raises: RuntimeError with what it said."""
        process = self.popen(*args)
        out, err = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.name} {' '.join(args)}: {err.decode(errors='replace')}")
        return out.decode()

    def milliseconds(self, *args: str) -> float:
        start = time.perf_counter()
        self.do(*args)
        return (time.perf_counter() - start) * 1000

    def start(self, name: str, *args: str) -> None:
        """`run -d --name NAME ARGS…`"""
        self.do("run", "-d", "--name", name, *args)

    def remove(self, *names: str) -> None:
        self.do("rm", "-f", *(("-t0",) if self.is_podman else ()), *names)

    def slirp(self, mtu: int | None = None) -> str:
        """The network by slirp4netns, as each calls it; the host is reachable at 10.0.2.2."""
        if self.is_podman:
            return "--network=slirp4netns" + (f":mtu={mtu},allow_host_loopback=true" if mtu else "")
        return "--network=slirp" + (f":mtu={mtu}" if mtu else "")


@dataclass(frozen=True)
class Pair:
    """Both, and a table that is printed as it grows."""

    podman: Engine
    ctnr: Engine

    def __iter__(self) -> Iterator[Engine]:
        yield from (self.podman, self.ctnr)

    def measure(
        self, name: str, budget: float | None, measure: Callable[[Engine], float], *, rounds: int = ROUNDS,
        unit: str = "ms", more_is_better: bool = False,
    ) -> Row:  # fmt: skip
        """Medians of `measure`, rounds alternating between the two, after one round that does not count."""
        found: dict[str, list[float]] = {"podman": [], "ctnr": []}
        for number in range(rounds + 1):
            for engine in (self.podman, self.ctnr) if number % 2 else (self.ctnr, self.podman):
                value = measure(engine)
                if number:
                    found[engine.name].append(value)
        podman, ctnr = statistics.median(found["podman"]), statistics.median(found["ctnr"])
        return show(Row(name, podman, ctnr, budget, unit, more_is_better))


def show(row: Row) -> Row:
    """Print a row at once: a whole run takes minutes."""
    name, podman, ctnr, ratio, aim = row.cells()
    print(f"{name:58} {podman:>14} {ctnr:>14} {ratio:>8}  {aim}", flush=True)
    return row
