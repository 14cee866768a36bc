"""Record the README's picture, docs/tour.svg: an ordinary user's terminal, each command really run (`make tour`)."""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator
from pathlib import Path

from tests.world import images
from tests.world.machine import Machine, enter_machine
from tests.world.people import Person
from tests.world.registry import Registry, docker_io_is
from tests.world.terminal import Terminal

PICTURE = Path(__file__).parents[1] / "docs" / "tour.svg"
COLUMNS, ROWS = 118, 60
COMMANDS = (
    "ctnr run -d -q --name web --network=bridge -p 8080:80 docker://busybox sh -c 'echo hello >index.html; httpd -f'",
    "ctnr run --rm --network=bridge docker://busybox wget -qO- http://web/",
    "ctnr port add web 8081:80; wget -qO- http://127.0.0.1:8081/",
    "ctnr net connect slirp web; ctnr net show",
    "ctnr ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Networks}}\\t{{.Ports}}'",
    "pkill -9 -P $(ctnr supervisor status -f '{{.pid}}') slirp4netns; sleep 0.3; ctnr exec web wget -qO- http://web/",
    "kill -9 $(ctnr supervisor status -f '{{.pid}}'); sleep 0.3; wget -T 2 -nv -O- http://127.0.0.1:8080/; ctnr ps -a",
)
PROMPT = "$ "
GLYPH, LINE, MARGIN = 7.8, 17, 14
COLOURS = {
    "31": "#d9534f",
    "32": "#5cb85c",
    "33": "#e5c07b",
    "34": "#61afef",
    "35": "#c678dd",
    "36": "#56b6c2",
}
_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_OTHER_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]")


def main() -> None:
    machine = enter_machine()
    try:
        with contextlib.ExitStack() as stack:
            registry = Registry(machine.root / "registry")
            stack.callback(registry.close)
            stack.enter_context(docker_io_is(registry))
            registry.push(_busybox(machine), "library/busybox:latest")
            person = Person(machine, "user")
            stack.callback(person.close)
            PICTURE.write_text(_picture(list(_record(person))))
    finally:
        machine.close()


def _busybox(machine: Machine) -> Path:
    base = images.tar_folder(images.busybox_rootfs(machine.root / "busybox-rootfs"))
    return images.write_image(
        machine.root / "busybox", [base], {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]}
    )


def _record(person: Person) -> Iterator[str]:
    """The screen's lines, colours and all."""
    for command in COMMANDS:
        yield f"\x1b[32m{PROMPT}\x1b[0m\x1b[1m{command}\x1b[0m"
        with person.terminal(["sh", "-c", command], rows=ROWS, columns=COLUMNS) as terminal:
            terminal.wait(30)
            yield from _lines(terminal)


def _lines(terminal: Terminal) -> Iterator[str]:
    for line in _OTHER_ESCAPES.sub("", terminal.output).replace("\r\n", "\n").rstrip("\n").split("\n"):
        if shown := line.rpartition("\r")[2]:  # what a progress line ended with
            yield shown


def _picture(lines: list[str]) -> str:
    width, height = COLUMNS * GLYPH + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    rows = [
        f'<text xml:space="preserve" x="{MARGIN}" y="{MARGIN + (number + 0.75) * LINE:.1f}">{_spans(line)}</text>'
        for number, line in enumerate(lines)
    ]
    style = "font: 13px ui-monospace, 'DejaVu Sans Mono', Menlo, monospace; white-space: pre; fill: #d8dee9"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">',
        "<title>A terminal: containers that find each other by name, ports that come and go, and nothing left</title>",
        f'<style>text {{ {style} }}</style>',
        '<rect width="100%" height="100%" rx="8" fill="#1e2127"/>',
        *rows,
        "</svg>",
        "",
    ])  # fmt: skip


def _spans(line: str) -> str:
    """SGR sequences (ECMA-48) as SVG spans."""
    spans, style, at = [], "", 0
    for match in [*_SGR.finditer(line), None]:
        text = line[at : match.start() if match else len(line)]
        if text:
            escaped = html.escape(text)
            spans.append(f"<tspan{style}>{escaped}</tspan>" if style else escaped)
        if match:
            at = match.end()
            style = _style(match[1].split(";"), style)
    return "".join(spans)


def _style(codes: list[str], style: str) -> str:
    for code in codes:
        if code in ("", "0", "22", "39"):
            style = ""
        elif code in COLOURS:
            style += f' fill="{COLOURS[code]}"'
        elif code == "1":
            style += ' font-weight="bold"'
        elif code == "2":
            style += ' opacity="0.6"'
    return style


if __name__ == "__main__":
    main()
