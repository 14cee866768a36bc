"""What people and scripts read: tables, templates, sizes, ages, bars."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.cli.output import describe, human_size, human_time, list_rows, short_id, shorten, table, write
from ctnr.cli.progress import bar_line
from ctnr.cli.template import Template
from ctnr.client.errors import UsageError

ROWS = [{"ID": "a1", "Names": "web", "Ports": ["80", "443"]}, {"ID": "b22", "Names": "", "Ports": []}]
COLUMNS = {"ID": "ID", "NAMES": "Names", "PORTS": "Ports"}


def shown(capfd: pytest.CaptureFixture[str], **how: object) -> str:
    list_rows(ROWS, COLUMNS, **how)  # type: ignore[arg-type]
    return capfd.readouterr().out


def test_listings(capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(capfd, format=None) == "ID    NAMES   PORTS\na1    web     80, 443\nb22\n"
    assert shown(capfd, format="table") == shown(capfd, format=None)
    assert shown(capfd, format=None, key="ID", quiet=True) == "a1\nb22\n"
    assert json.loads(shown(capfd, format="json")) == ROWS
    assert shown(capfd, format="{{.ID}}={{.Names}}") == "a1=web\nb22=\n"
    assert shown(capfd, format="table {{.Names}}\\t{{.ID}}") == "NAMES   ID\nweb     a1\n        b22\n"
    assert [json.loads(line) for line in shown(capfd, format="{{json .}}").splitlines()] == ROWS


def test_all_is_written_to_a_slow_reader() -> None:
    read, written = os.pipe()
    if (child := os.fork()) == 0:
        total = 0
        while data := os.read(read, 4096):
            total += len(data)
            if total == 300_000:
                os._exit(0)
        os._exit(1)
    os.close(read)
    write("x" * 300_000, written)
    os.close(written)
    assert os.waitpid(child, 0)[1] == 0


def test_nobody_reads() -> None:
    read, written = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        write("x", written)
    os.close(written)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (999_950, "1 MB"),
        (2e12, "2 TB"),
    ],
)
def test_human_size(count: float | None, text: str) -> None:
    assert human_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 seconds"), (1, "1 second"), (61, "1 minute"), (7200, "2 hours"), (3 * 86400, "3 days"),
        (21 * 86400, "3 weeks"), (100 * 86400, "3 months"), (800 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_human_time(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


@given(st.floats(0, 1e10))
def test_times_have_a_word(seconds: float) -> None:
    number, unit = human_time(seconds).split()
    assert unit.endswith("s") == (number != "1")


def test_short_ids_and_texts() -> None:
    assert short_id("sha256:" + "a" * 64) == "a" * 12
    assert short_id("sha256:aa", whole=True) == "sha256:aa"
    assert (shorten("abcdef", 4), shorten("abcd", 4), shorten("abcdef", 4, whole=True)) == (
        "abc…",
        "abcd",
        "abcdef",
    )


def test_table_without_rows() -> None:
    assert table(["A", "B"], []) == "A   B\n"


def test_describe() -> None:
    assert describe({"a_b": True, "c": {"d": None}, "e": ["f", {"g": 1, "h": 2}], "i": {}}) == (
        "a b: yes\nc:\n  d: \ne:\n  - f\n  - g: 1\n    h: 2\ni: {}\n"
    )


def test_bars() -> None:
    half = bar_line({"id": "layer", "what": "downloading", "done": 5000, "total": 10000})
    assert half == f"layer           downloading   [{'=' * 14}>{' ' * 13}]  5 kB / 10 kB"
    assert "[" + "=" * 28 + "]" in bar_line({"id": "layer", "what": "downloading", "done": 2, "total": 2})
    assert bar_line({"id": "layer", "what": "done", "done": 0, "total": None}) == "layer           done"


VALUE = {
    "Name": "web", "exit_code": 0, "Labels": {"b": "2", "a": "1"}, "State": {"Pid": 7, "Running": True},
    "Mounts": [{"Source": "/a"}, {"Source": "/b"}], "Nothing": None,
    "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "10.2.0.2"}}},
    "Ctnr": {"Networks": [{"result": {"cniVersion": "1.0.0", "dns": {}}}]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "web"),
        ("{{ .State.Pid }}", "7"),
        ("{{.state.pid}} {{.ExitCode}}", "7 0"),
        ("{{.State.Running}}", "true"),
        ("{{.Nothing}}{{.Nothing.Foo}}{{.Labels.missing}}", ""),
        ("{{.State.Health}}{{.State.Health.Status}}", ""),
        ("{{with .Labels}}{{.a}}{{.missing}}{{end}}", "1"),
        (
            "{{.NetworkSettings.Networks.bridge.IPAddress}}{{.NetworkSettings.Networks.other.IPAddress}}",
            "10.2.0.2",
        ),
        ("{{range .Ctnr.Networks}}{{.result.dns.domain}}{{end}}", ""),
        ("{{json .State}}", '{"Pid":7,"Running":true}'),
        ("{{.Name | upper | json}}", '"WEB"'),
        ("{{range .Mounts}}{{.Source}};{{end}}", "/a;/b;"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}},{{end}}", "a=1,b=2,"),
        ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if eq .Name `db`}}a{{else if eq .Name `web`}}b{{else}}c{{end}}", "b"),
        ("{{with .State}}{{.Pid}} of {{$.Name}}{{end}}", "7 of web"),
        ('{{index .Labels "a"}}{{(index .Mounts 1).Source}}', "1/b"),
        ('{{printf "%-5s|%d" .Name 3}}', "web  |3"),
        ("{{len .Mounts}} {{join (split `a,b` `,`) `+`}}", "2 a+b"),
        ("a {{- .Name -}} b", "awebb"),
        ("{{/* nothing */}}x\\ty", "x\ty"),
        ("no action", "no action"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert Template(template).render(VALUE) == text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{.Nam}}", "did you mean .Name?"),
        ("{{.Name.First}}", "there is no .Name.First in 'web'"),
        ("{{.State.Foo}}", "there is no .State.Foo there are: Pid, Running"),
        ("{{if .state.runing}}x{{end}}", "there is no .state.runing did you mean .state.Running?"),
        ("{{range .Mounts}}{{.Target}}{{end}}", "there is no .Target there are: Source"),
        ("{{range $m := .Mounts}}{{$m.Target}}{{end}}", "there is no $m.Target"),
        ("{{.NetworkSettings.Networks.bridge.Foo}}", "there is no .NetworkSettings.Networks.bridge.Foo"),
        ("{{jsn .}}", "did you mean json?"),
        ("{{if .Name}}x", "if without end"),
        ("{{end}}", "end without range or if"),
        ("{{.Name", "{{ without }}"),
        ("{{(.Name}}", "a ) is missing"),
        ("{{$x}}", "variable $x is not known"),
        ("{{index .Mounts 9}}", "index out of range"),
        ("{{range .Name}}{{end}}", "which is no list"),
        ('{{"\\."}}', "is no text"),
        ("{{.Name .State}}", "a field or a function"),
    ],
)
def test_wrong_templates(template: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Template(template).render(VALUE)
    assert said in f"{caught.value.message} {caught.value.cure}"


@given(st.text('{}.|$()"` abjson-range\\end', max_size=20))
def test_any_template_is_rendered_or_told(text: str) -> None:
    with contextlib.suppress(UsageError):
        Template("{{" + text + "}}").render(VALUE)
