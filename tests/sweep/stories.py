"""The stories that the sweeps play: what people do with containers, each as short as it can be told.

A story takes a stage, and leaves nothing if nobody disturbs it. One more is a function here, with a line in `STORIES`.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from ctnr.embedded import EmbeddedEngine, tell_nobody
from netconf import load_builtin
from supervisor import ContainerSpec, open_group
from supervisor.bundle import open_bundle
from supervisor.cgroups.limits import Limits
from supervisor.health import HealthCheck, OnFailure
from supervisor.network.ports import parse_ports
from supervisor.readiness import parse_ready
from supervisor.restart import Restart, RestartPolicy
from supervisor.runtime.stdio import Stdio
from tests.sweep.stage import IMAGE, Stage

PULLED = "layered:sweep"  # test_cancel.py and test_errors.py put it into the registry


@dataclass(frozen=True)
class Props:
    """What stories need that is not the stage."""

    bundle: Path
    log: Path


Story = Callable[[Stage, Props], Awaitable[None]]


def _spec(props: Props, *args: str, ports: str = "", **more: Any) -> ContainerSpec:
    networks = [load_builtin(name) for name in more.pop("networks", ())]
    spec = open_bundle(str(props.bundle), name="hero", args=args, networks=networks, **more)
    return dataclasses.replace(spec, ports=parse_ports(ports)) if ports else spec


async def _play(stage: Stage, spec: ContainerSpec) -> None:
    async with stage.run(spec) as container:
        assert await container.wait() == 0


async def plain(stage: Stage, props: Props) -> None:
    await _play(stage, _spec(props, "true"))


async def slirp(stage: Stage, props: Props) -> None:
    await _play(stage, _spec(props, "true", networks=["slirp"], ports="8080:80"))


async def slirp_and_bridge(stage: Stage, props: Props) -> None:
    await _play(stage, _spec(props, "true", networks=["slirp", "bridge"], ports="8080:80"))


async def bridge(stage: Stage, props: Props) -> None:
    await _play(stage, _spec(props, "true", networks=["bridge"], ports="8080:80"))


async def names(stage: Stage, props: Props) -> None:
    await _play(stage, _spec(props, "nslookup", "hero", "10.2.0.1", networks=["bridge"]))


async def terminal(stage: Stage, props: Props) -> None:
    await _play(stage, _spec(props, "true", stdio=Stdio(tty=True, rows=24, columns=80)))


async def log(stage: Stage, props: Props) -> None:
    try:
        await _play(stage, _spec(props, "echo", "hi", log_path=str(props.log)))
        assert props.log.exists()
    finally:
        props.log.unlink(missing_ok=True)


async def connect(stage: Stage, props: Props) -> None:
    """Networks that come and go while the container runs, and a published port with the first of them."""
    async with stage.run(_spec(props, "sleep", "1000", networks=["bridge"], ports="8080:80")) as container:
        await container.membership.connect(load_builtin("slirp"))
        await container.membership.disconnect("bridge")
        await container.membership.disconnect("slirp")
        await container.membership.connect(load_builtin("bridge"), mac="02:42:0a:02:00:09")


async def relay(stage: Stage, props: Props) -> None:
    """Ports by the relay, one of them published and withdrawn while the container runs."""
    spec = _spec(props, "sleep", "1000", networks=["slirp"], ports="8080:80")
    async with stage.run(spec) as container:
        await container.membership.publish(parse_ports("8081:81"))
        await container.membership.withdraw(parse_ports("8080:80"))


async def ports(stage: Stage, props: Props) -> None:
    """Ports by portmap (rootless: UDP only) and by a relay, published and withdrawn while the container runs."""
    spec = _spec(props, "sleep", "1000", networks=["bridge"], ports="8080-8081:80-81/udp")
    async with stage.run(spec) as container:
        await container.membership.publish((*parse_ports("8082:82"), *parse_ports("8082:82/udp")))
        await container.membership.withdraw(parse_ports("8080:80/udp"))


async def restarts(stage: Stage, props: Props) -> None:
    """By policy with its back-off, by hand, and stopped."""
    policy = RestartPolicy(when=Restart.ON_FAILURE, retries=1, first_seconds=0.002)
    failing = dataclasses.replace(_spec(props, "false", networks=["slirp"]), restart=policy)
    async with stage.run(failing) as container:
        status = await container.wait()
        if container.error is not None:  # a later round could not be set up: it ends by that
            raise container.error
        assert status == 1
    async with stage.run(dataclasses.replace(_spec(props, "sleep", "1000"), restart=policy)) as container:
        await container.restart(0)
        await container.stop(0)


async def pasta(stage: Stage, props: Props) -> None:
    await _play(stage, _spec(props, "true", networks=["pasta"], ports="8080:80"))


async def watched(stage: Stage, props: Props) -> None:
    """With a health check that turns bad and is answered by a restart, under a policy, ready by its own word."""
    policy = RestartPolicy(when=Restart.ALWAYS, first_seconds=0.002)
    check = HealthCheck(command=("false",), interval_seconds=0.01, retries=1, on_failure=OnFailure.RESTART)
    spec = _spec(props, "sleep", "1000", networks=["slirp"])
    spec = dataclasses.replace(
        spec, restart=policy, health=check, ready=parse_ready("notify"), stop_seconds=0.01
    )
    async with stage.run(spec) as container:
        started = container.started_at
        await container.wait_until(lambda: container.started_at != started)
        await container.stop(0)


async def searched(stage: Stage, props: Props) -> None:
    """Ready by a pattern that a process of its own looks for."""
    spec = _spec(props, "sh", "-c", "echo up; exec sleep 1000", log_path=str(props.log))
    try:
        async with stage.run(dataclasses.replace(spec, ready=parse_ready("log:^up+$"))) as container:
            await container.wait_ready()
    finally:
        props.log.unlink(missing_ok=True)


async def exec_in(stage: Stage, props: Props) -> None:
    """One more program in a container, its output captured."""
    async with stage.run(_spec(props, "sleep", "1000")) as container:
        done = await container.exec(["echo", "hi"], stdin=b"there")
        assert (done.status, done.stdout) == (0, b"hi\n")


async def group(stage: Stage, props: Props) -> None:
    """Two that are started again together, when one of them has been killed."""
    start = partial(stage.supervisor.start, rootless=stage.rootless)
    spec = dataclasses.replace(_spec(props, "sleep", "1000"), stop_signal=signal.SIGKILL)
    async with open_group("one_for_all") as members:
        first = await members.start(start, dataclasses.replace(spec, name="first"))
        second = await members.start(start, dataclasses.replace(spec, id=f"{spec.id}2", name="second"))
        second.container.cancel()
        while not (first.restarts and second.restarts):  # noqa: ASYNC110
            await trio.sleep(0.05)
        members.cancel_scope.cancel()


async def embedded(stage: Stage, props: Props) -> None:
    """As programs do it: an image's container as a block, its log followed, streams into it, one captured."""
    engine = EmbeddedEngine(stage.engine, tell_nobody)
    args = ["sh", "-c", "echo hi; exec sleep 1000"]
    async with engine.run(IMAGE, args, networks=["slirp"], rootless=stage.rootless) as container:
        async with container.open_exec(["cat"]) as process:
            await process.stdin.send_all(b"there")
            assert await process.stdout.receive_some() == b"there"
        async with aclosing(container.logs(follow=True)) as lines:
            container.cancel()
            async for line in lines:  # none if the disk was full
                assert line.data == b"hi\n"
    done = await engine.run_process(
        IMAGE, ["cat"], stdin=b"through", networks=["none"], rootless=stage.rootless
    )
    assert done.stdout == b"through"


