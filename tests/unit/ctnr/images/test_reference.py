"""References as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.images.reference import ReferenceError, local_name, local_names, normal_name, parse_reference

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("alpine", "docker://docker.io/library/alpine:latest", "docker.io/library/alpine:latest"),
        ("docker://alpine:3.8", "docker://docker.io/library/alpine:3.8", "docker.io/library/alpine:3.8"),
        ("user/app", "docker://docker.io/user/app:latest", "docker.io/user/app:latest"),
        ("localhost/app", "docker://localhost/app:latest", "localhost/app:latest"),
        ("reg:5000/a/b:1", "docker://reg:5000/a/b:1", "reg:5000/a/b:1"),
        ("[::1]:5000/a:1", "docker://[::1]:5000/a:1", "[::1]:5000/a:1"),
        (
            f"alpine@{DIGEST}",
            f"docker://docker.io/library/alpine@{DIGEST}",
            f"docker.io/library/alpine@{DIGEST}",
        ),
        (f"a/b:1@{DIGEST}", f"docker://docker.io/a/b@{DIGEST}", f"docker.io/a/b:1@{DIGEST}"),
        ("oci:/dir:tag", "oci:/dir:tag", "oci:/dir:tag"),
        ("docker-archive:/file.tar", "docker-archive:/file.tar", "docker-archive:/file.tar"),
    ],
)
def test_normal_forms(text: str, source: str, name: str) -> None:
    reference = parse_reference(text)
    assert (source, name) == (reference.source, reference.name)


@pytest.mark.parametrize(
    "text", ["", "Alpine", "a b", "a:", "docker://", "oci:", "a/../b", "a@sha256:12", "-x", "a:t@g", "é"]
)
def test_bad_references_are_one_error_with_a_cure(text: str) -> None:
    with pytest.raises(ReferenceError) as caught:
        parse_reference(text)
    assert caught.value.cure
    assert "\n" not in caught.value.message


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_a_reference_error(text: str) -> None:
    try:
        name = normal_name(text)
    except ReferenceError:
        return
    assert name == normal_name(name), "the normal form is its own"


def test_images_made_here_are_found_by_their_short_name() -> None:
    assert "localhost/demo:latest" == local_name("demo")
    assert local_names("demo") == ["demo", "localhost/demo:latest", "docker.io/library/demo:latest"]
    assert "localhost/team/demo:1" in local_names("team/demo:1")
    for named in ("docker.io/library/demo", "docker://demo", "reg.example/demo", "oci:demo"):
        assert "localhost/demo:latest" not in local_names(named), "a registry is named"
    assert "reg.example/demo:1" == local_name("reg.example/demo:1")
