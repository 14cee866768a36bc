"""Index, manifest and configuration as others write them: of the wrong types everywhere, or not JSON at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctnr.bundles.errors import BundleError
from ctnr.bundles.image import load_image_config
from ctnr.images.manifest import BrokenImage, ConfigRootFs, Descriptor, Index, Manifest, load
from ctnr.images.skopeo import TransferFailed, explain, find_policy

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
DIGEST = "sha256:" + "a" * 64
DESCRIPTOR = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": DIGEST, "size": 3}
GOOD: dict[Any, dict[str, Any]] = {
    Index: {
        "schemaVersion": 2,
        "manifests": [{**DESCRIPTOR, "platform": {"os": "linux", "architecture": "amd64"}}],
    },
    Manifest: {"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR], "annotations": {"a": "b"}},
    ConfigRootFs: {
        "created": "now",
        "os": "linux",
        "architecture": "x",
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    },
}
CONFIG = {
    "architecture": "amd64", "os": "linux", "rootfs": GOOD[ConfigRootFs]["rootfs"], "history": [{"created": "x"}],
    "config": {
        "Cmd": ["sh"], "Entrypoint": ["x"], "Env": ["A=b"], "User": "web", "WorkingDir": "/", "Volumes": {"/x": {}},
        "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"}, "StopSignal": "TERM", "Shell": ["sh"],
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1, "Timeout": 1, "StartPeriod": 1, "Retries": 1},
    },
}  # fmt: skip
DEEP = b"[" * 100_000


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a document, the document itself included."""
    found = [path]
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        found += places(item, (*path, key))
    return found


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with something else at one place."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = put(copy[path[0]], path[1:], value)
    return copy


@given(st.data(), st.sampled_from([Index, Manifest, ConfigRootFs]))
def test_wrong_types_at_any_place(data: st.DataObject, kind: Any) -> None:
    place = data.draw(st.sampled_from(places(GOOD[kind])))
    text = json.dumps(put(GOOD[kind], place, data.draw(ANY))).encode()
    try:
        loaded = load(text, kind, "document")
        for one in getattr(loaded, "layers", getattr(loaded, "manifests", ())):
            assert len(one.hex) == 64
    except BrokenImage as exc:
        assert "\n" not in exc.message  # noqa: PT017 -- either is right


@pytest.mark.parametrize(
    "text", [b"", b"{", DEEP, b'{"x": ' + DEEP, b'{"config": "\xff"}', b"\xff", b"null", b"[]", b"1e999"]
)
@pytest.mark.parametrize("kind", [Index, Manifest, ConfigRootFs])
def test_what_is_no_document(text: bytes, kind: Any) -> None:
    with pytest.raises(BrokenImage, match="its manifest is broken") as caught:
        load(text, kind, "manifest")
    assert caught.value.cure


@given(st.data())
def test_configurations_of_wrong_types(data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(places(CONFIG)))
    try:
        load_image_config(json.dumps(put(CONFIG, place, data.draw(ANY))).encode())
    except BundleError as exc:
        assert "\n" not in exc.message  # noqa: PT017 -- either is right


@pytest.mark.parametrize(
    "text", [b"", DEEP, b'{"config": ' + DEEP, b'{"config": {"User": "\xff"}}', b"null", b'{"config": null}']
)
def test_what_is_no_configuration(text: bytes) -> None:
    try:
        load_image_config(text)
    except BundleError:
        assert text != b'{"config": null}'


@given(st.text(max_size=90) | st.from_regex(r"\Asha256:[0-9a-f]{60,68}\Z"))
@example("sha256:" + "a" * 64 + "\n")
@example("sha256:../../../etc/passwd")
def test_a_digest_becomes_a_file_name_only_if_it_is_one(digest: str) -> None:
    try:
        name = Descriptor(digest=digest, size=0).hex
    except BrokenImage:
        return
    assert 64 == len(name)
    assert set(name) <= set("0123456789abcdef")


@given(
    st.binary(max_size=100)
    | ANY.map(lambda value: json.dumps({"default": value, "transports": value}).encode())
)
@example(DEEP)
@example(b'{"default": "\xff"}')
def test_any_policy_file(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "policy.json"
    path.write_bytes(text)
    try:
        find_policy(str(path), {})
    except TransferFailed as exc:
        assert exc.cure  # noqa: PT017 -- either is right


@given(st.text(max_size=200))
@example('msg="')
@example('time="x" level=fatal msg="a \\" b"')
def test_any_words_of_skopeo(text: str) -> None:
    assert "\n" not in explain("x", text).message
