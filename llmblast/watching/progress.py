"""Progress on stderr while a run is on: which display, what it says, and the timer that draws it.

A bar where a person looks on, else plain lines, ever more rarely. The bar and with it rich are imported only when it is
used, since `llmblast run` in a pipeline should not wait for it.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, TextIO

from llmblast.fence import Fence
from llmblast.watching.counters import Counters, EndpointCounters
from llmblast.watching.figures import clock_time, count, percent, rate, short
from llmblast.watching.rate_meter import Clock
from llmblast.watching.rates import Pace, Snapshot
from llmblast.watching.sanitize import sanitize_text
from llmblast.watching.time_left import Allowance

Mode = Literal["auto", "bar", "plain", "none"]

BAR_INTERVAL_S = 0.25
PLAIN_INTERVALS_S = ((0, 2), (2, 8), (10, 10), (60, 30), (600, 60), (3600, 300))
"""From so many seconds of a run on, so many lie between two plain lines: the first one says that all is well, and the
log of a night is no longer than a person reads."""
_MAX_STATES = 3
SHOW_CURSOR = "\x1b[?25h"
"""DECTCEM, a private mode of DEC's terminals that all others know."""


@dataclass(frozen=True, slots=True)
class LimitsView:
    """What displays may know of the limits.

    `waited` gives the seconds for which each limit held the head of the queue back, by the limit's name for people,
    such as `run rps` or `gpu1 tpm`.
    """

    tokens_per_minute_limit: float | None = None
    requests_per_second_limit: float | None = None
    waited: Callable[[], Mapping[str, float]] = dict
    used: Callable[[], Mapping[str, float]] = dict
    """Share of each rate limit that was used between the first and the last send, by the limit's name."""
    allowance: Callable[[], Allowance] = Allowance
    """What the limits say of the time to come."""


class Display(Protocol):
    """Shows how far the run is: `start`, then `tick` every `interval_s` seconds, then `stop`, in any case.

    Each of them raises OSError when the stream has gone.
    """

    @property
    def interval_s(self) -> float | None:
        """Seconds between ticks; None: it wants none."""
        ...

    def start(self) -> None:
        """Takes its place on the screen."""
        ...

    def tick(self) -> None:
        """Draws the state of this moment."""
        ...

    def stop(self) -> None:
        """Leaves the screen as it was."""
        ...


class NoDisplay:
    """Shows nothing."""

    interval_s = None

    def start(self) -> None:
        """Nothing to do."""

    tick = start
    stop = start


class PlainDisplay:
    """One line after 2 s, then ever more rarely, for logs; a run that is over sooner prints none."""

    interval_s = BAR_INTERVAL_S
    """It looks as often as the bar, for the sake of the rates, and writes when a line is due."""

    def __init__(
        self, counters: Counters, limits: LimitsView, clock: Clock, stream: TextIO, wall_clock: Clock = time.time
    ) -> None:
        self._counters = counters
        self._limits = limits
        self._pace = Pace(counters, clock, limits.allowance)
        self._stream = stream
        self._wall_clock = wall_clock
        self._due_s = _next_line_s(0.0)

    def start(self) -> None:
        """Nothing to do: the first line comes when it is due."""

    def tick(self) -> None:
        """Writes a line if one is due."""
        snapshot = self._pace.snapshot()
        if snapshot.elapsed_s < self._due_s:
            return
        self._due_s = _next_line_s(snapshot.elapsed_s)
        moment = datetime.fromtimestamp(self._wall_clock()).astimezone().isoformat(timespec="seconds")
        self._stream.write(f"{moment}  {status_line(snapshot, self._counters, self._limits)}\n")
        self._stream.flush()

    def stop(self) -> None:
        """Nothing to do: the lines stay."""


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
    """The display for `settings.progress` and `settings.quiet` on `stream`; the run's time counts from here."""
    if mode == "auto":
        mode = "bar" if _somebody_looks_on(stream, environ) else "plain"
    if quiet or mode == "none":
        return NoDisplay()
    if mode == "plain":
        return PlainDisplay(counters, limits, clock, stream, wall_clock)
    from llmblast.watching.bar import BarDisplay, make_console  # noqa: PLC0415 -- rich costs more than all the rest

    return BarDisplay(counters, limits, clock, make_console(stream))


async def drive(display: Display, fence: Fence | None = None, stream: TextIO | None = None) -> None:
    """Starts the display, ticks until it is cancelled, and stops it.

    Ends quietly when the stream has gone: a run of hours outlives the terminal that it was started from. After a defect
    in the display, `stream` is standard error again and shows its cursor: what should have seen to that may be broken.
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


def status_line(snapshot: Snapshot, counters: Counters, limits: LimitsView) -> str:
    """The state of the run in one line; what is not known is left out."""
    parts = [
        clock_time(snapshot.elapsed_s),
        progress_text(snapshot),
        f"{rate(snapshot.requests_per_s)}/s",
    ]
    if counters.tokens or limits.tokens_per_minute_limit:
        limit = f" of {short(limits.tokens_per_minute_limit)}" if limits.tokens_per_minute_limit else ""
        parts.append(f"tokens {short(snapshot.tokens_per_min)}/min{limit}")
    parts += [
        f"in flight {count(counters.in_flight)}",
        f"retries {count(counters.retries)}",
        f"429s {count(counters.rate_limited)}",
        f"errors {count(counters.failed)}",
    ]
    if snapshot.eta_s is not None:
        parts.append(f"ETA {clock_time(snapshot.eta_s)}")
    if snapshot.held_back:
        parts.append(sanitize_text(snapshot.held_back))
    return "  ".join(parts + _states([endpoint for endpoint in counters.endpoints if endpoint.state]))


def progress_text(snapshot: Snapshot) -> str:
    """`1,234/~10,000 (12 %)`; the sign says that the total is estimated."""
    if snapshot.total is None:
        return f"{count(snapshot.done)} done"
    estimated = "" if snapshot.total.is_exact else "~"
    share = percent(snapshot.done, snapshot.total.lines)
    return f"{count(snapshot.done)}/{estimated}{count(snapshot.total.lines)} ({share})"


def _states(troubled: list[EndpointCounters]) -> list[str]:
    shown = [
        f"{sanitize_text(endpoint.name, 40)}: {sanitize_text(endpoint.state, 80)}"
        for endpoint in troubled[:_MAX_STATES]
    ]
    more = len(troubled) - len(shown)
    return [*shown, f"and {count(more)} more"] if more else shown


def _next_line_s(elapsed_s: float) -> float:
    """Return when the next plain line is due, in seconds since the start: at multiples, so that lateness adds up to
    nothing.
    """
    since_s, interval_s = next(step for step in reversed(PLAIN_INTERVALS_S) if elapsed_s >= step[0])
    return since_s + (elapsed_s - since_s) // interval_s * interval_s + interval_s


def _somebody_looks_on(stream: TextIO, environ: Mapping[str, str]) -> bool:
    return stream.isatty() and environ.get("TERM") != "dumb" and not environ.get("CI")
