"""supervisor: containers, their networks and helper processes as structured-concurrency tasks on trio.

Names are imported at first use, so that init (PID 1 of a sandbox), which lives in this package, starts without trio.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.bundle import open_bundle as open_bundle
    from supervisor.container import Container as Container
    from supervisor.errors import AttachmentError as AttachmentError
    from supervisor.errors import CommandNotExecutable as CommandNotExecutable
    from supervisor.errors import CommandNotFound as CommandNotFound
    from supervisor.errors import GroupFailed as GroupFailed
    from supervisor.errors import NameInUse as NameInUse
    from supervisor.errors import NotFound as NotFound
    from supervisor.errors import PluginError as PluginError
    from supervisor.errors import RuntimeFailed as RuntimeFailed
    from supervisor.errors import SandboxError as SandboxError
    from supervisor.errors import SlirpError as SlirpError
    from supervisor.errors import StepTimeout as StepTimeout
    from supervisor.errors import SupervisorError as SupervisorError
    from supervisor.errors import WrongState as WrongState
    from supervisor.events import Event as Event
    from supervisor.exec import Exec as Exec
    from supervisor.network.ports import PortMapping as PortMapping
    from supervisor.network.ports import parse_ports as parse_ports
    from supervisor.runtime.logs import LogLine as LogLine
    from supervisor.runtime.stdio import Stdio as Stdio
    from supervisor.sandbox.process import Completed as Completed
    from supervisor.spec import ContainerSpec as ContainerSpec
    from supervisor.spec import Program as Program
    from supervisor.spec import State as State
    from supervisor.strategies import Group as Group
    from supervisor.strategies import Member as Member
    from supervisor.strategies import Strategy as Strategy
    from supervisor.strategies import open_group as open_group
    from supervisor.supervisor import Supervisor as Supervisor
    from supervisor.supervisor import open_supervisor as open_supervisor

_HOMES = {
    "supervisor.bundle": ("open_bundle",),
    "supervisor.container": ("Container",),
    "supervisor.errors": (
        "AttachmentError", "CommandNotExecutable", "CommandNotFound", "GroupFailed", "NameInUse", "NotFound",
        "PluginError", "RuntimeFailed", "SandboxError", "SlirpError", "StepTimeout", "SupervisorError", "WrongState",
    ),
    "supervisor.events": ("Event",),
    "supervisor.exec": ("Exec",),
    "supervisor.network.ports": ("PortMapping", "parse_ports"),
    "supervisor.runtime.logs": ("LogLine",),
    "supervisor.runtime.stdio": ("Stdio",),
    "supervisor.sandbox.process": ("Completed",),
    "supervisor.spec": ("ContainerSpec", "Program", "State"),
    "supervisor.strategies": ("Group", "Member", "Strategy", "open_group"),
    "supervisor.supervisor": ("Supervisor", "open_supervisor"),
}  # fmt: skip
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(__import__(home, fromlist=[name]), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'supervisor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
