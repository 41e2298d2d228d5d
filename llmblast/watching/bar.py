"""Bar: the live display for a terminal, with a bar, the figures of the whole run, and a row for each endpoint.

Lines are aligned as plain text and only coloured by rich: its tables measure every cell again at each tick. Text from
outside enters as `rich.text.Text`, which interprets no markup.
"""

from collections.abc import Sequence
from math import ceil
from typing import TextIO

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType
from rich.style import Style
from rich.text import Text

from llmblast.watching.counters import Counters
from llmblast.watching.display import REFRESH_INTERVAL_S
from llmblast.watching.formatting import clock_time, count, rate, short
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.rate_meter import Clock
from llmblast.watching.rates import Pace, Snapshot
from llmblast.watching.sanitize import sanitize_text
from llmblast.watching.status_line import batches_text, progress_text
from llmblast.watching.tables import MAX_ENDPOINT_ROWS, cut, endpoint_table, endpoints_to_show

_MAX_WIDTH = 120
"""Maximum width of bar and figures, which are read at one glance; names and states may need more."""
_LINES_AROUND_ENDPOINTS = 4
"""A blank line, the header, a count of the endpoints not shown, and the line that the cursor ends on."""
_MIN_BAR_WIDTH = 10
_MIN_CELL_WIDTHS = (17, 15, 16, 15)
"""Columns that the figures of a busy run need, so that nothing moves while they grow."""
_MIN_GAP = 2
_MAX_GAP = 5

_Cell = tuple[str, str, str]
"""Label, value and style of a figure."""


class _OutlivingConsole(Console):
    """A console that does not end the run when its terminal is gone."""

    def on_broken_pipe(self) -> None:
        """Raise OSError; rich would close standard output, which may be the pipe of the answers, and exit."""
        raise OSError("the terminal of the progress display is gone")


def make_console(stream: TextIO) -> Console:
    """Return a console that draws on `stream`, even if that is not a terminal."""
    return _OutlivingConsole(file=stream, force_terminal=True, markup=False, emoji=False, highlight=False)


