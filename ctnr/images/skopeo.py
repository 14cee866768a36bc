"""skopeo: transport, registries, mirrors, credentials and signature policy. We only say what is copied where."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
import trio

from netconf.decode import UNREADABLE
from supervisor.errors import SupervisorError
from supervisor.sandbox.capture import open_capture, read_capture
from supervisor.sandbox.sandbox import find_program

USER_POLICY = "~/.config/containers/policy.json"
HOST_POLICY = "/etc/containers/policy.json"
OUTPUT_BYTES_MAX = 8 << 20  # of a manifest or configuration


class TransferFailed(SupervisorError):
    """skopeo could not copy the image."""


@dataclass(frozen=True)
class Policy:
    """Which images may be taken: skopeo's `options`, and whether the policy asks for signatures."""

    options: tuple[str, ...]
    wants_signatures: bool


def find_policy(policy: str | None, environ: Mapping[str, str]) -> Policy:
    """The policy of `--image-policy`: a file, `insecure`, or (None) the user's or the host's own.

    Raises: TransferFailed if there is no policy at all; an image is never taken unasked.
    """
    if policy == "insecure":
        return Policy(("--insecure-policy",), wants_signatures=False)
    if policy is not None:
        return _load_policy(policy, "give --image-policy=FILE, or insecure")
    home = environ.get("HOME", "")
    for path in (USER_POLICY.replace("~", home), HOST_POLICY):
        if os.path.exists(path):
            return _load_policy(path, "mend it, or give --image-policy=FILE")
    raise TransferFailed(
        f"no image policy: neither {USER_POLICY} nor {HOST_POLICY} exists",
        cure="give --image-policy=FILE (see containers-policy.json(5)), or --image-policy=insecure to take any image",
    )


def _load_policy(path: str, cure: str) -> Policy:
    try:
        with open(path, "rb") as file:
            text = file.read()
        rules = msgspec.json.decode(text, type=_PolicyFile)
    except OSError as exc:
        raise TransferFailed(f"image policy {path}: {exc.strerror}", cure=cure) from None
    except UNREADABLE as exc:
        raise TransferFailed(f"image policy {path}: {exc}", cure="see containers-policy.json(5)") from None
    scopes = [scope for transport in rules.transports.values() for scope in transport.values()]
    kinds = {rule.type for scope in [rules.default, *scopes] for rule in scope}
    return Policy(("--policy", path), wants_signatures=bool(kinds - {"insecureAcceptAnything", "reject"}))


class _Rule(msgspec.Struct):
    type: str


class _PolicyFile(msgspec.Struct):
    default: list[_Rule]
    transports: dict[str, dict[str, list[_Rule]]] = {}


@dataclass(frozen=True)
class Skopeo:
    """One way of calling it: `options` stand before the command (policy, platform), `environ` is the caller's."""

    options: Sequence[str] = ()
    environ: Mapping[str, str] | None = None

    def working_in(self, directory: str) -> Skopeo:
        """The same, with its temporary files below `directory`: what it leaves when it is killed goes with that."""
        return Skopeo((*self.options, "--tmpdir", directory), self.environ)

    async def copy(self, source: str, destination: str, *options: str, told_as: str | None = None) -> None:
        """`skopeo copy`. Cancelled, it is ended and waited for. Raises: TransferFailed, one clear line and a cure."""
        await self._run(told_as or source, "copy", "--quiet", *options, source, destination)

    async def inspect(self, source: str, *options: str) -> bytes:
        """What `skopeo inspect --raw` prints: the manifest or index as it is there, or with --config the configuration.

        No policy is asked. Raises: TransferFailed.
        """
        return await self._run(source, "inspect", "--raw", *options, source)

    async def _run(self, source: str, *arguments: str) -> bytes:
        argv = [*_program("skopeo"), *self.options, *arguments]
        with ExitStack() as opened:
            opened.callback(os.close, output := open_capture(OUTPUT_BYTES_MAX))
            opened.callback(os.close, errors := open_capture())
            # Started from this thread, not from one of trio's: that one may end, and the kernel would take the
            # child with it (PDEATHSIG is about threads). This one lives as long as the event loop.
            process = subprocess.Popen(  # noqa: ASYNC220 -- about a millisecond
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True,
                env=None if self.environ is None else dict(self.environ),
            )  # fmt: skip
            status = await _wait(process)
            if status:
                raise explain(source, read_capture(errors).decode(errors="replace"))
            return read_capture(output)


def _program(name: str) -> list[str]:
    """The command that starts a program which ends with us, even if we are killed."""
    try:
        program = find_program(name)
    except FileNotFoundError:
        raise TransferFailed(f"{name} is not installed", cure=f"sudo apt-get install {name}") from None
    try:
        return [find_program("setpriv"), "--pdeathsig", "KILL", "--", program]
    except FileNotFoundError:
        return [program]


async def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit status; cancelled, it is killed and reaped first: what it has written is swept by the store."""
    with ExitStack() as undo:
        undo.callback(_end, process)
        pidfd = os.pidfd_open(process.pid)
        undo.callback(os.close, pidfd)
        undo.callback(trio.lowlevel.notify_closing, pidfd)
        await trio.lowlevel.wait_readable(pidfd)
        return process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        process.kill()
        process.wait()


_CURES = (  # what skopeo's words contain, what we say, what helps
    (r"manifest unknown|name unknown|repository name not known|NAME_UNKNOWN", "there is no such image in the registry",
     "check its name and tag"),
    (r"requested access to the resource is denied|unauthorized|authentication required|status 40[13]|: 40[13] ",
     "the registry wants a login, or the image does not exist", "skopeo login REGISTRY, then try again"),
    (r"Running image .* is rejected|Source image rejected|rejected by policy", "the image policy rejects it",
     "change the policy, or choose another one with --image-policy=FILE"),
    (r"connection refused|no such host|no route to host|i/o timeout|network is unreachable|server misbehaving|dial tcp",
     "the registry can't be reached", "check the network, the name, and registries.conf"),
    (r"server gave HTTP response to HTTPS client", "the registry speaks plain HTTP",
     "allow it: insecure = true for it in registries.conf"),
    (r"x509|certificate", "the registry's certificate is not trusted", "install its authority, or see registries.conf"),
    (r"[Dd]igest did not match|does not match expected digest|doesn't match digest|unexpected digest",
     "its content does not match its digest", "it was changed or broken on the way: pull it again, or ask its owner"),
    (r"no space left on device", "the disk is full", "ctnr image gc, or another --store-dir"),
    (r"no such file or directory", "there is nothing at that path", "check the path"),
    (r"no image found in (manifest list|image index)|choosing (an )?image",
     "it is not there for this platform",
     "choose one: --platform=linux/amd64"),
    (r"toomanyrequests|: 429 ", "the registry takes no more requests at the moment", "wait, or log in: skopeo login"),
)  # fmt: skip


def explain(source: str, said: str) -> TransferFailed:
    """skopeo's words as one line, with what helps where we know it."""
    last = next((line for line in reversed(said.strip().splitlines()) if line.strip()), "no reason given")
    if (quoted := re.search(r'msg="((?:[^"\\]|\\.)*)"', last)) is not None:
        last = quoted[1].replace('\\"', '"')
    for pattern, told, cure in _CURES:
        if re.search(pattern, said):
            return TransferFailed(f"image {source}: {told} ({_shorten(last)})", cure=cure)
    return TransferFailed(f"image {source}: {_shorten(last)}")


def _shorten(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:150]} … {text[-140:]}"
