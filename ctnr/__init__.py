"""ctnr: OCI images, bundles and the command line over the `supervisor` library.

Importing it costs nothing: the thin client passes through here on every command. What programs use comes at first use.
"""

from __future__ import annotations

__version__ = "0.1.0"  # pyproject.toml says the same; a test compares them

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.embedded import EmbeddedEngine as EmbeddedEngine
    from ctnr.embedded import open_engine as open_engine
    from ctnr.options import RunOptions as RunOptions

_HOMES = {
    "EmbeddedEngine": "ctnr.embedded",
    "RunOptions": "ctnr.options",
    "open_engine": "ctnr.embedded",
}
__all__ = ["EmbeddedEngine", "RunOptions", "__version__", "open_engine"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ctnr' has no attribute {name!r}")
    return getattr(__import__(home, fromlist=[name]), name)
