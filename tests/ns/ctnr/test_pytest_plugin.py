"""The plugin as its users have it: installed, found by its entry point, in a pytest of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.ns.ctnr.conftest import left_in

DOCUMENT = Path(__file__).parents[3] / "docs" / "testing.md"


def run(pytester: pytest.Pytester, store: Path, **outcomes: int) -> pytest.RunResult:
    done = pytester.runpytest_subprocess(f"--ctnr-store-dir={store}", "-p", "no:cacheprovider", timeout=90)
    done.assert_outcomes(**outcomes)
    assert left_in(store) == []
    return done


def test_the_tests_of_the_document(pytester: pytest.Pytester, store: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    for number, text in enumerate(programs):
        pytester.makepyfile(**{f"test_{number}": text.replace("alpine:3.8", "demo")})
    run(pytester, store, passed=len(re.findall(r"def test_", "".join(programs))))


def test_containers_end_with_their_test(pytester: pytest.Pytester, store: Path) -> None:
    pytester.makepyfile(
        """
        import pytest

        SLEEP = ["sleep", "1000"]

        def test_first(containers):
            one = containers.run("demo", SLEEP, name="one", networks=["none"])
            assert containers.engine.containers == (one,)
            assert False, "on purpose"

        def test_second(ctnr_engine):
            assert ctnr_engine.containers == ()

        @pytest.mark.container("demo", SLEEP, networks=["none"], env={"WHO": "me"})
        def test_marked(container, ctnr_engine):
            assert container.exec(["sh", "-c", "echo $WHO"]).stdout == b"me\\n"
            assert ctnr_engine.containers == (container,)

        @pytest.mark.trio
        @pytest.mark.container("demo", SLEEP, networks=["none"])
        async def test_trio(trio_container, trio_containers):
            assert (await trio_container.exec(["echo", "hi"])).stdout == b"hi\\n"
            other = await trio_containers.run("demo", SLEEP, networks=["none"])
            assert len(trio_containers.engine.containers) == 2

        @pytest.mark.trio
        async def test_trio_crash(trio_containers):
            await trio_containers.run("demo", SLEEP, networks=["none"])
            assert False, "on purpose"
        """
    )
    run(pytester, store, passed=3, failed=2)


def test_what_goes_wrong_is_told(pytester: pytest.Pytester, store: Path) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_no_mark(container):
            pass

        @pytest.mark.container("demo", ["no-such"], networks=["none"])
        def test_no_such_command(container):
            pass
        """
    )
    done = run(pytester, store, errors=2)
    done.stdout.fnmatch_lines_random(["*the fixture needs a mark*", "*CommandNotFound: no-such: not found*"])


def test_it_costs_nothing_unless_it_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_of_it_is_loaded():
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "ctnr.pytest_plugin" in sys.modules
            assert not loaded & {"supervisor", "netconf", "msgspec", "structlog"}
            assert {name for name in sys.modules if name.startswith("ctnr")} == {"ctnr", "ctnr.pytest_plugin"}
        """
    )
    pytester.runpytest_subprocess("-p", "no:trio", "-p", "no:cacheprovider").assert_outcomes(passed=1)
