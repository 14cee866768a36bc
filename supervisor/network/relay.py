"""The relay: a program in a container's netns that carries TCP connections of the host's ports there, by splice(2).

Standard library only, started as `python -I -S`. The listening sockets are the host's: a socket keeps the network
namespace that it was made in, so accepting in one and connecting in another needs no privilege and no packet in
between. No byte passes through Python. It calls from the peer's own address (IP_TRANSPARENT), where the netns has been
made ready for that (reply_routes.py).

Control socket (SOCK_SEQPACKET, descriptor 3): `add NUMBER ADDRESS PORT STAND_IN` with a listening socket, `del NUMBER`;
each is answered with `ok NUMBER`, or with `full NUMBER` where there was no room for the socket. STAND_IN is for callers
whose address can't be used, and `-` where none can. At the control socket's end the relay exits.
"""

from __future__ import annotations

import errno
import fcntl
import posix
import select
import sys
import time
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
PAUSE_SECONDS = 1.0  # until it is tried again whether there is room
TURN = 8  # moves of one connection before the others have theirs
UP, DOWN = 1, 2  # from the client, to it
SPARE_PIPES = 4
RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s

READ_WRITE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Pipe:
    """What bytes pass through on their way from a socket to a socket."""

    __slots__ = ("read", "size", "write")

    def __init__(self) -> None:
        self.read, self.write = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)
        try:
            self.size = fcntl.fcntl(self.write, F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # a user may have so many large pipes only (pipe(7))
            self.size = 1 << 16

    def close(self) -> None:
        posix.close(self.read)
        posix.close(self.write)


class Half:
    """One direction of a connection. It has a pipe while there are bytes that its target does not take."""

    __slots__ = ("_held", "_pipe", "_source", "_target", "ended")

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        self._pipe: Pipe | None = None
        self._held = 0
        self.ended = False

    @property
    def is_over(self) -> bool:
        return self.ended and not self._held

    @property
    def is_blocked(self) -> bool:
        return self._held > 0

    def move(self, pipes: list[Pipe]) -> bool:
        """Whether there is perhaps more to do at once. Raises: OSError: an end is broken, or no descriptor free."""
        pipe = self._pipe or (pipes.pop() if pipes else Pipe())
        self._pipe, held, more = pipe, self._held, True
        for _ in range(TURN):
            more = False
            if not self.ended and held < pipe.size:
                try:
                    count = posix.splice(self._source, pipe.write, pipe.size - held, flags=SPLICE)
                    held += count
                    self.ended = not count
                    more = True
                except BlockingIOError:  # nothing there, or no slot free
                    pass
            self._held = held
            if held:
                try:
                    held -= posix.splice(pipe.read, self._target, held, flags=SPLICE)
                    more = True
                except BlockingIOError:
                    pass
                self._held = held
            if not more:
                break
        if not held:
            self._pipe = None
            pipes.append(pipe)
        return more

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()


class Connection:
    """A client of the host's port and the container's server."""

    __slots__ = ("_down", "_shut", "_up", "client", "server")

    def __init__(self, client: socket, server: socket) -> None:
        self.client, self.server = client, server
        self._up = Half(client.fileno(), server.fileno())
        self._down = Half(server.fileno(), client.fileno())
        self._shut = 0

    def concerns(self, descriptor: int, events: int) -> int:
        """What an event says that can be moved now: UP, DOWN or both."""
        if events & ~(select.EPOLLIN | select.EPOLLOUT):
            return UP | DOWN
        is_client = descriptor == self.client.fileno()
        readable, writable, filled = (UP, DOWN, self._down) if is_client else (DOWN, UP, self._up)
        return (readable if events & select.EPOLLIN else 0) | (writable if filled.is_blocked else 0)

    def move(self, which: int, pipes: list[Pipe]) -> int | None:
        """What perhaps can be moved on at once; None when it is over. Raises: OSError."""
        more = 0
        if which & UP:
            if self._up.move(pipes):
                more |= UP
            elif self._up.is_over:
                self._shut_down(UP, self.server)
        if which & DOWN:
            if self._down.move(pipes):
                more |= DOWN
            elif self._down.is_over:
                self._shut_down(DOWN, self.client)
        return None if self._shut == UP | DOWN else more

    def _shut_down(self, half: int, target: socket) -> None:
        if not self._shut & half:
            self._shut |= half
            target.shutdown(SHUT_WR)

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
        self._resume_at = 0.0
        self._pending: dict[int, tuple[socket, socket]] = {}  # being connected, by the server's descriptor
        self._connections: dict[int, Connection] = {}  # by either descriptor
        self._busy: dict[Connection, int] = {}  # what can be moved
        self._pipes: list[Pipe] = []  # empty ones
        self._poll.register(control.fileno(), select.EPOLLIN)

    def run(self) -> None:
        while True:
            for descriptor, events in self._poll.poll(self._patience()):
                if descriptor == self._control.fileno():
                    if not self._obey():
                        return
                elif descriptor in self._listeners:
                    self._accept(self._listeners[descriptor])
                elif descriptor in self._pending:
                    self._connected(descriptor, events)
                elif descriptor in self._connections:
                    connection = self._connections[descriptor]
                    self._busy[connection] = self._busy.get(connection, 0) | connection.concerns(
                        descriptor, events
                    )
            for connection, which in list(self._busy.items()):
                self._move(connection, which)
            while len(self._pipes) > SPARE_PIPES:
                self._pipes.pop().close()
            if (
                self._paused and time.monotonic() >= self._resume_at
            ):  # it may be others who have all there are
                self._pause(paused=False)

    def _patience(self) -> float:
        if self._busy:
            return 0
        return max(self._resume_at - time.monotonic(), 0) if self._paused else -1

    def _obey(self) -> bool:
        data, ancillary, _, _ = self._control.recvmsg(512, CMSG_SPACE(4), MSG_CMSG_CLOEXEC)
        if not data:
            return False
        word, number, *rest = data.decode().split()
        if word == "add" and not ancillary:
            self._control.send(b"full " + number.encode())
            return True
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
        """Take no more connections until one has ended, or some time is over: there are no descriptors for them."""
        self._paused, self._resume_at = paused, time.monotonic() + PAUSE_SECONDS
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
        connection = Connection(client, server)
        del self._pending[descriptor]
        self._poll.modify(server.fileno(), READ_WRITE)
        self._poll.register(client.fileno(), READ_WRITE)
        self._connections[client.fileno()] = self._connections[server.fileno()] = connection
        self._busy[connection] = UP | DOWN

    def _move(self, connection: Connection, which: int) -> None:
        broken = False
        try:
            more = connection.move(which, self._pipes)
        except OSError:
            more, broken = None, True
        if more:
            self._busy[connection] = more
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
