"""ctnr: OCI images, bundles and the command line over the `supervisor` library.

Importing it costs nothing: the thin client passes through here on every command.
"""

__version__ = "0.1.0"  # pyproject.toml says the same; a test compares them
