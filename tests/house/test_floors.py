"""The floors of the house: imports point down, and the client stays thin."""

from __future__ import annotations

import ast
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("netconf", "supervisor", "ctnr")
"""from the ground up: each may import itself and what is below it"""

NEVER_IN_THE_CLIENT = {
    "trio",
    "structlog",
    "msgspec",
    "pyroute2",
    "asyncio",
    "zstandard",
    "isal",
    "dns",
    "supervisor",
    "netconf",
}
INIT = ("init", "birth", "wire", "syscalls", "executable", "marked", "places", "matcher")
STANDARD_LIBRARY_ONLY = ("ctnr/cli", "ctnr/client", *(f"supervisor/sandbox/{name}.py" for name in INIT))


def sources(*under: str) -> list[Path]:
    found: list[Path] = []
    for name in under:
        path = ROOT / name
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return found


def imports(source: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, wherever in it; relative ones by their whole name."""
    package = source.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join((*above, *([node.module] if node.module else ())))


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor: str) -> None:
    above = set(FLOORS[FLOORS.index(floor) + 1 :]) | {"tests"}
    upward = [
        f"{source.relative_to(ROOT)}:{line} imports {module}"
        for source in sources(floor)
        for line, module in imports(source)
        if module.split(".")[0] in above
    ]
    assert not upward


def test_data_has_no_processes() -> None:
    """netconf is data: no trio, no processes, no sockets."""
    forbidden = {"trio", "asyncio", "subprocess", "socket", "pyroute2", "structlog", "threading"}
    wrong = [
        f"{source.relative_to(ROOT)}:{line} imports {module}"
        for source in sources("netconf")
        for line, module in imports(source)
        if module.split(".")[0] in forbidden
    ]
    assert not wrong


def test_one_file_imports_pyroute2() -> None:
    users = {
        str(source.relative_to(ROOT))
        for source in sources(*FLOORS)
        for _, module in imports(source)
        if module.split(".")[0] == "pyroute2"
    }
    assert users <= {"supervisor/network/netlink.py"}


@pytest.mark.parametrize("part", STANDARD_LIBRARY_ONLY)
def test_thin_parts_use_the_standard_library_only(part: str) -> None:
    # --no-service runs the service in the client's process: ctnr.daemon is that one way in
    own = ("ctnr.cli", "ctnr.client", "ctnr.daemon") if part.startswith("ctnr") else ("supervisor.sandbox",)
    wrong = [
        f"{source.relative_to(ROOT)}:{line} imports {module}"
        for source in sources(part)
        for line, module in imports(source)
        if module.split(".")[0] not in sys.stdlib_module_names | {"_sha2"}  # hashlib's own, since 3.12
        and module != "ctnr"
        and not module.startswith(own)
    ]
    assert not wrong


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--network=none", "nothing-of-that-name", "true"],
        ["exec", "nothing-of-that-name", "true"],
        ["ps"],
        ["version"],
        ["--help"],
    ],
    ids=lambda command: command[0],
)
def test_the_client_is_thin(command: list[str], tmp_path: Path) -> None:
    """What a command imports from its start to its answer, with a service that answers everything with an error."""
    setup = f"import sys; sys.path.append({str(ROOT)!r}); sys.argv[1:] = {command!r}"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(f"{tmp_path}/service.sock")
        service.listen()
        threading.Thread(target=answer_all, args=(service,), daemon=True).start()
        done = subprocess.run(
            [
                sys.executable,
                "-I",
                "-S",
                "-X",
                "importtime",
                "-c",
                f"{setup}; from ctnr.cli.main import entry; entry()",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            env={"CTNR_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        )
        service.shutdown(socket.SHUT_RDWR)
    loaded = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "Traceback" not in done.stderr, done.stderr
    assert "ctnr.cli.main" in loaded
    assert not {name.split(".")[0] for name in loaded} & NEVER_IN_THE_CLIENT


def answer_all(service: socket.socket) -> None:
    """Take one request per connection and answer it with an error, until the socket is shut."""
    answer = json.dumps({"event": "error", "message": "enough", "cure": None, "status": 125}).encode()
    while True:
        try:
            connection, _ = service.accept()
        except OSError:
            return
        with connection:
            connection.recv(65_536)
            connection.sendall(len(answer).to_bytes(4, "big") + answer)
