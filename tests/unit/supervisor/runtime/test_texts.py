"""What runtimes, slirp4netns and full disks leave to be read: any bytes are read, or told in one error."""

from __future__ import annotations

import json
import math

from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.errors import SupervisorError
from supervisor.network import slirp_api
from supervisor.network.dns import _name_servers
from supervisor.runtime.log_reader import lines_of
from supervisor.runtime.logs import format_stamp, parse_line
from supervisor.runtime.oci import _log_message, explain_failure

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["return", "error", "desc", "id", "level", "msg", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
DEEP = b"[" * 100_000
STAMP = b"2026-01-31T12:00:00.000000001Z"


@given(st.binary(max_size=80) | st.binary(max_size=40).map((STAMP + b" stdout F ").__add__))
@example(STAMP[:20] + b"9e9999999 stdout F x")
@example(STAMP[:20] + b"      _1Z stdout F x")
@example(STAMP.replace(b"2026", b"0000") + b" stdout F x")
@example(STAMP.replace(b"2026", b"\xff\xff\xff\xff") + b" stdout P x\n")
def test_any_log_line(line: bytes) -> None:
    parsed = parse_line(line)
    if parsed is not None:
        assert math.isfinite(parsed.time)
        assert parsed.stream in ("stdout", "stderr")
    for one in lines_of(line):
        parse_line(one)


@given(st.integers(0, 2**62), st.binary(max_size=50))
def test_log_lines_are_read_as_they_were_written(nanoseconds: int, text: bytes) -> None:
    parsed = parse_line(format_stamp(nanoseconds) + b" stderr F " + text)
    assert parsed is not None
    assert (("stderr", text), True) == (parsed[1:], abs(parsed.time - nanoseconds / 1e9) < 1e-3)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(DEEP)
def test_any_reply_of_slirp4netns(reply: bytes) -> None:
    for request in (slirp_api.list_hostfwd(), slirp_api.remove_hostfwd(1)):
        try:
            assert isinstance(slirp_api.decode(request, reply), dict)
        except SupervisorError as exc:
            assert str(exc)  # noqa: PT017 -- either is right


@given(st.text(max_size=200) | JSON.map(json.dumps))
@example(DEEP.decode())
@example("executable file `x")
@example('executable file not found "')
def test_any_words_of_a_runtime(text: str) -> None:
    assert isinstance(_log_message(text), str)
    assert isinstance(explain_failure("crun", "start", text), SupervisorError)


@given(st.text(max_size=300) | st.text("nameserver \t\n:.0123456789abcdef%#;", max_size=200))
def test_any_resolv_conf_of_the_host(text: str) -> None:
    for address, port in _name_servers(text):
        assert 53 == port
        assert address.strip() == address
