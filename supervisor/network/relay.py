"""The relay: a program in a container's netns that carries TCP connections of the host's ports there, by splice(2).

Standard library only, started as `python -I -S`. The listening sockets are the host's: a socket keeps the network
namespace that it was made in, so accepting in one and connecting in another needs no privilege and no packet in
between. No byte passes through Python. The peer's address is lost: connections come from the container's own address.

Control socket (SOCK_SEQPACKET, descriptor 3): `add NUMBER ADDRESS PORT` with a listening socket, `del NUMBER`; each is
answered with `ok NUMBER`. At its end the relay exits.
"""

from __future__ import annotations

import fcntl
import posix
import select
import sys
from _socket import (
    AF_INET,
    AF_INET6,
    CMSG_SPACE,
    IPPROTO_TCP,
    MSG_CMSG_CLOEXEC,
    SHUT_WR,
    SO_ERROR,
    SO_LINGER,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    socket,
)

CONTROL = 3
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031
SPLICE = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
TURN = 8  # moves of one connection before the others have theirs
RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s

READ_WRITE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Half:
    """One direction of a connection: from a socket through a pipe to a socket."""

    __slots__ = ("_read", "_size", "_write", "ended", "held", "source", "target")

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self._read, self._write = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)
        try:
            self._size = fcntl.fcntl(self._write, F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # a user may have so many large pipes only (pipe(7))
            self._size = 1 << 16
        self.held = 0
        self.ended = False

    def move(self) -> bool:
        """Whether something moved. Raises: OSError if one of the ends is broken."""
        moved = False
        if not self.ended and self.held < self._size:
            try:
                count = posix.splice(self.source, self._write, self._size - self.held, flags=SPLICE)
                self.held += count
                self.ended = not count
                moved = True
            except BlockingIOError:
                pass
        if self.held:
            try:
                self.held -= posix.splice(self._read, self.target, self.held, flags=SPLICE)
                moved = True
            except BlockingIOError:
                pass
        return moved

    def close(self) -> None:
        posix.close(self._read)
        posix.close(self._write)


class Connection:
    """A client of the host's port and the container's server."""

    __slots__ = ("_down", "_shut", "_up", "client", "server")

    def __init__(self, client: socket, server: socket) -> None:
        self.client, self.server = client, server
        self._up = Half(client.fileno(), server.fileno())
        try:
            self._down = Half(server.fileno(), client.fileno())
        except OSError:
            self._up.close()
            raise
        self._shut = [False, False]

    def move(self) -> bool | None:
        """Whether there is perhaps more to do at once; None when it is over."""
        more = False
        for _ in range(TURN):
            more = self._up.move() | self._down.move()
            if not more:
                break
        for number, (half, target) in enumerate(((self._up, self.server), (self._down, self.client))):
            if half.ended and not half.held and not self._shut[number]:
                self._shut[number] = True
                target.shutdown(SHUT_WR)
        return None if all(self._shut) else more

    def close(self, *, broken: bool) -> None:
        for half in (self._up, self._down):
            half.close()
        for end in (self.client, self.server):
            if broken:
                end.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
            end.close()


class Relay:
    """All ports of one container."""

    def __init__(self, control: socket) -> None:
        self._control = control
        self._poll = select.epoll()
        self._listeners: dict[int, tuple[int, socket, str, int]] = {}  # by descriptor
        self._paused = False  # out of descriptors
        self._pending: dict[int, tuple[socket, socket]] = {}  # being connected, by the server's descriptor
        self._connections: dict[int, Connection] = {}  # by either descriptor
        self._busy: dict[Connection, None] = {}
        self._poll.register(control.fileno(), select.EPOLLIN)

    def run(self) -> None:
        while True:
            for descriptor, events in self._poll.poll(0 if self._busy else -1):
                if descriptor == self._control.fileno():
                    if not self._obey():
                        return
                elif descriptor in self._listeners:
                    self._accept(self._listeners[descriptor])
                elif descriptor in self._pending:
                    self._connected(descriptor, events)
                elif descriptor in self._connections:
                    self._busy[self._connections[descriptor]] = None
            for connection in list(self._busy):
                self._move(connection)

    def _obey(self) -> bool:
        data, ancillary, _, _ = self._control.recvmsg(512, CMSG_SPACE(4), MSG_CMSG_CLOEXEC)
        if not data:
            return False
        word, number, *rest = data.decode().split()
        if word == "add":
            listener = socket(fileno=int.from_bytes(ancillary[0][2], sys.byteorder))
            self._listeners[listener.fileno()] = (int(number), listener, rest[0], int(rest[1]))
            self._poll.register(listener.fileno(), 0 if self._paused else select.EPOLLIN)
        else:
            for found in [one for one in self._listeners.values() if one[0] == int(number)]:
                del self._listeners[found[1].fileno()]
                self._poll.unregister(found[1].fileno())
                found[1].close()
        self._control.send(b"ok " + number.encode())
        return True

    def _accept(self, port: tuple[int, socket, str, int]) -> None:
        _, listener, address, number = port
        try:
            client = socket(fileno=listener._accept()[0])  # type: ignore[attr-defined]  # accept4 with SOCK_CLOEXEC
        except BlockingIOError:
            return
        except OSError:
            self._pause(paused=True)
            return
        try:
            server = socket(
                AF_INET6 if ":" in address else AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK
            )
        except OSError:
            client.close()
            self._pause(paused=True)
            return
        client.setblocking(False)
        self._pending[server.fileno()] = (client, server)
        self._poll.register(server.fileno(), select.EPOLLOUT)
        try:
            server.connect((address, number))
        except BlockingIOError:
            return
        except OSError:
            self._refuse(server.fileno())

    def _pause(self, *, paused: bool) -> None:
        """Take no more connections until one has ended: there are no descriptors for them."""
        self._paused = paused
        for descriptor in self._listeners:
            self._poll.modify(descriptor, 0 if paused else select.EPOLLIN)

    def _refuse(self, descriptor: int) -> None:
        client, server = self._pending.pop(descriptor)
        client.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
        client.close()
        server.close()
        if self._paused:
            self._pause(paused=False)

    def _connected(self, descriptor: int, events: int) -> None:
        client, server = self._pending[descriptor]
        if server.getsockopt(SOL_SOCKET, SO_ERROR) or events & (select.EPOLLERR | select.EPOLLHUP):
            self._refuse(descriptor)
            return
        for end in (client, server):
            end.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        try:
            connection = Connection(client, server)
        except OSError:
            self._refuse(descriptor)
            return
        del self._pending[descriptor]
        self._poll.modify(server.fileno(), READ_WRITE)
        self._poll.register(client.fileno(), READ_WRITE)
        self._connections[client.fileno()] = self._connections[server.fileno()] = connection
        self._busy[connection] = None

    def _move(self, connection: Connection) -> None:
        broken = False
        try:
            more = connection.move()
        except OSError:
            more, broken = None, True
        if more:
            return
        del self._busy[connection]
        if more is None:
            for end in (connection.client, connection.server):
                del self._connections[end.fileno()]
            connection.close(broken=broken)
            if self._paused:
                self._pause(paused=False)


def main() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Relay(socket(fileno=CONTROL)).run()


if __name__ == "__main__":
    main()
