"""The programs in the documents, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[3] / "docs" / "embedding.md"


def test_the_example_of_embedding(bundle: Path, tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    path = tmp_path / "example.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, path, bundle], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, page, status = done.stdout.splitlines()
    assert re.fullmatch(r"published on \d+", first)
    assert (page, status) == ("root:x:0:0:root:/root:/bin/sh", "status 137")
