"""How fast a run goes and how long it will still take, from totals that are looked at once a tick."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from llmblast.watching.counters import Counters

Clock = Callable[[], float]
"""Monotonic seconds."""

_NOW_WINDOW_S = 5.0
_STEADY_WINDOW_S = 60.0
"""For tokens per minute, and for the ETA: slow models answer in waves, over 5 s it would jump."""
_SAMPLES_PER_WINDOW = 20


class RateMeter:
    """The rate of a growing total: over the last `window_s` seconds (or since the last tick, when that is longer ago)
    and on average since it began to grow. Its memory does not depend on how often or how long it is fed.
    """

    __slots__ = ("_clock", "_first", "_samples", "_spacing_s", "_window_s")

    def __init__(self, clock: Clock, window_s: float = _NOW_WINDOW_S) -> None:
        self._clock = clock
        self._window_s = window_s
        self._spacing_s = window_s / _SAMPLES_PER_WINDOW
        self._first = (clock(), 0.0)
        self._samples = deque([self._first])

    def feed(self, total: float) -> None:
        """Takes the total as of now."""
        sample = (self._clock(), total)
        if total <= self._first[1]:
            self._first = sample
        samples = self._samples
        if len(samples) > 1 and sample[0] - samples[-2][0] < self._spacing_s:
            samples[-1] = sample
        else:
            samples.append(sample)
        while len(samples) > 2 and samples[1][0] <= sample[0] - self._window_s:
            samples.popleft()

    @property
    def now_per_s(self) -> float:
        """The rate of the last few seconds."""
        return _rate(self._samples[0], self._samples[-1])

    @property
    def average_per_s(self) -> float:
        """The rate since the total began to grow, up to the last tick."""
        return _rate(self._first, self._samples[-1])


class TotalLines(NamedTuple):
    """How many lines there are in all."""

    lines: int
    is_exact: bool


def total_lines(counters: Counters) -> TotalLines | None:
    """Exact once the input has ended, before that the lines read x size / bytes read; None where nothing says."""
    if counters.input_ended:
        return TotalLines(counters.lines_read, True)
    if not counters.input_bytes or not counters.bytes_read or not counters.lines_read:
        return None
    estimate = max(round(counters.lines_read * counters.input_bytes / counters.bytes_read), counters.lines_read)
    return TotalLines(estimate if counters.lines_limit is None else min(estimate, counters.lines_limit), False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a display says about the whole run at one moment."""

    elapsed_s: float
    done: int
    total: TotalLines | None
    requests_per_s: float
    average_per_s: float
    tokens_per_min: float
    eta_s: float | None
    """None while nothing says how long."""


class Pace:
    """Turns counters into a Snapshot, once a tick. The clock's first reading is the start of the run."""

    def __init__(self, counters: Counters, clock: Clock) -> None:
        self._counters = counters
        self._clock = clock
        self._start_s = clock()
        self._requests = RateMeter(clock)
        self._tokens = RateMeter(clock, _STEADY_WINDOW_S)
        self._finished = RateMeter(clock, _STEADY_WINDOW_S)

    def snapshot(self) -> Snapshot:
        """Feeds the meters with the counters as they are, and reads them."""
        counters = self._counters
        self._requests.feed(counters.sent)
        self._tokens.feed(counters.tokens)
        # Lines that an earlier run finished fly past: they say nothing about how long the others take.
        self._finished.feed(counters.succeeded + counters.failed)
        total = total_lines(counters)
        return Snapshot(
            elapsed_s=self._clock() - self._start_s,
            done=counters.done,
            total=total,
            requests_per_s=self._requests.now_per_s,
            average_per_s=self._requests.average_per_s,
            tokens_per_min=self._tokens.now_per_s * 60,
            eta_s=_eta_s(counters.done, total, self._finished.now_per_s),
        )


def _rate(start: tuple[float, float], end: tuple[float, float]) -> float:
    span_s = end[0] - start[0]
    return (end[1] - start[1]) / span_s if span_s > 0 else 0.0


def _eta_s(done: int, total: TotalLines | None, finished_per_s: float) -> float | None:
    if total is None:
        return None
    if done >= total.lines:
        return 0.0 if total.is_exact else None
    return (total.lines - done) / finished_per_s if finished_per_s > 0 else None
