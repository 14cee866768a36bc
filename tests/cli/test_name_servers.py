"""The host changes its name servers, and so do its containers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.test_networks import Start, inside, start
from tests.cli.test_service import wait_until
from tests.world.internet import Internet
from tests.world.people import Person

__all__ = ["start"]  # a fixture

FIRST, SECOND = "192.0.2.1", "192.0.2.2"


@contextlib.contextmanager
def resolv_conf_is_ours() -> Iterator[Path]:
    """The machine's, put back afterwards, also if it has become a link."""
    path = Path("/etc/resolv.conf")
    was = path.read_bytes()
    path.write_text(f"search one.example\nnameserver {FIRST}\n")
    try:
        yield path
    finally:
        by_rename(path, was.decode())  # an overlay remembers that a file was unlinked
        Path("/etc/resolv.d").unlink(missing_ok=True)


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    new = path.with_name("resolv.conf.new")
    new.write_text(text)
    new.rename(path)


def by_link(path: Path, text: str) -> None:
    target = Path("/etc/resolv.d")
    target.write_text(text)
    new = path.with_name("resolv.conf.new")
    new.symlink_to(target)
    new.rename(path)


@pytest.mark.parametrize("change", [in_place, by_rename, by_link])
def test_containers_follow_the_host(me: Person, start: Start, change: Callable[[Path, str], None]) -> None:
    with resolv_conf_is_ours() as path:
        start("user", "--network=slirp")
        start("bridged", "--network=bridge")
        start("host", "--network=host")
        start("sharing", "--network=container:user")
        start("chosen", "--network=slirp", "--dns=192.0.2.9", "--dns-search=own.example")
        start("edited", "--network=slirp")
        inside(me, "edited", "echo nameserver 192.0.2.8 >/etc/resolv.conf")
        read = "cat /etc/resolv.conf"
        inode = inside(me, "user", "stat -c %i /etc/resolv.conf")
        assert inside(me, "user", read) == f"search one.example\nnameserver 10.0.2.3\nnameserver {FIRST}\n"
        change(path, f"search two.example\nnameserver {SECOND}\noptions ndots:2\n")
        wait_until(lambda: "two.example" in inside(me, "user", read), "it does not follow")
        expected = f"search two.example\nnameserver 10.0.2.3\nnameserver {SECOND}\noptions ndots:2\n"
        for name in ("user", "sharing"):
            wait_until(lambda name=name: inside(me, name, read) == expected, f"{name} does not follow")
        assert inside(me, "user", "stat -c %i /etc/resolv.conf") == inode, "mounts show the same file"
        wait_until(lambda: SECOND in inside(me, "host", read), "with the host's network it does not follow")
        bridged = "search two.example\nnameserver 10.2.0.1\noptions ndots:2\n"
        wait_until(lambda: inside(me, "bridged", read) == bridged, "on a bridge it does not follow")
        assert "search own.example\nnameserver 192.0.2.9\n" in inside(me, "chosen", read)
        assert inside(me, "edited", read) == "nameserver 192.0.2.8\n"
        path.write_text(f"nameserver {FIRST}\n")  # through the link, if it is one
        wait_until(lambda: FIRST in inside(me, "user", read), "it does not follow a second time")


def test_names_are_found_after_the_change(me: Person, start: Start, internet: Internet) -> None:
    """Without any search list, only the servers: slirp4netns's own, and ours on the bridge, ask the new one."""
    with resolv_conf_is_ours() as path:
        start("user", "--network=slirp")
        start("bridged", "--network=bridge")
        path.write_text(f"nameserver {internet.dns}\n")
        for name in ("user", "bridged"):
            wait_until(
                lambda name=name: (
                    "Example" in me.ctnr("exec", name, "wget", "-qO-", "http://example.org/").stdout
                ),
                f"{name} can't resolve",
            )


def test_with_pasta_the_new_servers_are_asked_directly(me: Person, start: Start, internet: Internet) -> None:
    """pasta itself goes on to ask the one of its start: 192.0.2.1 here, where nobody answers."""
    read = "cat /etc/resolv.conf"
    with resolv_conf_is_ours() as path:
        start("user", "--network=pasta")
        first = inside(me, "user", read)
        assert first == f"search one.example\nnameserver 169.254.1.1\nnameserver {FIRST}\n"
        path.write_text(f"nameserver {internet.dns}\n")
        direct = f"nameserver {internet.dns}\n"
        wait_until(lambda: inside(me, "user", read) == direct, "it does not follow")
        assert "Example" in me.ctnr("exec", "user", "wget", "-qO-", "http://example.org/").ok.stdout
        me.ctnr("restart", "-t", "0", "user").ok  # noqa: B018
        assert "nameserver 169.254.1.1\n" in inside(me, "user", read), "a new pasta asks the new one"
        path.write_text("nameserver 127.0.0.1\n")
        wait_until(lambda: direct not in inside(me, "user", read), "it does not follow a second time")
        assert inside(me, "user", read) == "nameserver 169.254.1.1\n", "the only one in its reach"


def test_a_service_that_stops_watches_no_more(me: Person) -> None:
    daemons = [
        pid for pid in me.service_pids() if b"ctnr.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for pid in daemons for fd in os.listdir(f"/proc/{pid}/fd")]
    assert links.count("anon_inode:inotify") == 1
