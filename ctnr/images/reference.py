"""Image references: transport, name, tag, digest (containers-transports(5), the distribution spec's grammar)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from supervisor.errors import SupervisorError

TRANSPORTS = ("docker", "oci", "oci-archive", "docker-archive", "docker-daemon", "dir")
DEFAULT_REGISTRY = "docker.io"
LOCAL = "localhost"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_NAME = re.compile(
    rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


class ReferenceError(SupervisorError):
    """Not an image reference."""


@dataclass(frozen=True)
class Reference:
    """`source` is what skopeo is given; `name` is what the store calls the image."""

    transport: str
    source: str
    name: str


def parse_reference(text: str) -> Reference:
    """`alpine`, `docker://alpine:3.8`, `oci:DIR:TAG`, …. Raises: ReferenceError."""
    transport, colon, rest = text.partition(":")
    if not colon or transport not in TRANSPORTS or (transport == "docker" and not rest.startswith("//")):
        transport, rest = "docker", f"//{text}"
    if transport == "docker":
        name = normal_name(rest.removeprefix("//"))
        return Reference("docker", f"docker://{_without_tag_beside_digest(name)}", name)
    if not rest:
        raise ReferenceError(f"image reference {text}: nothing follows {transport}:", cure=_EXAMPLES)
    return Reference(transport, text, text)


def normal_name(text: str) -> str:
    """`alpine` → `docker.io/library/alpine:latest`, as docker and podman read it. Raises: ReferenceError."""
    match = _NAME.fullmatch(text)
    if match is None:
        why = "names are lower case" if text != text.lower() else "not a name that a registry could have"
        raise ReferenceError(f"image reference {text!r}: {why if text else 'empty'}", cure=_EXAMPLES)
    domain, path, tag, digest = match["domain"], match["path"], match["tag"], match["digest"]
    if domain is not None and not (
        "." in domain or ":" in domain or domain == LOCAL or domain != domain.lower()
    ):
        domain, path = None, f"{domain}/{path}"
    domain = {None: DEFAULT_REGISTRY, "index.docker.io": DEFAULT_REGISTRY}.get(domain, domain)
    if domain == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    suffix = f":{tag}" if tag else "" if digest else ":latest"
    return f"{domain}/{path}{suffix}" + (f"@{digest}" if digest else "")


def local_names(text: str) -> list[str]:
    """The names under which the store may have what a person calls `text`, best first."""
    names = [text] if text else []
    try:
        reference = parse_reference(text)
    except ReferenceError:
        return names
    if reference.transport == "docker" and not text.startswith("docker://"):
        names.append(local_name(text))
    return [*names, reference.name]


def local_name(text: str) -> str:
    """What an image made here shall be called: `demo` → `localhost/demo:latest`. Raises: ReferenceError."""
    normal = normal_name(text.removeprefix("docker://"))
    first = text.split("/")[0]
    if "/" in text and ("." in first or ":" in first or first == LOCAL):
        return normal
    return normal.replace(f"{DEFAULT_REGISTRY}/library/", f"{LOCAL}/", 1).replace(
        f"{DEFAULT_REGISTRY}/", f"{LOCAL}/", 1
    )


def _without_tag_beside_digest(name: str) -> str:
    base, at, digest = name.partition("@")
    if at and ":" in base.rpartition("/")[2]:  # skopeo takes one or the other
        base = base.rpartition(":")[0]
    return base + at + digest


_EXAMPLES = "use NAME[:TAG], docker://HOST/NAME[:TAG|@DIGEST], oci:DIR[:TAG], oci-archive:FILE or dir:DIR"
