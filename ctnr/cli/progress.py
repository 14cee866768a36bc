"""Progress bars on a terminal: one line per layer, redrawn in place."""

from __future__ import annotations

import posix as os
import time

from ctnr.cli.output import human_size, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.frames import Event

REDRAW_SECONDS = 0.1
BAR_WIDTH = 28


class Bars:
    """Takes `progress` events: id, what, done and total in bytes."""

    def __init__(self) -> None:
        self._lines: dict[str, Event] = {}
        self._drawn = 0
        self._last = 0.0
        self._stale = False

    def update(self, event: Event) -> None:
        known = self._lines.get(event["id"])
        self._lines[event["id"]] = event
        self._stale = True
        news = known is None or known.get("what") != event.get("what")
        if news or time.monotonic() - self._last >= REDRAW_SECONDS:
            self._draw()

    def finish(self) -> None:
        if self._stale:
            self._draw()

    def _draw(self) -> None:
        try:
            columns, rows = os.get_terminal_size(2)
        except OSError:
            columns, rows = 80, 24
        lines = [bar_line(event)[: max(columns - 1, 20)] for event in self._lines.values()]
        lines = lines[-max(rows - 1, 1) :]  # lines that have scrolled away can't be redrawn
        up = f"\x1b[{min(self._drawn, max(rows - 1, 1))}A" if self._drawn else ""
        write(up + "".join(f"\r{line}\x1b[K\n" for line in lines), 2)
        self._drawn, self._last, self._stale = len(lines), time.monotonic(), False


def bar_line(event: Event) -> str:
    """``3f1c…  downloading  [=====>      ]  1.2 MB / 3.4 MB``"""
    done, total = event.get("done") or 0, event.get("total")
    head = f"{str(event['id'])[:24]:<14}  {event.get('what') or '':<12}"
    if not total:
        return f"{head}  {human_size(done)}".rstrip() if done else head.rstrip()
    filled = min(int(BAR_WIDTH * done / total), BAR_WIDTH)
    bar = "=" * filled if filled == BAR_WIDTH else "=" * filled + ">" + " " * (BAR_WIDTH - filled - 1)
    return f"{head}  [{bar}]  {human_size(done)} / {human_size(total)}"
