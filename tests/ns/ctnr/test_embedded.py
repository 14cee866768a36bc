"""The engine in a program: images by reference, containers as blocks, nothing left of either."""

from __future__ import annotations

import signal
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

import ctnr
from ctnr import open_engine
from ctnr.options import NOT_FOR_PROGRAMS, HealthOptions, LimitOptions
from ctnr.requests import HealthWish, Limits, Run
from supervisor import CommandNotFound, Completed, NameInUse, NotFound, State, SupervisorError, WrongState
from tests.ns.ctnr.conftest import IMAGE, left_in

KINDS = pytest.mark.parametrize("rootless", [False, True], ids=["plain", "userns"])
SLEEP = ["sleep", "1000"]


@KINDS
async def test_a_container_lives_as_long_as_its_block(store: Path, rootless: bool) -> None:
    async with open_engine(str(store)) as engine:
        async with engine.run(
            IMAGE, ["sh", "-c", "echo $WHO; echo err >&2; exec sleep 1000"], name="web", env={"WHO": "me"},
            networks=["slirp"], publish=["127.0.0.1::80"], rootless=rootless,
        ) as container:  # fmt: skip
            assert (container.name, container.state) == ("web", State.RUNNING)
            assert engine.get("web") is container
            assert engine.containers == (container,)
            [port] = container.ports
            assert (port.host_ip, port.container_port) == ("127.0.0.1", 80)
            assert port.host_port > 0
            done = await container.exec(["sh", "-c", "echo $WHO; ip addr show cni0"], user="7:8")
            assert done.stdout.startswith(b"me\n")
            assert b"inet 10.0.2.100/24" in done.stdout
            said = {}
            async with aclosing(container.logs(follow=True)) as lines:
                async for line in lines:
                    said[line.stream] = line.data
                    if len(said) == 2:
                        break
            assert said == {"stdout": b"me\n", "stderr": b"err\n"}
            assert len([line async for line in container.logs(tail=1)]) == 1
        assert (container.state, container.status) == (State.STOPPED, 137)
        assert engine.containers == ()
    assert left_in(store) == []


@KINDS
async def test_output_is_captured(store: Path, rootless: bool) -> None:
    async with open_engine(str(store)) as engine:
        script = "cat; echo err >&2; exit 3"
        done = await engine.run_process(
            IMAGE, ["sh", "-c", script], stdin=b"in\n", networks=["none"], rootless=rootless
        )
        assert done == Completed(3, b"in\n", b"err\n")
    assert left_in(store) == []


async def test_images_come_and_go(store: Path, tmp_path: Path, busybox_image: Path) -> None:
    told = []
    async with open_engine(str(tmp_path / "store"), report=told.append) as engine:
        reference = f"oci:{busybox_image}"
        done = await engine.run_process(
            reference, ["echo", "hi"], networks=["none"], image_policy="insecure"
        )
        assert done.stdout == b"hi\n"
        assert told
        [row] = engine.images()
        with pytest.raises(NotFound):
            await engine.pull("no-such-image", pull="never")
        await engine.remove_image(row.id)
        assert engine.images() == []


async def test_cancelling_kills(store: Path) -> None:
    async with open_engine(str(store)) as engine:
        with trio.move_on_after(1) as scope:
            async with engine.run(IMAGE, SLEEP, networks=["none"]) as container:
                await container.wait()
        assert scope.cancelled_caught
        assert container.status == 137
    assert left_in(store) == []


