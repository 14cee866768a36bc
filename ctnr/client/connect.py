"""Find the service of this user and store, or start it; or run it in a thread of this process (`--no-service`).

`<runtime dir>/service.sock` is where it listens. The start of a new one is serialised by `<runtime dir>/start.lock`
(`service.lock` is the service's own, for its whole life).
"""

from __future__ import annotations

import _socket
import posix as os
import sys

from ctnr.client.environ import absolute, lookup
from ctnr.client.errors import ClientError
from ctnr.client.frames import Channel

START_SECONDS = 60  # importing everything takes 0.3 s; a cold disk on a busy machine much longer
LOG_LIMIT = 1 << 20  # bytes; a longer log is begun afresh
_AT_MOST_SUN_PATH = 107  # bytes; unix(7)
_BOOT = (
    "import sys; sys.path.{how}(sys.argv.pop(1).split(':')); from ctnr.daemon import main; sys.exit(main())"
)


class Service:
    """The supervisor that this invocation talks to."""

    def __init__(
        self, store_dir: str | None = None, *, in_process: bool = False, log_level: str | None = None
    ) -> None:
        """Touches nothing yet. Raises: ClientError if the user has no home and `store_dir` is not given."""
        self.in_process = in_process
        self._log_level = log_level
        default = default_store_dir()
        self.store_dir = _clean(store_dir or lookup("CTNR_STORE_DIR") or default)
        self.runtime_dir = base_runtime_dir()
        self._directories = [self.runtime_dir]
        if self.store_dir != default:
            self.runtime_dir += "/" + _sha256_hex(self.store_dir)[:12]
            self._directories.append(self.runtime_dir)

    @property
    def log_file(self) -> str:
        return self.runtime_dir + "/service.log"

    def connect(self) -> Channel | None:
        """A connection to the running service; None if there is none (or it is not the kind that listens)."""
        if self.in_process:
            return None
        for directory in self._directories:
            if not check_private(directory):
                return None
        return self._connect()

    def open(self) -> Channel:
        """A connection to the service, which is started if need be. Raises: ClientError."""
        for directory in self._directories:
            if not check_private(directory):
                _make_private(directory)
        if self.in_process:
            return self._serve_here()
        return self._connect() or self._start()

    def close(self) -> None:
        """Ends what `open` started in this process; a service in the background stays.

        Raises: what it failed with.
        """
        if self.in_process and (daemon := sys.modules.get("ctnr.daemon")):
            daemon.stop_thread()

    def failure(self) -> Exception | None:
        """Why the service in this process ended, if that is known; ends it."""
        try:
            self.close()
        except Exception as error:
            while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            return error
        return None

    def _connect(self) -> Channel | None:
        path = self.runtime_dir + "/service.sock"
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        directory = -1
        try:
            if len(path.encode("utf-8", "surrogateescape")) > _AT_MOST_SUN_PATH:
                directory = os.open(self.runtime_dir, os.O_PATH | os.O_CLOEXEC)
                path = f"/proc/self/fd/{directory}/service.sock"
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        except OSError as error:
            sock.close()
            raise ClientError(f"connect to {path}: {error.strerror}") from None
        finally:
            if directory >= 0:
                os.close(directory)
        return Channel(sock)

    def _start(self) -> Channel:
        import fcntl

        path = self.runtime_dir + "/start.lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ClientError(f"create {path}: {error.strerror}", cure=_MAKE_ROOM) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            channel = self._connect()  # somebody else may have been faster
            if channel is None:
                failure = self._spawn()
                channel = self._connect()
                if channel is None:
                    raise failure or ClientError(
                        "the service does not listen", cure=f"look into {self.log_file}"
                    )
            return channel
        finally:
            os.close(lock)

    def _spawn(self) -> ClientError | None:
        """Start the service and wait until it listens; the error is what it says instead."""
        ready, ready_write = os.pipe()
        log = -1
        try:
            log = self._open_log()
            os.set_inheritable(ready_write, True)
            argv = [*daemon_argv(), "--runtime-dir", self.runtime_dir, "--store-dir", self.store_dir]
            argv += ["--ready-fd", str(ready_write)]
            environment = dict(os.environ)
            if self._log_level:
                environment[b"CTNR_LOG_LEVEL"] = self._log_level.encode()
            actions: list[tuple[int, int] | tuple[int, int, int] | tuple[int, int, str, int, int]] = [
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ]
            # a lock or pipe that the caller's shell left open must not live as long as the service
            actions += [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable() if number != ready_write]
            with_defaults = [number for number in range(1, 32) if number not in (9, 19)]
            os.posix_spawn(
                argv[0],
                argv,
                environment,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=with_defaults,
            )
        except OSError as error:
            return ClientError(f"start the service: {error.strerror}")
        finally:
            os.close(ready_write)
            if log >= 0:
                os.close(log)
        try:
            return self._wait_ready(ready)
        finally:
            os.close(ready)

    def _wait_ready(self, ready: int) -> ClientError | None:
        import select

        poll = select.poll()
        poll.register(ready, select.POLLIN)
        said = b""
        while poll.poll(START_SECONDS * 1000):
            data = os.read(ready, 65536)
            said += data
            if said and not said.startswith(b"{"):
                return None
            if not data:
                return self._why_not(said)
        return ClientError(
            f"the service did not start within {START_SECONDS} s", cure=f"look into {self.log_file}"
        )

    def _why_not(self, said: bytes) -> ClientError:
        from ctnr.client import jsonlite

        try:
            told = jsonlite.decode(said)
            return ClientError(
                told["message"], cure=told.get("cure"), exit_status=told.get("status", 125),
                remote_traceback=told.get("traceback"),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        last = ""
        try:
            log = os.open(self.log_file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(log).st_size
                lines = os.pread(log, 4096, max(0, size - 4096)).decode("utf-8", "replace").split("\n")
            finally:
                os.close(log)
            last = next((": " + line.strip() for line in reversed(lines) if line.strip()), "")
        except OSError:
            pass
        return ClientError("the service ended at its start" + last, cure=f"look into {self.log_file}")

    def _open_log(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = os.open(self.log_file, flags, 0o600)
        if os.fstat(log).st_size > LOG_LIMIT:
            os.ftruncate(log, 0)
        return log

    def _serve_here(self) -> Channel:
        for path in package_paths() or [_packages()]:
            if path not in sys.path:
                sys.path.append(path)
        if self._log_level:
            os.environ[b"CTNR_LOG_LEVEL"] = self._log_level.encode()  # `os`, imported next, copies it
        from ctnr import daemon

        return Channel(_socket.socket(fileno=daemon.serve_in_thread(self.store_dir, self.runtime_dir)))


def default_store_dir() -> str:
    home = lookup("HOME")
    if not home:
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise ClientError(
                f"user {os.getuid()} has no home directory", cure="set HOME or give --store-dir=DIR"
            ) from None
    return _clean(home) + "/.ctnr"


def base_runtime_dir() -> str:
    """`$CTNR_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/ctnr`, else /run/ctnr (root), else /tmp/ctnr-<uid>.

    Root's /run/user/0 does not count: it goes when root logs out, and the system's units know nothing of it.
    """
    if given := lookup("CTNR_RUNTIME_DIR"):
        return _clean(given)
    user = os.geteuid()
    xdg = lookup("XDG_RUNTIME_DIR")
    if xdg and not (user == 0 and _clean(xdg) == "/run/user/0"):
        try:
            if os.stat(xdg).st_uid == user:  # sudo and su leave another user's behind
                return _clean(xdg) + "/ctnr"
        except OSError:
            pass
    if user == 0 and os.access("/run", os.W_OK):
        return "/run/ctnr"
    return f"/tmp/ctnr-{user}"


def check_private(directory: str) -> bool:
    """False if it does not exist. Raises: ClientError unless it is a real directory that only the caller can enter."""
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ClientError(f"runtime directory {directory}: {error.strerror}", cure=_CHOOSE) from None
    if status.st_mode & 0o170000 != 0o040000:
        raise ClientError(f"runtime directory {directory}: not a directory", cure=f"remove it, or {_CHOOSE}")
    if status.st_uid != os.geteuid():
        raise ClientError(f"runtime directory {directory}: belongs to user {status.st_uid}", cure=_CHOOSE)
    if status.st_mode & 0o077:
        raise ClientError(f"runtime directory {directory}: open to others", cure=f"chmod 700 {directory}")
    return True


def package_paths() -> list[str] | None:
    """Where the service's imports come from when `site` does not run; None if only `site` can tell."""
    own = _packages()
    prefix = sys.executable.rpartition("/")[0].rpartition("/")[0]
    of_python = f"{prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    if _exists(own + "/trio"):
        return [own]
    if _exists(of_python + "/trio"):
        return [own, of_python]
    return None


def daemon_argv() -> list[str]:
    """Without `site` where that works: it costs 5 ms and reads .pth files that are none of our business."""
    paths = package_paths()
    if paths is not None:
        boot = _BOOT.format(how="extend")
        return [sys.executable, "-I", "-S", "-X", "utf8", "-c", boot, ":".join(paths)]
    return [sys.executable, "-I", "-X", "utf8", "-c", _BOOT.format(how="extend"), _packages()]


def _packages() -> str:
    return __file__.rpartition("/ctnr/")[0]


def _exists(path: str) -> bool:
    return os.access(path, os.F_OK)


def _clean(path: str) -> str:
    return absolute(path).rstrip("/") or "/"


def _make_private(directory: str) -> None:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ClientError(f"create {directory}: {error.strerror}", cure=_CHOOSE) from None
    check_private(directory)


def _inheritable() -> list[int]:
    """Descriptors above 2 that a new program would get."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            if int(entry) > 2 and os.get_inheritable(int(entry)):
                found.append(int(entry))
        except OSError:  # the listing's own
            continue
    return found


def _sha256_hex(text: str) -> str:
    """hashlib loads OpenSSL: 5 ms."""
    try:
        from _sha256 import sha256  # Python 3.11
    except ImportError:
        try:
            from _sha2 import sha256  # type: ignore[import-not-found]  # newer
        except ImportError:
            from hashlib import sha256
    digest: str = sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return digest


_CHOOSE = "set CTNR_RUNTIME_DIR to a directory of your own"
_MAKE_ROOM = "make room there, or set CTNR_RUNTIME_DIR to a writable directory"
