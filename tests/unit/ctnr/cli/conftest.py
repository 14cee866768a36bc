"""A service of a few canned answers, behind real frames: what the command line sends is decoded as the service does."""

from __future__ import annotations

import signal
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Union

import msgspec
import pytest

from ctnr import requests
from ctnr.cli.main import main
from ctnr.client.frames import Channel

KINDS = [
    kind
    for kind in vars(requests).values()
    if isinstance(kind, type) and issubclass(kind, requests.Request) and kind is not requests.Request
]
_decode = msgspec.json.Decoder(Union[tuple(KINDS)]).decode  # noqa: UP007 -- made at run time
ID = "0123456789ab" + "c" * 52

ROW = {
    "id": ID, "name": "web", "image": "demo", "command": ["sh", "-c", "sleep 1000"], "created": 1.0, "started": 2.0,
    "finished": None, "state": "running", "status": None, "pid": 7, "labels": {"tier": "front"}, "bundle": ID,
    "networks": [{"network": "slirp", "ifname": "cni0", "addresses": ["10.0.2.100/24"]}],
    "ports": [{"container_port": 80, "host_port": 8080, "protocol": "tcp", "host_ip": "", "network": "slirp"}],
}  # fmt: skip
NETWORK = {
    "name": "mine", "driver": "bridge", "plugins": ["bridge"], "subnets": ["10.7.0.0/24"], "gateway": "10.7.0.1",
    "mtu": None, "internal": False, "builtin": False, "source": "/nets/mine.conflist", "containers": ["web"],
    "bridge": "ctnr-mine",
    "members": [{
        "container": "web", "ifname": "cni0", "addresses": ["10.7.0.2"], "ports": ROW["ports"],
        "nameservers": ["10.7.0.1"], "received": 1500, "sent": 20,
    }],
}  # fmt: skip
VOLUME = {
    "Name": "data", "Driver": "local", "Mountpoint": "/nowhere/store/volumes/data/_data", "Labels": {"tier": "back"},
    "CreatedAt": "2026-01-31T12:00:00.000000Z", "Scope": "local", "Options": {}, "Anonymous": False, "Containers": [],
    "UsedBy": [],
}  # fmt: skip
INSPECTED = {
    "Id": ID, "Name": "web", "State": {"Status": "running", "Pid": 7}, "Config": {"Tty": False, "StopTimeout": 10},
}  # fmt: skip
LOG = (
    b"1970-01-01T00:00:00.500000000Z stdout F out\n"
    b"1970-01-01T00:00:01.000000000Z stderr P er\n"
    b"1970-01-01T00:00:01.000000001Z stderr F r\n"
)
IMAGE = {
    "id": "a" * 64, "names": ["localhost/demo:latest"], "digest": "sha256:" + "b" * 64, "size_bytes": 1_234_567,
    "created": "2026-01-31T12:00:00Z", "added": 1.0, "layers": 1, "labels": {"tier": "front"},
}  # fmt: skip

USAGE = [
    {"kind": "Images", "total": 1, "active": 1, "bytes": 5000, "reclaimable": 1000,
     "rows": [{**IMAGE, "bytes": 4000, "shared": 1500, "containers": 1}]},
    {"kind": "Containers", "total": 1, "active": 1, "bytes": 100, "reclaimable": 0,
     "rows": [{**ROW, "bytes": 100, "local_volumes": 2}]},
    {"kind": "Local Volumes", "total": 1, "active": 0, "bytes": 30, "reclaimable": 30,
     "rows": [{"name": "data", "bytes": 30, "links": 0}]},
    {"kind": "Bundles", "total": 0, "active": 0, "bytes": 0, "reclaimable": 0, "rows": []},
]  # fmt: skip


