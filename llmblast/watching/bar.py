"""The live display for a terminal: a bar, the figures of the whole run, and a row for each endpoint.

Lines are aligned as plain text and only coloured by rich: its tables measure every cell again at each tick. Text from
outside enters as `rich.text.Text`, which interprets no markup.
"""

from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.text import Text

from llmblast.watching.counters import Counters
from llmblast.watching.figures import clock_time, count, rate, short
from llmblast.watching.progress import BAR_INTERVAL_S, LimitsView, progress_text
from llmblast.watching.rates import Clock, Pace, Snapshot
from llmblast.watching.tables import MAX_ENDPOINT_ROWS, endpoint_table

_WIDEST = 120
_LINES_BESIDE_ENDPOINTS = 8
_SHORTEST_BAR = 10
_CELLS_PER_LINE = 4
_CELL_GAP = 3
_WIDEST_CELL = 20


class _OutlivingConsole(Console):
    """A console whose end is not the end of the run."""

    def on_broken_pipe(self) -> None:
        """Where rich would close stdout, which may be the save file's pipe, and exit."""
        raise OSError("nobody reads the progress display any more")


def make_console(stream: TextIO) -> Console:
    """A console that draws on `stream` even if it is no terminal: whoever gets here wants the bar."""
    return _OutlivingConsole(file=stream, force_terminal=True, markup=False, emoji=False, highlight=False)


class BarDisplay:
    """Redraws itself in place and is gone at the end. What others write to stderr meanwhile appears above it."""

    interval_s = BAR_INTERVAL_S

    def __init__(self, counters: Counters, limits: LimitsView, clock: Clock, console: Console) -> None:
        self._counters = counters
        self._limits = limits
        self._pace = Pace(counters, clock)
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False)

    def start(self) -> None:
        """Shows the display at once, so that a slow first answer does not look like a hang."""
        self._live.start()
        self.tick()

    def tick(self) -> None:
        """Draws the state of this moment."""
        self._live.update(self.render(), refresh=True)

    def stop(self) -> None:
        """Removes the display; the summary takes its place."""
        self._live.stop()

    def render(self) -> Group:
        """The lines of this moment, none wider than the console and all of them within its height."""
        size = self._console.size
        width = min(size.width, _WIDEST)
        snapshot = self._pace.snapshot()
        lines = [self._bar_line(snapshot, width), *self._figure_lines(snapshot, width)]
        max_rows = min(size.height - _LINES_BESIDE_ENDPOINTS, MAX_ENDPOINT_ROWS)
        if self._counters.endpoints and max_rows > 0:
            lines += [Text(), *self._endpoint_lines(width, max_rows)]
        return Group(*lines)

    def _bar_line(self, snapshot: Snapshot, width: int) -> Text:
        figures = f"  {progress_text(snapshot)}  ETA {clock_time(snapshot.eta_s)}"
        bar_width = max(width - len(figures), _SHORTEST_BAR)
        total = snapshot.total.lines if snapshot.total else None
        bar = ProgressBar(total=total, completed=snapshot.done, width=bar_width)
        line = Text.assemble(
            *((segment.text, segment.style or Style.null()) for segment in self._console.render(bar)),
            no_wrap=True,
            end="\n",
        )
        # Without colours rich leaves out what is not done yet.
        line.truncate(bar_width, pad=True)
        return line.append(figures)

    def _figure_lines(self, snapshot: Snapshot, width: int) -> list[Text]:
        cell_width = min((width - _CELL_GAP * (_CELLS_PER_LINE - 1)) // _CELLS_PER_LINE, _WIDEST_CELL)
        lines = []
        for cells in _figures(snapshot, self._counters, self._limits):
            line = Text(no_wrap=True)
            for label, value, style in cells:
                line.append(" " * (_CELL_GAP if line else 0))
                line.append(label, "dim")
                line.append(value.rjust(cell_width - len(label)), style)
            lines.append(line)
        return lines

    def _endpoint_lines(self, width: int, max_rows: int) -> list[Text]:
        header, *rows = endpoint_table(self._counters.endpoints, width, max_rows, with_in_flight=True)
        styles = ["yellow" if endpoint.state else "" for endpoint in self._counters.endpoints[:max_rows]]
        styles += ["dim"] * (len(rows) - len(styles))
        lines = [Text(header, "dim", no_wrap=True)]
        return lines + [Text(row, style, no_wrap=True) for row, style in zip(rows, styles, strict=True)]


def _figures(
    snapshot: Snapshot, counters: Counters, limits: LimitsView
) -> tuple[tuple[tuple[str, str, str], ...], ...]:
    """Rows of (label, value, style). Every cell is always there, so that nothing jumps."""
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
