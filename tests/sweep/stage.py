"""Where stories are played: a supervisor, and an engine on a store of its own, in this process, and a look at it all.

`Stage.look` sees what the leak guard sees (tests/world/leaks.py) and, in the sandbox, its files, mounts, processes, the
links beside the uplink, init's descriptors, and trio's tasks. All are counted by what they are.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from ctnr import __version__
from ctnr.engine import Engine
from ctnr.handlers import build_handlers
from supervisor import ContainerSpec, open_supervisor
from supervisor.errors import SupervisorError
from supervisor.network.netlink import Netlink, open_socket_in
from supervisor.network.netns import READY
from supervisor.network.ports import parse_ports, reserve_ports
from supervisor.realm import Realm
from supervisor.sandbox.descriptors import close_all
from supervisor.service.frames import FrameSocket
from supervisor.service.server import Server
from supervisor.supervisor import Supervisor
from tests.conftest import watched_folders
from tests.world import leaks
from tests.world.machine import Machine

SETTLE_SECONDS = 10
IMAGE = "demo"


class Refused(Exception):
    """The service's error event."""

    def __init__(self, event: dict[str, Any]) -> None:
        super().__init__(event["message"])
        self.event = event


class Home:
    """What outlives a stage: the folders, and the image in the store."""

    def __init__(self, machine: Machine, image: Path) -> None:
        self.machine = machine
        self.image = image
        # short: a socket's whole path has to fit into 108 bytes
        self.directory = Path(tempfile.mkdtemp(prefix="s-", dir=machine.root))
        self.store = self.directory / "store"
        self.known = leaks.snapshot()
        self.run = self.directory / "run"
        self.run.mkdir()

    def close(self) -> None:
        shutil.rmtree(self.directory)

    def look(self) -> leaks.Snapshot:
        return leaks.snapshot([*watched_folders(self.machine), self.directory])

    @asynccontextmanager
    async def open_stage(self, *, rootless: bool) -> AsyncIterator[Stage]:
        async with open_supervisor(str(self.run)) as supervisor:
            yield Stage(self, supervisor, rootless=rootless)


class Stage:
    """A supervisor that runs, and an engine on it."""

    def __init__(self, home: Home, supervisor: Supervisor, *, rootless: bool) -> None:
        self.home = home
        self.rootless = rootless
        self.supervisor = supervisor
        self.engine = Engine(str(home.store), supervisor, runtime_dir=str(home.run))
        self.forgets_late = False  # where the removal itself may fail: what is left is the next clean-up's
        self._server = Server(build_handlers(self.engine), version=__version__)

    def run(self, spec: ContainerSpec) -> Any:
        return self.supervisor.run(spec, rootless=self.rootless)

    async def realm(self) -> Realm:
        return await self.supervisor.realm(rootless=self.rootless)

    async def prepare(self) -> None:
        """Pull the image that stories of the engine run. Once for each home."""
        image = await self.ask("pull", image=f"oci:{self.home.image}", image_policy="insecure")
        await self.ask("image-tag", image=image["id"], name=IMAGE)

    async def ask(self, op: str, **fields: Any) -> Any:
        """One request over a socket, as a client makes it; its answer. Cancelled, the client goes. Raises: Refused."""
        ours, theirs = (trio.socket.from_stdlib_socket(one) for one in socket.socketpair())
        frames = FrameSocket(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.serve_connection, theirs)
            try:
                await frames.send({"op": op, "version": __version__, **fields})
                answer: dict[str, Any] = {}
                while answer.get("event") not in ("result", "exited", "error"):
                    frame = await frames.receive()
                    assert frame is not None, "the service closed the connection"
                    answer = msgspec.json.decode(frame)
                    close_all(frames.take_descriptors())
            finally:
                frames.close()
        if answer["event"] == "error":
            raise Refused(answer)
        return answer.get("value", answer.get("status"))

    async def clear(self) -> None:
        """Take away what a story may rightly leave: containers that are known, and images that came whole."""
        for record in self.engine.records.all():
            if (container := self.engine.live(record)) is not None:
                container.cancel()
                await container.wait_gone()
            elif record.request.remove and not self.forgets_late:
                raise AssertionError(f"{record.name} was to be removed, and is on record")
            with contextlib.suppress(SupervisorError):
                await self.engine.remove(record)
        await self.engine.volumes.sweep(sandbox=self.engine.sandbox)
        root = self.engine.volumes.root
        found = os.listdir(root) if os.path.isdir(root) else []
        assert set(found) <= {"sweep"}, f"volumes that nobody has a name for: {found}"
        for image in self.engine.images.list():
            whole = self.engine.images.load(image.id)
            assert whole is not None, f"half an image is visible: {image}"
            assert all(map(os.path.isdir, whole.layer_paths)), f"half an image is visible: {image}"
            if not any(name in (IMAGE, f"{IMAGE}:latest") for name in map(os.path.basename, image.names)):
                await self.ask("image-rm", images=[image.id], force=True)
        await self.ask("image-gc")

    async def expect(self, before: Counter[str], when: str) -> None:
        """Raises: AssertionError if, after a while, more is there than `before`."""
        left: Counter[str] = Counter()
        with trio.move_on_after(SETTLE_SECONDS):
            while left := await self.look() - before:  # noqa: ASYNC110 -- the kernel has no event for it
                await trio.sleep(0.005)
        assert not left, f"{when}, these are left: {dict(left)}"
        reserve_ports(parse_ports("8080-8082:80-82")).close()  # those of the stories

    async def _refill(self) -> None:
        """Until the pool has its namespaces again: one that was left must not be taken for one that is in store."""
        pool = (await self.realm()).netns_pool
        while any(len(ready) < READY for ready in pool._ready.values()):  # noqa: ASYNC110 -- nobody else asks
            await trio.sleep(0.002)

    async def look(self) -> Counter[str]:
        """Everything that is there."""
        await self._refill()
        leaks.reap_strays(self.home.known)
        found = Counter({"containers": len(self.supervisor.containers)})
        found.update(
            in_words(kind, text) for kind, things in self.home.look().items() for text in things.values()
        )
        realm = await self.realm()
        found.update(look_inside(realm.sandbox.init_pid, realm.sandbox.run_dir))
        uplink = realm.networks.uplink
        if uplink is not None and uplink.slirp is not None:
            with Netlink(await open_socket_in(realm.sandbox, uplink.netns)) as netlink:
                found.update(
                    f"link {_normal(link.name)} beside the uplink" for link in await netlink.links()
                )
        found["trio task"] = trio.lowlevel.current_statistics().tasks_living
        return found


