"""What can be wrong with a request for a bundle."""

from __future__ import annotations

from supervisor.errors import SupervisorError


class BundleError(SupervisorError):
    """The image's configuration and the options asked for do not make a container."""


class BundleBusy(BundleError):
    """Another container runs in that bundle."""
