"""What Tab offers, from the tables and from a service that runs."""

from __future__ import annotations

import pytest

from .conftest import ID, Ctnr


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", ["run", "net", "help"]),
        ("ru", ["run"]),
        ("net cr", ["create"]),
        ("network cr", ["create"]),
        ("container pr", ["prune"]),
        ("stop ", ["web", ID[:12]]),
        ("rm web ", ["web", ID[:12]]),
        ("exec we", ["web"]),
        ("port ", ["add", "remove", "rm", "web", ID[:12]]),
        ("net rm ", ["mine"]),
        ("net disconnect mine w", ["web"]),
        ("run ", ["localhost/demo:latest"]),
        ("run -it loc", ["localhost/demo:latest"]),
        ("run --net", ["--network", "--network-alias"]),
        ("run --network ", ["host", "none", "mine"]),
        ("run --network = m", ["mine"]),
        ("run --network = ", ["host", "none", "mine"]),
        ("run --network=m", ["--network=mine"]),
        ("run --network container:", ["container:web", f"container:{ID[:12]}"]),
        ("run --pull ", ["always", "missing", "never", "newer"]),
        ("run -b ", ["work"]),
        ("run -v ", [":files", "data:"]),
        ("volume rm d", ["data"]),
        ("volume p", ["prune"]),
        ("volume create ", []),
        ("run demo --", [":files"]),
        ("bundle run w", ["work"]),
        ("cp we", [":files", "web:"]),
        ("--store-dir ", [":files"]),
        ("--store-dir x ru", ["run"]),
        ("--deb", ["--debug"]),
        ("rmi ", ["localhost/demo:latest"]),
        ("completion ", ["bash", "fish", "zsh"]),
        ("nothing ", []),
    ],
)
def test_candidates(ctnr: Ctnr, line: str, wanted: list[str]) -> None:
    assert ctnr("completion", "-", *line.split(" ")) == 0
    offered = [one.partition("\t")[0] for one in ctnr.out.splitlines()]
    if line:
        assert sorted(offered) == sorted(wanted)
    else:
        assert set(wanted) <= set(offered)


def test_scripts(ctnr: Ctnr) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert ctnr("completion", shell) == 0
        assert "ctnr completion -" in ctnr.out or "completion - " in ctnr.out
    assert ctnr("completion", "tcsh") == 125
