"""The front doors: every name is there, and none of them costs anything before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["supervisor", "ctnr"])
def test_every_name_is_there_and_comes_late(package: str) -> None:
    program = (
        f"import sys, {package} as package\n"
        "early = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not early & {'trio', 'msgspec', 'structlog', 'netconf'}, early\n"
        "for name in package.__all__: getattr(package, name)\n"
        "try: package.nonsense\n"
        "except AttributeError: print(len(package.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3