def look_inside(init_pid: int, run_dir: str) -> Iterator[str]:
    """What is in a sandbox: files of its run directory, mounts, processes and init's descriptors, told in words."""
    root = f"/proc/{init_pid}/root{run_dir}"
    for folder, folders, files in os.walk(root):
        if folder.endswith("/rootfs"):  # an image's files
            folders.clear()
            continue
        for name in (*folders, *files):
            if name.startswith(
                ("crun.", "runc.")
            ):  # on which a runtime mounted itself; it goes with the sandbox
                continue
            yield f"file in the sandbox {_normal(os.path.relpath(f'{folder}/{name}', root))}"
    for line in Path(f"/proc/{init_pid}/mountinfo").read_text().splitlines():
        yield f"mount in the sandbox {_normal(line.split()[4])}"
    for pid in leaks.descendants(init_pid):
        with contextlib.suppress(OSError):
            yield f"process in the sandbox {Path(f'/proc/{pid}/comm').read_text().strip()}"
    for _ in os.listdir(f"/proc/{init_pid}/fd"):
        yield "descriptor of init"


def _normal(text: str) -> str:
    """Without what differs from one to the next of its kind."""
    text = re.sub(r"\b[0-9a-f]{12,64}\b", "ID", re.sub(r"netns/\d+", "netns/N", text))
    text = re.sub(r"\b(socket|pipe|net|mnt|user):\[\d+\]", r"\1", text)
    text = re.sub(r"/proc/\d+/", "/proc/N/", text)
    return re.sub(r"veth[0-9a-f]{8}", "veth", text)


def in_words(kind: str, text: str) -> str:
    if kind == "process":  # "PID PROGRAM ARGUMENTS"
        return f"process {os.path.basename(text.split()[1])}"
    if kind == "descriptor":  # "NUMBER → TARGET"
        text = text.partition(" → ")[2]
    if kind == "network namespace":
        return kind if text.startswith("net:") else f"{kind} {text}"
    return f"{kind} {_normal(text)}"


@contextmanager
def open_home(machine: Machine, image: Path) -> Iterator[Home]:
    home = Home(machine, image)
    try:
        yield home
    finally:
        home.close()
