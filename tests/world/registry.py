"""A real registry on loopback, which the machine's registries.conf puts in the place of docker.io."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.world.machine import run

PORT = 5000
AUTH_USER, AUTH_PASSWORD = "alice", "wonderland"
# bcrypt of AUTH_PASSWORD: the one form of htpasswd that docker-registry reads, and Python has no bcrypt
_HTPASSWD = f"{AUTH_USER}:$2b$04$M4qI22c/p4qWRPUmyU4k9e9uCGukjPWxhXac7ophMktkeIY5IVNA.\n"

_REGISTRIES_CONF = """\
unqualified-search-registries = ["docker.io"]

[[registry]]
prefix = "docker.io"
location = "{address}"
insecure = true

[[registry]]
location = "{address}"
insecure = true
"""


class Registry:
    """docker-registry, serving from `folder`. `with_login` makes it ask for AUTH_USER and AUTH_PASSWORD."""

    def __init__(self, folder: Path, *, port: int = PORT, with_login: bool = False) -> None:
        self.address = f"127.0.0.1:{port}"
        self._log = folder / "access.log"
        self._credentials = f"{AUTH_USER}:{AUTH_PASSWORD}" if with_login else None
        folder.mkdir(parents=True)
        (folder / "htpasswd").write_text(_HTPASSWD)
        login = f"auth:\n  htpasswd: {{realm: test, path: {folder}/htpasswd}}\n" if with_login else ""
        (folder / "config.yml").write_text(
            f"version: 0.1\nlog: {{level: warn, accesslog: {{disabled: false}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{self.address}'}}\n{login}"
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(folder / "config.yml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"OTEL_TRACES_EXPORTER": "none", "PATH": "/usr/bin:/bin"},
            )  # fmt: skip
        self._wait_ready()

    def push(self, layout: Path, name: str) -> str:
        """Put an OCI layout there as `name` (such as "library/alpine:3.8") and give its full reference."""
        reference = f"docker://{self.address}/{name}"
        login = ["--dest-creds", self._credentials] if self._credentials else []
        run([
            "skopeo", "copy", "--all", "--insecure-policy", "--dest-tls-verify=false", *login, "--quiet",
            f"oci:{layout}", reference,
        ])  # fmt: skip
        return reference

    def requests(self, method: str = "GET") -> list[str]:
        """The paths asked for so far, in order: to see what was fetched, and how often."""
        mark = f'"{method} '
        lines = self._log.read_text(errors="replace").splitlines()
        return [line.partition(mark)[2].split(" ")[0] for line in lines if mark in line]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"http://{self.address}/v2/", timeout=1).close()
                return
            except urllib.error.HTTPError as answer:
                answer.close()
                if answer.code == 401:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        self.close()
        raise AssertionError(f"docker-registry did not come up: {self._log.read_text(errors='replace')}")


@contextlib.contextmanager
def docker_io_is(registry: Registry) -> Iterator[None]:
    """While it lasts, `docker://alpine` on this machine means the registry's library/alpine."""
    conf = Path("/etc/containers/registries.conf")
    was = conf.read_bytes()
    conf.write_text(_REGISTRIES_CONF.format(address=registry.address))
    try:
        yield
    finally:
        conf.write_bytes(was)