class FakeService:
    """Stands in for `ctnr.client.connect.Service`; `asked` is what came, `answers` maps an op to its events."""

    runtime_dir = "/nowhere"
    store_dir = "/nowhere/store"
    log_file = "/nowhere/service.log"
    in_process = False

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.descriptors: list[int] = []  # how many came with each request
        self.answers: dict[str, list[dict[str, Any]]] = {
            "run": [{"event": "started", "container": ID, "name": "web"}, {"event": "exited", "status": 7}],
            "exec": [{"event": "started", "container": ID, "name": "web"}, {"event": "exited", "status": 3}],
            "attach": [{"event": "exited", "status": 4}],
            "ps": [_result([ROW])],
            "inspect": [_result([INSPECTED])],
            "wait": [_result([0, 137])],
            "stats": [_result([{"id": ID, "name": "web", "running": False}])],
            "top": [_result({"headings": ["PID"], "rows": [["1"]]})],
            "health-run": [_result({"health": "healthy", "status": 0, "output": ""})],
            "logs": [
                {"event": "item", "value": {"container": 0, "entries": b64encode(LOG).decode()}},
                _result(None),
            ],
            "pull": [_result({"id": IMAGE["id"], "names": IMAGE["names"]})],
            "image-import": [_result({"id": IMAGE["id"], "names": IMAGE["names"]})],
            "images": [_result([IMAGE])],
            "image-rm": [_result(["untagged: demo"])],
            "image-fsck": [_result({"images": 1, "layers": 1, "blobs": 3, "findings": []})],
            "image-config": [_result({"config": {"Cmd": ["sh"]}})],
            "image-gc": [_result({"images": [IMAGE["id"]], "layers": 1, "blobs": 3, "bytes": 10_000})],
            "bundle-gc": [_result({"bundles": [], "bytes": 0})],
            "net-prune": [_result(["mine"])],
            "disk-usage": [_result(USAGE)],
            "bundle-list": [_result([{"name": "work", "image": "demo", "created": 1.0, "running": False}])],
            "info": [
                _result(
                    {
                        "facts": {"cgroups": "v2"},
                        "checks": [
                            {"name": "skopeo", "ok": False, "detail": "missing", "cure": "install it"}
                        ],
                    }
                )
            ],
            "net-inspect": [_result([NETWORK])],
            "net-create": [_result(NETWORK)],
            "net-gc": [_result([{"network": "bridge", "container_id": "0123", "ifname": "cni0"}])],
            "net-check": [_result([{"network": "bridge", "ok": True, "detail": "ready", "cure": None}])],
            "net-show": [_result([NETWORK])],
            "net-list": [_result([NETWORK])],
            "volume-list": [_result([VOLUME])],
            "volume-inspect": [_result([VOLUME])],
            "volume-create": [_result("data")],
            "volume-rm": [_result(["data"])],
            "volume-prune": [_result({"volumes": ["data"], "bytes": 4096})],
            "net-connect": [_result({"ifname": "cni1", "addresses": ["10.7.0.9"]})],
            "port-list": [_result(ROW["ports"])],
            "port-add": [_result(ROW["ports"])],
            "port-rm": [_result(ROW["ports"])],
            "service-status": [_result({"version": "1", "started": 1.0})],
        }
        self._threads: list[threading.Thread] = []

    def open(self) -> Channel:
        near, far = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(far,))
        thread.start()
        self._threads.append(thread)
        return Channel(socket.socket(fileno=near.detach()))

    connect = open

    def failure(self) -> None:
        return None

    def close(self) -> None:
        for thread in self._threads:
            thread.join()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 8)
            for number in descriptors:
                socket.close(number)
            while len(data) < 4 + int.from_bytes(data[:4], "big"):
                data += connection.recv(1 << 20)
            request = _decode(data[4:])
            self.asked.append(request)
            self.descriptors.append(len(descriptors))
            op = request.__struct_config__.tag
            events = self.answers.get(op, [_result(list(getattr(request, "containers", ())))])
            if op == "run" and (request.detach or not request.start):
                events = [_result({"container": ID, "name": "web"})]
            for event in events:
                body = msgspec.json.encode(event)
                connection.sendall(len(body).to_bytes(4, "big") + body)
            while events and connection.recv(4096):  # until the client has hung up
                pass


def _result(value: Any) -> dict[str, Any]:
    return {"event": "result", "value": value}


class Ctnr:
    """`ctnr WORDS…` in this process, against the fake service."""

    def __init__(self, service: FakeService, capfd: pytest.CaptureFixture[str]) -> None:
        self.service, self._capfd = service, capfd
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        status = main(words)
        self.service.close()
        self.out, self.err = self._capfd.readouterr()
        return status

    @property
    def asked(self) -> Any:
        """The last request."""
        return self.service.asked[-1]


@pytest.fixture
def ctnr(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Ctnr]:
    service = FakeService()
    monkeypatch.setattr("ctnr.client.connect.Service", lambda *_, **__: service)
    monkeypatch.setattr("ctnr.cli.tell.Teller.all_quiet", False)
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)}
    yield Ctnr(service, capfd)
    service.close()
    for number, handler in before.items():
        signal.signal(number, handler)
