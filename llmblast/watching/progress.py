"""Progress on standard error: choose the display, and drive it while a run is on.

A terminal gets a bar, everything else plain lines, ever more rarely. The bar, and rich with it, is imported only when
it is used: `llmblast run` in a pipeline should not wait for it.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TextIO

from llmblast.fence import Fence
from llmblast.watching.counters import Counters
from llmblast.watching.display import REFRESH_INTERVAL_S, Display, NoDisplay
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.rate_meter import Clock
from llmblast.watching.rates import Pace
from llmblast.watching.status_line import status_line

Mode = Literal["auto", "bar", "plain", "none"]

PLAIN_INTERVALS_S = ((0, 2), (2, 8), (10, 10), (60, 30), (600, 60), (3600, 300))
"""Seconds since the start, and seconds between two plain lines from then on: the first line shows soon that all is
well, and the log of a night stays short."""
SHOW_CURSOR = "\x1b[?25h"
"""DECTCEM, a private mode of DEC's terminals that all others know."""


class PlainDisplay:
    """Write one line after 2 s, then ever more rarely, for logs. A run that ends sooner has none."""

    interval_s = REFRESH_INTERVAL_S
    """The rates need regular samples; a line is written when it is due."""

    def __init__(
        self, counters: Counters, limits: LimitsView, clock: Clock, stream: TextIO, wall_clock: Clock = time.time
    ) -> None:
        self._counters = counters
        self._limits = limits
        self._pace = Pace(counters, clock, limits.allowance)
        self._stream = stream
        self._wall_clock = wall_clock
        self._due_s = next_line_s(0.0)

    def start(self) -> None:
        """Do nothing: the first line comes when it is due."""

    def tick(self) -> None:
        """Write a line if one is due."""
        snapshot = self._pace.snapshot()
        if snapshot.elapsed_s < self._due_s:
            return
        self._due_s = next_line_s(snapshot.elapsed_s)
        moment = datetime.fromtimestamp(self._wall_clock()).astimezone().isoformat(timespec="seconds")
        self._stream.write(f"{moment}  {status_line(snapshot, self._counters, self._limits)}\n")
        self._stream.flush()

    def stop(self) -> None:
        """Do nothing: the lines stay."""


def make_display(
    mode: Mode,
    counters: Counters,
    limits: LimitsView,
    clock: Clock,
    stream: TextIO,
    *,
    quiet: bool = False,
    environ: Mapping[str, str] = os.environ,
    wall_clock: Clock = time.time,
) -> Display:
    """Return the display for the settings `progress` and `quiet` on `stream`. The run's time counts from here."""
    if mode == "auto":
        mode = "bar" if is_watched(stream, environ) else "plain"
    if quiet or mode == "none":
        return NoDisplay()
    if mode == "plain":
        return PlainDisplay(counters, limits, clock, stream, wall_clock)
    from llmblast.watching.bar import BarDisplay, make_console  # noqa: PLC0415 -- rich costs more than all the rest

    return BarDisplay(counters, limits, clock, make_console(stream))


async def drive(display: Display, fence: Fence | None = None, stream: TextIO | None = None) -> None:
    """Start the display, tick until cancelled, and stop it.

    End quietly when the stream is gone: a long run outlives the terminal that started it. After a defect in the
    display, make `stream` standard error again and show its cursor, since the display may not have done so.
    """
    with contextlib.suppress(OSError):
        try:
            try:
                display.start()
                while display.interval_s is not None:
                    await asyncio.sleep(display.interval_s)
                    display.tick()
            finally:
                display.stop()
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 -- the run does not depend on it
            if stream is not None:
                sys.stderr = stream
                stream.write(f"{SHOW_CURSOR}\n" if stream.isatty() else "")
                stream.flush()
            (fence or Fence()).switch_off("the progress display", error)


def next_line_s(elapsed_s: float) -> float:
    """Return when the next plain line is due, in seconds since the start: at multiples, so no delay adds up."""
    since_s, interval_s = next(step for step in reversed(PLAIN_INTERVALS_S) if elapsed_s >= step[0])
    return since_s + (elapsed_s - since_s) // interval_s * interval_s + interval_s


def is_watched(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether the stream is a terminal that a person looks at."""
    return stream.isatty() and environ.get("TERM") != "dumb" and not environ.get("CI")
