"""What can go wrong in the supervisor, told apart by whose part failed.

Messages are lower-case, *what failed: why*; the remedy stands in `cure`, so that a front end can print it on
its own. `exit_status` is what a command line should end with (125 ours, 126 not executable, 127 not found).
"""

from __future__ import annotations


class SupervisorError(Exception):
    """The root of the tree."""

    exit_status = 125

    def __init__(self, message: str, *, cure: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure


class SandboxError(SupervisorError):
    """The namespaces around init could not be made, or init is gone."""


class RuntimeFailed(SupervisorError):
    """The OCI runtime (crun, runc) refused or failed."""


class CommandNotFound(RuntimeFailed):
    """The program is not in the container (the shell's 127)."""

    exit_status = 127


class CommandNotExecutable(RuntimeFailed):
    """The program is there, and can't be executed (the shell's 126)."""

    exit_status = 126


class AttachmentError(SupervisorError):
    """A network could not be attached, checked or detached."""


class PluginError(AttachmentError):
    """A CNI plugin answered with an error.

    `code` is the spec's (CNI 1.1.0 section 5, "Error") or the plugin's own from 100 up.
    """

    def __init__(
        self, plugin: str, command: str, code: int, msg: str, details: str = "", *, cure: str | None = None
    ) -> None:
        text = f"network plugin {plugin} failed at {command}: {msg}"
        if details:
            text += f": {details}"
        super().__init__(f"{text} (CNI error code {code})", cure=cure)
        self.plugin, self.command, self.code, self.msg, self.details = plugin, command, code, msg, details


class SlirpError(AttachmentError):
    """slirp4netns did not start, or can't be kept running."""


class LimitError(SupervisorError):
    """A limit can't be set: the kernel refuses it, or cgroups are not ours to make here."""


class StepTimeout(SupervisorError):
    """A step of setting up or tearing down did not end in time."""

    def __init__(self, step: str, seconds: float) -> None:
        super().__init__(f"{step}: not done after {seconds:g} s")
        self.step, self.seconds = step, seconds


class GroupFailed(SupervisorError):
    """A group of containers had more restarts than it may have. `container` was the last to end, with `status`."""

    def __init__(self, message: str, *, container: str, status: int) -> None:
        super().__init__(message, cure="see the container's log, or give open_group more restarts")
        self.container, self.status = container, status


class NameInUse(SupervisorError):
    """Another container has that name."""


class NotFound(SupervisorError):
    """No container, image, network or bundle of that name."""


class WrongState(SupervisorError):
    """The container's state does not allow what was asked."""
