"""The one host of the test internet: web pages and echo, for whatever address or name it is asked by.

Run as a program inside its own network namespace. Standard library only.
"""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading

PAGE = "<h1>Example Domain</h1>\n"


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """`/` a page that names the host asked for; `/peer` the client's address; `/bytes/N` N bytes; else 404."""
        if self.path == "/":
            self._answer(f"{PAGE}{self.headers.get('Host', '')}\n".encode())
        elif self.path == "/peer":
            self._answer(f"{self.client_address[0].removeprefix('::ffff:')}\n".encode())
        elif self.path.startswith("/bytes/"):
            self._answer(b"x" * int(self.path.rpartition("/")[2]))
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Web(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # both: an IPv4 client shows as ::ffff:…
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class TcpEcho(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65_536):
            self.request.sendall(data)


class UdpEcho(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


class Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True


def main() -> None:
    servers: list[socketserver.BaseServer] = [
        Web(("::", 80), Pages),
        Tcp(("0.0.0.0", 7), TcpEcho),
        socketserver.UDPServer(("0.0.0.0", 7), UdpEcho),
    ]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
