"""What the client itself reports. `ctnr/cli/main.py` is the one place that prints these."""

from __future__ import annotations


class ClientError(Exception):
    """A command failed: `message` is lower-case *what: why*, `cure` says what to do, `exit_status` is the process's."""

    def __init__(
        self,
        message: str,
        *,
        cure: str | None = None,
        exit_status: int = 125,
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.cure, self.exit_status = message, cure, exit_status
        self.remote_traceback = remote_traceback  # the service's, shown by --debug


class UsageError(ClientError):
    """The command line can't be understood."""


class Interrupted(KeyboardInterrupt):
    """A signal ends this command; its exit status is 128 + `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
