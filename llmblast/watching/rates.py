"""Rates: measure the speed of a run from its counters, once a tick, and estimate the time left."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from llmblast.watching.counters import Counters
from llmblast.watching.rate_meter import Clock, RateMeter
from llmblast.watching.time_left import Allowance, TimeLeft

_TOKENS_WINDOW_S = 60.0
"""Tokens are limited per minute."""
_MIN_LINES_READ = 64
"""Lines among which a resumed run has met finished ones, if the outputs belong to this input."""


class TotalLines(NamedTuple):
    """Number of lines of the input."""

    lines: int
    is_exact: bool


def total_lines(counters: Counters) -> TotalLines | None:
    """Return the exact number once the input has ended, before that lines read x size / bytes read, or None."""
    if counters.input_ended:
        return TotalLines(counters.records_due, True)
    if not counters.input_bytes or not counters.bytes_read or not counters.lines_read:
        return None
    estimate = max(round(counters.lines_read * counters.input_bytes / counters.bytes_read), counters.lines_read)
    lines = estimate if counters.lines_limit is None else min(estimate, counters.lines_limit)
    return TotalLines(round(lines * counters.records_due / counters.lines_read), False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the whole run at one moment, as displays show it."""

    elapsed_s: float
    done: int
    total: TotalLines | None
    requests_per_s: float
    average_per_s: float
    tokens_per_min: float
    eta_s: float | None
    """None while nothing says how long."""
    held_back: str = ""
    """For a person: which quota holds the run back for long, and until when."""


class Pace:
    """Make a Snapshot of the counters, once a tick. The run starts when this object is created."""

    def __init__(self, counters: Counters, clock: Clock, allowance: Callable[[], Allowance] = Allowance) -> None:
        self._counters = counters
        self._clock = clock
        self._allowance = allowance
        self._start_s = clock()
        self._requests = RateMeter(clock)
        self._tokens = RateMeter(clock, _TOKENS_WINDOW_S)
        self._time_left = TimeLeft(counters, clock)

    def snapshot(self) -> Snapshot:
        """Measure the rates up to now, and return them."""
        counters = self._counters
        self._requests.feed(counters.sent)
        self._tokens.feed(counters.tokens)
        allowance = self._allowance()
        self._time_left.observe(allowance)
        total = total_lines(counters)
        return Snapshot(
            elapsed_s=self._clock() - self._start_s,
            done=counters.done,
            total=total,
            requests_per_s=self._requests.now_per_s,
            average_per_s=self._requests.average_per_s,
            tokens_per_min=self._tokens.now_per_s * 60,
            eta_s=self._eta_s(total, allowance),
            held_back=allowance.held_back,
        )

    def _eta_s(self, total: TotalLines | None, allowance: Allowance) -> float | None:
        counters, finished_before = self._counters, allowance.finished_before
        if allowance.is_ending:
            return self._time_left.seconds(counters.in_flight)
        if total is None:
            return None
        if counters.done >= total.lines:
            return 0.0 if total.is_exact else None
        if counters.lines_read >= _MIN_LINES_READ and not counters.skipped:
            finished_before = 0  # of another input, which has the same outputs
        to_skip = min(finished_before, total.lines - counters.records_due)
        return self._time_left.seconds(total.lines - counters.done - to_skip)
