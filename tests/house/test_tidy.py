"""Nothing lies about in the house: no leftovers, no stubs, no names of machines, no document that is not true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THIS = Path(__file__)

TEXT = {".py", ".md", ".toml", ".sh", ".conflist", ".json", ".yml", ".txt", ""}
# what git ignores is not ours; without git (an unpacked archive) the usual suspects
IGNORED = {
    ".git",
    ".venv",
    "build",
    "dist",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
}


def committed() -> list[Path]:
    """The files that are, or are about to be, in a commit."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    found = (path for path in ROOT.rglob("*") if not IGNORED & set(path.relative_to(ROOT).parts))
    return [path for path in found if path.is_file() and path.suffix != ".pyc"]


def lines_with(pattern: str, paths: list[Path]) -> list[str]:
    wanted = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        if path != THIS and path.suffix in TEXT
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if wanted.search(line)
    ]


def test_no_promises_in_the_code() -> None:
    code = [path for path in committed() if path.suffix == ".py"]
    assert not lines_with(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|for now\b", code)


def test_no_place_or_package_mirror_is_named() -> None:
    """Where packages come from and where this checkout lies is the machine's business."""
    hosts = r"\b(pypi|pythonhosted|npmjs|debian|ubuntu|goproxy|golang)\.(org|com|io)\b"
    homes = r"/home/[a-z]+/|/work/|/root/\.(pyenv|cargo)"
    assert not lines_with(f"{hosts}|{homes}", [path for path in committed() if path.name != "LICENSE"])


def test_nothing_made_is_committed() -> None:
    made = [
        path
        for path in committed()
        if path.suffix in {".pyc", ".so", ".whl", ".tar", ".gz"} or path.stat().st_size > 500_000
    ]
    assert not made


def test_top_level_is_the_fixed_one() -> None:
    allowed = {"ctnr", "supervisor", "netconf", "tests", "docs", ".ci"}
    folders = {path.relative_to(ROOT).parts[0] for path in committed() if path.parent != ROOT}
    assert folders <= allowed


def test_modules_are_small() -> None:
    sources = [
        path for path in committed() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "tests"
    ]
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources
        if (count := len(path.read_text().splitlines())) > 600
    }
    assert not long


def documents() -> list[Path]:
    return [path for path in committed() if path.suffix == ".md"]


def test_links_in_documents_lead_somewhere() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents()
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert not broken


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    documents = {path.name for path in committed() if path.parent == ROOT / "docs" and path.suffix == ".md"}
    assert [name for name in sorted(documents - {"index.md"}) if f"]({name})" not in index] == []


def test_places_in_the_architecture_exist() -> None:
    """Files and folders that stand in backquotes with a slash."""
    text = (ROOT / "docs/architecture.md").read_text()
    named = re.findall(r"`((?:ctnr|supervisor|netconf|tests)/[\w/.]+)`", text)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (document.name, target)
        for document in documents()
        for target in re.findall(r"(?:^\$ |`)make ([a-z-]+)", document.read_text(), re.MULTILINE)
    }
    assert not {(where, target) for where, target in named if target not in targets}


def test_commands_in_documents_exist() -> None:
    """Each `ctnr …` in a document is a command that can explain itself."""
    pytest.importorskip("ctnr.cli.main")
    named = {
        command
        for document in documents()
        for command in re.findall(
            r"(?:^\$ |`)ctnr (?:--[a-z-]+ )*([a-z]+)", document.read_text(), re.MULTILINE
        )
    }
    assert named
    unknown = [
        command
        for command in sorted(named)
        if subprocess.run(
            [sys.executable, "-m", "ctnr", command, "--help"], cwd=ROOT, capture_output=True, check=False
        ).returncode
    ]
    assert not unknown