class BarDisplay:
    """Redraw the bar in place, and remove it at the end. Other output to standard error appears above it."""

    interval_s = REFRESH_INTERVAL_S

    def __init__(self, counters: Counters, limits: LimitsView, clock: Clock, console: Console) -> None:
        self._counters = counters
        self._limits = limits
        self._pace = Pace(counters, clock, limits.allowance)
        self._console = console
        self._drawn_widths: list[int] = []
        self._live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False)

    def start(self) -> None:
        """Show the display at once, so that a slow first answer does not look like a hang."""
        self._live.start()
        self.tick()

    def tick(self) -> None:
        """Draw the present state."""
        self._clear_what_wrapped()
        lines = self.lines()
        self._live.update(Group(*lines), refresh=True)
        self._drawn_widths = [line.cell_len for line in lines]

    def stop(self) -> None:
        """Remove the display; the summary follows."""
        try:
            self._clear_what_wrapped()
        finally:
            self._live.stop()

    def lines(self) -> list[Text]:
        """Return the present lines, which fit the width and the height of the console."""
        size = self._console.size
        width = min(size.width, _MAX_WIDTH)
        snapshot = self._pace.snapshot()
        lines = [self._bar_line(snapshot, width), *self._figure_lines(snapshot, width)]
        if batches := batches_text(self._counters):
            lines.append(Text(cut(batches, size.width), no_wrap=True))
        if snapshot.held_back:
            lines.append(Text(cut(sanitize_text(snapshot.held_back), size.width), "yellow", no_wrap=True))
        del lines[max(size.height - 1, 1) :]
        max_rows = min(size.height - len(lines) - _LINES_AROUND_ENDPOINTS, MAX_ENDPOINT_ROWS)
        if self._counters.endpoints and max_rows > 0:
            lines += [Text(), *self._endpoint_lines(size.width, max_rows)]
        return lines

    def _clear_what_wrapped(self) -> None:
        """Erase the lines that a terminal added by wrapping when it became narrower: rich erases only those it drew.

        A terminal that does not wrap its lines again loses as many lines above the display.
        """
        width = max(self._console.size.width, 1)
        extra = sum(ceil(drawn / width) - 1 for drawn in self._drawn_widths if drawn)
        self._drawn_widths = []
        if extra:
            self._console.control(Control(*((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)) * extra))

    def _bar_line(self, snapshot: Snapshot, width: int) -> Text:
        figures = f"  {progress_text(snapshot)}  ETA {clock_time(snapshot.eta_s)}"
        bar_width = width - len(figures)
        if bar_width < _MIN_BAR_WIDTH:
            return Text(cut(figures.strip(), width), no_wrap=True)
        total = snapshot.total.lines if snapshot.total else None
        bar = ProgressBar(total=total, completed=snapshot.done, width=bar_width)
        line = Text.assemble(
            *((segment.text, segment.style or Style.null()) for segment in self._console.render(bar)),
            no_wrap=True,
            end="\n",
        )
        # Without colours rich leaves out the part that is not done yet.
        line.truncate(bar_width, pad=True)
        return line.append(figures)

    def _figure_lines(self, snapshot: Snapshot, width: int) -> list[Text]:
        rows = _figures(snapshot, self._counters, self._limits)
        widths, gap = _layout(rows, width)
        lines = []
        for start in range(0, len(_MIN_CELL_WIDTHS), len(widths)):
            for row in rows:
                line = Text(no_wrap=True)
                for (label, value, style), cell_width in zip(row[start:], widths, strict=False):
                    line.append(" " * (gap if line else 0))
                    line.append(label, "dim")
                    line.append(value.rjust(cell_width - len(label)), style)
                line.truncate(width)
                lines.append(line)
        return lines

    def _endpoint_lines(self, width: int, max_rows: int) -> list[Text]:
        header, *rows = endpoint_table(self._counters.endpoints, width, max_rows, with_in_flight=True)
        shown = endpoints_to_show(self._counters.endpoints, max_rows)
        styles = ["yellow" if endpoint.state else "" for endpoint in shown]
        styles += ["dim"] * (len(rows) - len(styles))
        lines = [Text(header, "dim", no_wrap=True)]
        return lines + [Text(row, style, no_wrap=True) for row, style in zip(rows, styles, strict=True)]


def _layout(rows: Sequence[Sequence[_Cell]], width: int) -> tuple[list[int], int]:
    """Return the widths of the cells in one line, and the gap between them; further cells go to further lines."""
    columns = zip(_MIN_CELL_WIDTHS, zip(*rows, strict=True), strict=True)
    needed = [max(least, *(len(label) + 1 + len(value) for label, value, _ in cells)) for least, cells in columns]
    for per_line in (4, 2):
        widths = [max(needed[position::per_line]) for position in range(per_line)]
        gap = (width - sum(widths)) // (per_line - 1)
        if gap >= _MIN_GAP:
            return widths, min(gap, _MAX_GAP)
    return [max(needed)], 0


def _figures(snapshot: Snapshot, counters: Counters, limits: LimitsView) -> Sequence[Sequence[_Cell]]:
    """Return three rows of four figures. Every figure is always shown, so that nothing moves."""
    rps_limit, tpm_limit = limits.requests_per_second_limit, limits.tokens_per_minute_limit
    return (
        (
            ("requests/s", rate(snapshot.requests_per_s), "bold"),
            ("tokens/min", short(snapshot.tokens_per_min), "bold"),
            ("in flight", count(counters.in_flight), ""),
            ("retries", count(counters.retries), ""),
        ),
        (
            ("limit", rate(rps_limit) if rps_limit else "none", ""),
            ("limit", short(tpm_limit) if tpm_limit else "none", ""),
            ("queued", count(counters.queued), ""),
            ("429s", count(counters.rate_limited), "yellow" if counters.rate_limited else ""),
        ),
        (
            ("average", rate(snapshot.average_per_s), ""),
            ("tokens", short(counters.tokens), ""),
            ("time", clock_time(snapshot.elapsed_s), ""),
            ("errors", count(counters.failed), "red" if counters.failed else ""),
        ),
    )
