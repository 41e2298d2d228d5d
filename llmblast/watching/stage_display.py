"""Displays of a run with several stages: one status line for each stage.

On a terminal the lines are redrawn in place; in a log they are written when the line of a single run would be.
"""

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, TextIO

from llmblast.watching.counters import Counters
from llmblast.watching.display import REFRESH_INTERVAL_S, Display, NoDisplay
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.progress import Mode, is_watched, next_line_s
from llmblast.watching.rate_meter import Clock
from llmblast.watching.rates import Pace
from llmblast.watching.status_line import status_line
from llmblast.watching.tables import cut

if TYPE_CHECKING:
    from rich.live import Live


class StageView(NamedTuple):
    """The numbers of one stage, for a display."""

    name: str
    counters: Counters
    limits: LimitsView


class StageLines:
    """The status lines of all stages. Measure them regularly, since the rates need samples."""

    def __init__(self, stages: Sequence[StageView], clock: Clock) -> None:
        self._stages = [(stage, Pace(stage.counters, clock, stage.limits.allowance)) for stage in stages]
        self._name_width = max(len(stage.name) for stage in stages)
        self.elapsed_s = 0.0

    def measure(self) -> list[str]:
        """Return the present status lines, each with the name of its stage."""
        lines = []
        for stage, pace in self._stages:
            snapshot = pace.snapshot()
            self.elapsed_s = snapshot.elapsed_s
            line = status_line(snapshot, stage.counters, stage.limits)
            lines.append(f"{stage.name.ljust(self._name_width)}  {line}")
        return lines


class PlainStages:
    """Write the lines of all stages after 2 s, then ever more rarely, for logs."""

    interval_s = REFRESH_INTERVAL_S

    def __init__(self, lines: StageLines, stream: TextIO, wall_clock: Clock) -> None:
        self._lines = lines
        self._stream = stream
        self._wall_clock = wall_clock
        self._due_s = next_line_s(0.0)

    def start(self) -> None:
        """Do nothing: the first lines come when they are due."""

    def tick(self) -> None:
        """Write the lines if they are due."""
        lines = self._lines.measure()
        if self._lines.elapsed_s < self._due_s:
            return
        self._due_s = next_line_s(self._lines.elapsed_s)
        moment = datetime.fromtimestamp(self._wall_clock()).astimezone().isoformat(timespec="seconds")
        self._stream.write("".join(f"{moment}  {line}\n" for line in lines))
        self._stream.flush()

    def stop(self) -> None:
        """Do nothing: the lines stay."""


class LiveStages:
    """Redraw the lines of all stages in place, and remove them at the end."""

    interval_s = REFRESH_INTERVAL_S

    def __init__(self, lines: StageLines, stream: TextIO) -> None:
        from rich.live import Live as _Live  # noqa: PLC0415 -- rich costs more than all the rest

        from llmblast.watching.bar import make_console  # noqa: PLC0415

        self._lines = lines
        self._console = make_console(stream)
        self._live: Live = _Live(console=self._console, transient=True, auto_refresh=False, redirect_stdout=False)

    def start(self) -> None:
        """Show the lines at once."""
        self._live.start()
        self.tick()

    def tick(self) -> None:
        """Draw the present lines."""
        from rich.text import Text  # noqa: PLC0415 -- see above

        width = self._console.size.width
        text = "\n".join(cut(line, width) for line in self._lines.measure())
        self._live.update(Text(text, no_wrap=True), refresh=True)

    def stop(self) -> None:
        """Remove the lines; the summary follows."""
        self._live.stop()


def make_stage_display(
    mode: Mode,
    stages: Sequence[StageView],
    clock: Clock,
    stream: TextIO,
    *,
    quiet: bool = False,
    environ: Mapping[str, str] = os.environ,
    wall_clock: Clock = time.time,
) -> Display:
    """Return the display of several stages; see `make_display`."""
    if mode == "auto":
        mode = "bar" if is_watched(stream, environ) else "plain"
    if quiet or mode == "none":
        return NoDisplay()
    lines = StageLines(stages, clock)
    return PlainStages(lines, stream, wall_clock) if mode == "plain" else LiveStages(lines, stream)