async def confined(stage: Stage, props: Props) -> None:
    """A cgroup from the start, more of it while the container runs, and a pause in which it ends."""
    limits = Limits(memory=64 << 20, pids=20)
    spec = dataclasses.replace(_spec(props, "sleep", "1000"), limits=limits)
    async with stage.run(spec) as container:
        await container.update(limits.merged(Limits(cpu_quota=50_000)))
        await container.exec(["true"])
        await container.confinement.pause()
        await container.confinement.unpause()
        await container.confinement.pause()


async def foreground(stage: Stage, props: Props) -> None:
    """As `ctnr run --rm`, over the service's socket: however early its client goes, it is forgotten."""
    await stage.ask(
        "run", image=IMAGE, args=["touch", "/scratch/x"], remove=True, networks=["none"], rootless=stage.rootless,
        volumes=["/scratch"],
    )  # fmt: skip


async def detached(stage: Stage, props: Props) -> None:
    """As `ctnr run -d`, `logs`, `stop` and `rm` do it, over the service's socket."""
    args = ["sh", "-c", "echo up; exec sleep 1000"]
    made = await stage.ask(
        "run", image=IMAGE, args=args, name="hero", detach=True, networks=["slirp"], publish=["8080:80"],
        rootless=stage.rootless, volumes=["sweep:/data", "/scratch"], stop_signal="KILL",
    )  # fmt: skip
    await stage.ask("exec", container="hero", args=["true"])
    await stage.ask("exec", container="hero", args=["true"], tty=True, terminal={"rows": 24, "columns": 80})
    await stage.ask("stop", containers=["hero"])
    await stage.ask("rm", containers=[made["container"]], volumes=True)


async def pull(stage: Stage, props: Props) -> None:
    """From the tests' own registry, and away again."""
    await stage.ask("pull", image=f"docker://{PULLED}", image_policy="insecure")
    await stage.ask("image-rm", images=[f"docker://{PULLED}"])


STORIES: dict[str, Story] = {
    "plain": plain,
    "slirp": slirp,
    "slirp+bridge": slirp_and_bridge,
    "bridge": bridge,
    "names": names,
    "terminal": terminal,
    "log": log,
    "connect": connect,
    "relay": relay,
    "pasta": pasta,
    "ports": ports,
    "restarts": restarts,
    "watched": watched,
    "searched": searched,
    "exec": exec_in,
    "group": group,
    "embedded": embedded,
    "confined": confined,
    "foreground": foreground,
    "detached": detached,
    "pull": pull,
}
