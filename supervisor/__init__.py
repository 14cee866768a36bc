"""supervisor: containers, their networks and helper processes as structured-concurrency tasks on trio.

Names are imported at first use, so that init (PID 1 of a sandbox), which lives in this package, starts without trio.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.container import Container as Container
    from supervisor.errors import SupervisorError as SupervisorError
    from supervisor.events import Event as Event
    from supervisor.spec import ContainerSpec as ContainerSpec
    from supervisor.supervisor import Supervisor as Supervisor
    from supervisor.supervisor import open_supervisor as open_supervisor

_HOMES = {
    "Container": "supervisor.container",
    "ContainerSpec": "supervisor.spec",
    "Event": "supervisor.events",
    "SupervisorError": "supervisor.errors",
    "Supervisor": "supervisor.supervisor",
    "open_supervisor": "supervisor.supervisor",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'supervisor' has no attribute {name!r}")
    module = __import__(home, fromlist=[name])
    return getattr(module, name)
