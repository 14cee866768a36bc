"""The relay: a program in a container's netns that carries TCP connections of the host's ports there, by splice(2).

Standard library only, started as `python -I -S`. The listening sockets are the host's: a socket keeps the network
namespace that it was made in, so accepting in one and connecting in another needs no privilege and no packet in
between. No byte passes through Python. It calls from the peer's own address (IP_TRANSPARENT), where the netns has been
made ready for that (reply_routes.py).

Control socket (SOCK_SEQPACKET, descriptor 3): `add NUMBER ADDRESS PORT STAND_IN` with a listening socket, `del NUMBER`;
each is answered with `ok NUMBER`. STAND_IN is for callers whose address can't be used, and `-` where none can. At the
control socket's end the relay exits.
"""

from __future__ import annotations

import errno
import fcntl
import posix
import select
import sys
from _socket import (
    AF_INET,
    AF_INET6,
    CMSG_SPACE,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    MSG_CMSG_CLOEXEC,
    SHUT_WR,
    SO_ERROR,
    SO_LINGER,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    socket,
)

CONTROL = 3
MARK = 0x63746E72  # of connections that end inside
SO_MARK, IP_TRANSPARENT, IP_BIND_ADDRESS_NO_PORT, IPV6_TRANSPARENT = 36, 19, 24, 75
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
LOCAL = ("127.", "::1", "fe80:")  # addresses of callers that mean something else inside
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
                _reset(end)
            else:
                end.close()


class Port:
    """A host's port, and the container's that it leads to."""

    __slots__ = ("_address", "_port", "_stand_in", "listener", "number")

    def __init__(self, number: int, listener: socket, address: str, port: int, stand_in: str) -> None:
        self.number, self.listener = number, listener
        self._address, self._port, self._stand_in = address, port, stand_in

    def call(self, host: str, port: int) -> socket:
        """A connection to the server, under way, from the caller's address and, if that is free, his port.

        Raises: OSError.
        """
        for source in self._sources(host, port):
            family = AF_INET6 if ":" in self._address else AF_INET
            server = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
            try:
                if source is not None:
                    _bind(server, source)
                server.connect((self._address, self._port))
            except BlockingIOError:
                return server
            except OSError as exc:
                server.close()
                if exc.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
            else:
                return server
        raise OSError(errno.EADDRNOTAVAIL, "no source address is free")

    def _sources(self, host: str, port: int) -> tuple[tuple[str, int] | None, ...]:
        if self._stand_in == "-":
            return (None,)
        if (":" in host) != (":" in self._address) or host == self._address or host.startswith(LOCAL):
            return ((self._stand_in, 0),)
        return ((host, port), (host, 0))


def _bind(server: socket, source: tuple[str, int]) -> None:
    six = server.family == AF_INET6
    server.setsockopt(SOL_SOCKET, SO_MARK, MARK)
    server.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    server.setsockopt(IPPROTO_IPV6 if six else IPPROTO_IP, IPV6_TRANSPARENT if six else IP_TRANSPARENT, 1)
    if not source[1]:
        server.setsockopt(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)  # chosen for the pair, so there are enough
    server.bind(source)


def _reset(end: socket) -> None:
    end.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
    end.close()


class Relay:
    """All ports of one container."""

    def __init__(self, control: socket) -> None:
        self._control = control
        self._poll = select.epoll()
        self._listeners: dict[int, Port] = {}  # by descriptor
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
            self._listeners[listener.fileno()] = Port(int(number), listener, rest[0], int(rest[1]), rest[2])
            self._poll.register(listener.fileno(), 0 if self._paused else select.EPOLLIN)
        else:
            for found in [one for one in self._listeners.values() if one.number == int(number)]:
                del self._listeners[found.listener.fileno()]
                self._poll.unregister(found.listener.fileno())
                found.listener.close()
        self._control.send(b"ok " + number.encode())
        return True

    def _accept(self, port: Port) -> None:
        try:
            descriptor, caller = port.listener._accept()  # type: ignore[attr-defined]  # accept4 with SOCK_CLOEXEC
        except BlockingIOError:
            return
        except OSError:
            self._pause(paused=True)
            return
        client = socket(fileno=descriptor)
        client.setblocking(False)
        try:
            server = port.call(caller[0], caller[1])
        except OSError as exc:
            if exc.errno in NO_ROOM:
                client.close()
                self._pause(paused=True)
            else:
                _reset(client)
            return
        self._pending[server.fileno()] = (client, server)
        self._poll.register(server.fileno(), select.EPOLLOUT)

    def _pause(self, *, paused: bool) -> None:
        """Take no more connections until one has ended: there are no descriptors for them."""
        self._paused = paused
        for descriptor in self._listeners:
            self._poll.modify(descriptor, 0 if paused else select.EPOLLIN)

    def _refuse(self, descriptor: int) -> None:
        client, server = self._pending.pop(descriptor)
        _reset(client)
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
