"""Messages and answers; questions to real kernels are in tests/ns/network/test_netlink.py."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.network.netlink import Netlink, NetlinkFailed, Route, open_socket
from supervisor.network.rtnetlink import link_exists


def test_link_exists_works_with_any_socket() -> None:
    for sock in (open_socket(), socket.socket(), socket.socket(socket.AF_UNIX)):
        with sock:
            assert link_exists(sock, "lo")
            assert not link_exists(sock, "no-such-link")
            assert not link_exists(sock, "x" * 40)


def test_importing_it_does_not_import_pyroute2() -> None:
    program = "import sys, supervisor.network.netlink; print('pyroute2' in sys.modules)"
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout == "False\n"


async def test_own_netns_can_be_asked() -> None:
    with Netlink(open_socket()) as netlink:
        lo = await netlink.link("lo")
        assert lo is not None
        assert (lo.index, lo.mtu) == (1, 65536)
        assert "lo" in [link.name for link in await netlink.links()]
        assert await netlink.link("no-such-link") is None
        with pytest.raises(NetlinkFailed, match=r"add route 192.0.2.0/24: .*"):
            await netlink.add_route(Route(dst="192.0.2.0/24", link=2**30))
