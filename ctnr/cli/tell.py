"""What the service tells on the way to an answer, for people: lines, or progress bars, on standard error."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.cli.progress import Bars
    from ctnr.client.frames import Event


class Teller:
    """Call it with events. Imports what writes when there is something to write: mostly there is not."""

    all_quiet = False  # --quiet before the command: it holds for every teller of this process

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet or Teller.all_quiet
        self._bars: Bars | None = None

    def __call__(self, event: Event) -> None:
        kind = event.get("event")
        if kind == "warning":
            self._line(f"ctnr: warning: {event.get('text')}")
        elif kind == "message":
            self.note(str(event.get("text")))
        elif kind == "progress" and not self._quiet:
            if self._bars is None:
                from ctnr.cli.progress import Bars

                self._bars = Bars()
            self._bars.update(event)

    def note(self, text: str) -> None:
        """A line that --quiet swallows."""
        if not self._quiet:
            self._line(text)

    def finish(self) -> None:
        """Leave the bars as they stand; the next output begins below them."""
        if self._bars is not None:
            self._bars.finish()
            self._bars = None

    def _line(self, text: str) -> None:
        from ctnr.cli.output import write

        self.finish()
        write(text + "\n", 2)
