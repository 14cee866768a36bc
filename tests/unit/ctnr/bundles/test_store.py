"""What a store says of a bundle that it can't read."""

from __future__ import annotations

import builtins
import errno
from pathlib import Path
from typing import Any

import pytest

from ctnr.bundles.store import BundleStore, new_file


def test_what_can_not_be_read_now_is_not_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for an empty one it would be removed without its volumes, which nobody could name any more."""
    store = BundleStore(str(tmp_path))
    bundle = store.open("one")
    bundle.save(new_file("sha256:0", "demo", "", named=False))
    volumes = bundle.name_volumes(["/data"])

    def open_nothing(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", open_nothing)
        with pytest.raises(OSError, match="Too many open files"):
            assert bundle.file is None
    assert bundle.file is not None
    assert bundle.file.volumes == volumes
    (tmp_path / "one" / "bundle.json").write_bytes(b"{")
    assert store.file("one") is None
    assert store.file("two") is None
    bundle.close()
