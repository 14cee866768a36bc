"""`make demo`: the main job, on this machine, with no registry and no internet.

An image from nothing, a container with user-mode networking on it, a page fetched from the host, and the count of
processes, network namespaces, links and mounts before, while it runs, and after.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.world import images, leaks
from tests.world.machine import PR_SET_CHILD_SUBREAPER

PAGE = "Hello from the host."
COUNTED = ("process", "network namespace", "link", "mount")
CTNR = Path(sys.executable).with_name("ctnr")
IN_THE_CONTAINER = """
echo "$ ip addr show cni0";   ip addr show cni0
echo "$ wget -qO- http://10.0.2.2:{port}/"; wget -qO- http://10.0.2.2:{port}/
echo "$ id"; id
read -r _
"""


def main() -> int:
    """Exit status: 0 when all of it worked and nothing is left."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in order with what goes to stderr, into a pipe too
    # what the service starts comes to us when its parent is gone, so that the count is of everything
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    folder = Path(tempfile.mkdtemp(prefix="ctnr-demo-"))
    environment = {**os.environ, "CTNR_RUNTIME_DIR": f"{folder}/run", "CTNR_STORE_DIR": f"{folder}/store"}
    (folder / "run").mkdir(mode=0o700)
    try:
        with web_server() as port:
            return demonstrate(folder, environment, port)
    except Failed as failure:
        print(f"\n{red('The demo failed:')} {failure}", file=sys.stderr)
        return 1
    finally:
        subprocess.run([CTNR, "supervisor", "stop"], env=environment, capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def demonstrate(folder: Path, environment: Mapping[str, str], port: int) -> int:
    before = leaks.snapshot()

    title(
        "An image, made on the spot",
        "one static busybox as a root filesystem, imported without any registry",
    )
    images.busybox_rootfs(folder / "rootfs")
    ctnr(environment, "image", "import", f"{folder}/rootfs", "demo")
    ctnr(environment, "images")

    title("A container with user-mode networking", "slirp4netns gives it 10.0.2.100; the host is 10.0.2.2")
    command = [
        "run",
        "--rm",
        "-i",
        "--network=slirp",
        "demo",
        "sh",
        "-c",
        IN_THE_CONTAINER.format(port=port),
    ]
    typed("ctnr run --rm -i --network=slirp demo sh")
    with subprocess.Popen(
        [CTNR, *command], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdin
        assert run.stdout
        shown = ""
        for line in run.stdout:
            shown += line
            print("  " + (bold(line.rstrip()) if line.startswith("$ ") else line.rstrip()))
            if line.startswith("uid="):
                break
        during = leaks.snapshot()
        with contextlib.suppress(BrokenPipeError):
            run.stdin.write("\n")
            run.stdin.close()
        run.wait()
    for wanted, what in (("10.0.2.100/24", "its address on cni0"), (PAGE, "the host's page")):
        if wanted not in shown:
            raise Failed(f"the container did not show {what} ({wanted})")
    if run.returncode != 0:
        raise Failed(f"the container's exit status was {run.returncode}")

    title("Once more, now that its service is warm", "from nothing to a network and back to nothing")
    started = time.monotonic()
    ctnr(environment, "run", "--rm", "--network=slirp", "demo", "true")
    print(f"  {(time.monotonic() - started) * 1000:.0f} ms")

    title("And nothing stays behind", "counted before, while the container ran, and after")
    ctnr(environment, "supervisor", "stop", quiet=True)
    left = leaks.wait_clean(before, leaks.snapshot)
    print_table(before, during, leaks.snapshot())
    if left:
        raise Failed("left behind:\n  " + "\n  ".join(left))
    print(f"\n{green('All of it worked.')} Next: make test, or read docs/index.md.")
    return 0


class Failed(Exception):
    """The demo did not show what it should."""


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{PAGE} You asked for {self.path}\n".encode())

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def web_server() -> Iterator[int]:
    """A web server on the host's loopback, which slirp shows the container as 10.0.2.2."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def ctnr(environment: Mapping[str, str], *args: str, quiet: bool = False) -> None:
    """Run ctnr and show its output. Raises: Failed."""
    if not quiet:
        typed("ctnr " + " ".join(args))
    done = subprocess.run(
        [CTNR, *args], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    for line in done.stdout.splitlines() if not quiet else ():
        print("  " + line)
    if done.returncode != 0:
        raise Failed(f"ctnr {' '.join(args)}: exit {done.returncode}\n{done.stderr.strip()}")


def print_table(before: leaks.Snapshot, during: leaks.Snapshot, after: leaks.Snapshot) -> None:
    print(f"  {'':20}{'before':>8}{'running':>10}{'after':>8}")
    for kind in COUNTED:
        counts = [len(shot[kind]) for shot in (before, during, after)]
        plural = {"process": "processes"}.get(kind, kind + "s")
        print(f"  {plural:20}{counts[0]:>8}{counts[1]:>10}{counts[2]:>8}")


def title(what: str, more: str) -> None:
    print(f"\n{bold(what)}: {more}")


def typed(command: str) -> None:
    print(f"  {dim('$ ' + command)}", flush=True)


def bold(text: str) -> str:
    return styled("1", text)


def dim(text: str) -> str:
    return styled("2", text)


def green(text: str) -> str:
    return styled("32", text)


def red(text: str) -> str:
    return styled("31", text)


def styled(code: str, text: str) -> str:
    """`text` in a style, on a terminal that has not asked for none (NO_COLOR)."""
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


if __name__ == "__main__":
    sys.exit(main())
