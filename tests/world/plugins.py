"""CNI plugins for tests: real programs, which a file tells what to answer and which record what they were asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_PROGRAM = Path(__file__).with_name("noop_plugin.py")
MODERN = {"stdout": '{"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]}'}


class NoopPlugin:
    """One in `folder`. `python` has to be one that the person can run who uses it."""

    def __init__(self, folder: Path, name: str, python: str = sys.executable) -> None:
        self.path = folder / name
        folder.mkdir(exist_ok=True)
        if not self.path.exists():
            self.path.write_text(f"#!{python} -IS\n{_PROGRAM.read_text()}")
            self.path.chmod(0o755)

    def tell(self, **told: dict[str, Any]) -> None:
        """What it does from now on: {command: {"status", "stdout", "stderr", "sleep", "signal"}}."""
        Path(f"{self.path}.json").write_text(json.dumps(told))

    def calls(self, command: str | None = None) -> list[dict[str, Any]]:
        """What it was asked: {command, env, stdin, time (its start, in seconds of the monotonic clock)}."""
        path = Path(f"{self.path}.calls")
        known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in known if command in (None, call["command"])]

    def commands(self) -> list[str]:
        return [call["command"] for call in self.calls()]

    def stdin(self, number: int = -1, command: str | None = None) -> Any:
        return json.loads(self.calls(command)[number]["stdin"])


def failing(code: int, msg: str) -> dict[str, Any]:
    """A reply by which a plugin says that it failed."""
    return {"status": 1, "stdout": json.dumps({"cniVersion": "1.0.0", "code": code, "msg": msg})}