async def test_a_programs_own_exception_comes_out_as_itself(store: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_engine(str(store)) as engine, engine.run(IMAGE, SLEEP, networks=["none"]):
            raise KeyError("mine")
    assert left_in(store) == []


async def test_signals_and_what_stays(tmp_path: Path, busybox_image: Path) -> None:
    async with open_engine(str(tmp_path)) as engine:
        await engine.tag((await engine.pull(f"oci:{busybox_image}", image_policy="insecure")).id, IMAGE)
        trapped = ["sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.05; done"]
        container = await engine.start(IMAGE, trapped, networks=["none"], name="kept", remove=False)
        await trio.sleep(0.3)
        await container.signal(signal.SIGUSR1)
        with trio.fail_after(10):
            assert await container.wait() == 5
        await container.wait_gone()
        with pytest.raises(NameInUse):
            await engine.start(IMAGE, SLEEP, name="kept")
        async with engine.run(
            IMAGE, ["sh", "-c", "echo 1 >/file"], bundle="lasting", networks=["none"]
        ) as one:
            assert await one.wait() == 0
        again = await engine.run_process(None, ["cat", "/file"], bundle="lasting", networks=["none"])
        assert again.stdout == b"1\n"
    assert {path.partition("/")[0] for path in left_in(tmp_path)} == {"containers", "bundles"}


@KINDS
async def test_networks_change_while_it_runs(store: Path, rootless: bool) -> None:
    async with (
        open_engine(str(store)) as engine,
        engine.run(IMAGE, SLEEP, networks=["bridge"], name="one", rootless=rootless) as one,
        engine.run(IMAGE, SLEEP, networks=["bridge"], rootless=rootless) as other,
    ):
        attached = await engine.connect(one, "slirp")
        assert (attached.ifname, [at.ifname for at in one.attachments]) == ("cni1", ["cni0", "cni1"])
        found = await other.exec(["nslookup", "one"])
        assert (found.status, b"10.2.0." in found.stdout) == (0, True)
        [mapping] = await engine.publish(one, "127.0.0.1::80")
        assert one.ports == (mapping,)
        assert await engine.withdraw(one, "80") == (mapping,)
        assert one.ports == ()
        await engine.disconnect(one, "bridge")
        assert [at.network.name for at in one.attachments] == ["slirp"]
        assert b"cni0" not in (await one.exec(["ip", "addr"])).stdout


async def test_events_tell_what_happens(store: Path) -> None:
    async with open_engine(str(store)) as engine:
        events = engine.events()
        await engine.run_process(IMAGE, ["sh", "-c", "exit 4"], networks=["none"], name="short")
        seen = []
        with trio.fail_after(5):
            async for event in events:
                seen.append((event.action, event.status))
                if event.action == "destroy":
                    break
        assert [action for action, _ in seen if action in ("create", "start", "die", "destroy")] == [
            "create", "start", "die", "destroy",
        ]  # fmt: skip
        assert ("die", 4) in seen


@KINDS
async def test_readiness_and_health(store: Path, rootless: bool) -> None:
    script = "sleep 0.2; echo serving; touch /well; exec sleep 1000"
    async with (
        open_engine(str(store)) as engine,
        engine.run(
            IMAGE, ["sh", "-c", script], networks=["none"], rootless=rootless, ready="log:^serving",
            health={"cmd": ["test", "-e", "/well"], "interval": 0.1, "start_period": 10, "start_interval": 0.1},
        ) as container,
    ):  # fmt: skip
        with trio.fail_after(20):
            await container.wait_ready()
            assert container.is_ready
            await container.wait_healthy()
        assert (await container.check_health()).status == 0
    async with open_engine(str(store)) as engine:
        with trio.fail_after(20):
            async with engine.run(IMAGE, ["false"], networks=["none"], ready="log:never") as container:
                with pytest.raises(WrongState, match="was not ready before"):
                    await container.wait_ready()


async def test_what_can_not_be_run(store: Path) -> None:
    async with open_engine(str(store)) as engine:
        with pytest.raises(CommandNotFound):
            await engine.start(IMAGE, ["no-such"], networks=["none"])
        with pytest.raises(TypeError, match="nonsense"):
            await engine.start(IMAGE, nonsense=1)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="detach"):
            await engine.start(IMAGE, detach=True)  # type: ignore[call-arg]
        with pytest.raises(SupervisorError, match=r"expected `array.*got `str`"):
            await engine.start(IMAGE, networks="slirp")
    assert left_in(store) == []


async def test_several_engines_share_a_store_and_a_process(store: Path) -> None:
    async with (
        open_engine(str(store)) as one,
        open_engine(str(store)) as other,
        one.run(IMAGE, SLEEP, name="same", networks=["slirp"]) as first,
    ):
        async with other.run(IMAGE, SLEEP, name="same", networks=["slirp"]) as second:
            assert first.id != second.id
            assert one.containers == (first,)
        assert first.state is State.RUNNING
        assert (await first.exec(["true"])).status == 0
    assert left_in(store) == []


def test_every_option_of_a_run_has_its_keyword() -> None:
    keywords = set(ctnr.RunOptions.__annotations__)
    fields = set(Run.__struct_fields__)
    assert fields - NOT_FOR_PROGRAMS - keywords == set(), (
        "add them to ctnr/options.py, or to NOT_FOR_PROGRAMS"
    )
    assert keywords <= fields
    assert set(LimitOptions.__annotations__) == set(Limits.__struct_fields__)
    assert set(HealthOptions.__annotations__) == set(HealthWish.__struct_fields__)
