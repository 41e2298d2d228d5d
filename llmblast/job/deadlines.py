"""Deadlines: how many lines were answered too late, and how many will be, told as soon as that is known.

With requests of equal cost on a server that works off so many a second, the number that misses its deadline is the most
that any deadline has due before it beyond what can be done until then (Moore, Management Science 15, 1968). Rate and
numbers are those of finished lines, so what is in flight needs no care. Lines without a deadline take a part of the
rate, at most half of it: lines that come near their deadline take turns with them.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf
from typing import Final, NamedTuple

from llmblast.models import Terms
from llmblast.scheduling import DeadlineBook
from llmblast.watching import Allowance, Counters, TimeLeft, duration, rate, total_lines

MAX_OBSERVED_S: Final = 10.0
MIN_OBSERVED_S: Final = 1.0
MIN_OBSERVED_SHARE: Final = 0.1
"""Nothing is told before this share of the time up to the first missed deadline has passed, within these bounds: the
rate at the very start says little.
"""
SHOWS_SECONDS_S: Final = 600.0
"""Moments that are nearer are shown with their seconds."""
CONFIRMATIONS: Final = 4
"""Looks in a row that find lines too many."""
MAX_OTHERS_SHARE: Final = 0.5
GROWTH: Final = 2.0
"""The message is repeated once the number of lines has grown by this factor."""


class Deadlines:
    """Count the lines with a deadline that have no record yet, and those that were answered too late."""

    def __init__(self, counters: Counters, wall_clock: Callable[[], float] = time.time) -> None:
        self.unfinished = DeadlineBook()
        self.finished = 0
        """Lines with a deadline that have a record of this run."""
        self.counters = counters
        self._wall_clock = wall_clock

    def on_read(self, terms: Terms, lines: int = 1) -> None:
        """Count lines that were read."""
        if terms.deadline_s < inf:
            for _ in range(lines):
                self.unfinished.add(terms.deadline_s, self._wall_clock())

    def on_end(self, terms: Terms, *, is_answered: bool) -> None:
        """Count a line that has its record."""
        if terms.deadline_s < inf:
            self.unfinished.discard(terms.deadline_s)
            self.finished += 1
            self.counters.late += is_answered and self._wall_clock() > terms.deadline_s


class Others(NamedTuple):
    """Lines without a deadline: how many are left (infinity where that is unknown), and how many finish a second."""

    lines: float = 0.0
    per_s: float = 0.0


NO_OTHERS: Final = Others()


class Shortage(NamedTuple):
    """Lines that cannot make their deadline, the speed that they would need, when all of them would be done, and the
    first deadline that some lines miss: infinity for none.
    """

    lines: int
    needed_per_s: float
    done_s: float
    first_s: float


def find_shortage(
    steps: Sequence[tuple[float, int]], per_s: float, wall_s: float, others: Others = NO_OTHERS
) -> Shortage:
    """Return what cannot be met at this speed of all lines together; `steps` are deadlines with the number of lines
    that have them.
    """
    missed, needed_per_s, ahead, late, first_s = 0.0, 0.0, 0, 0, inf
    for deadline_s, lines in sorted(steps):
        if deadline_s <= wall_s:
            late += lines
            first_s = min(first_s, deadline_s)
            continue
        left_s = deadline_s - wall_s
        ahead += lines
        beside = min(others.lines, others.per_s * left_s)
        missed = max(missed, ahead + min(beside, MAX_OTHERS_SHARE * per_s * left_s) - per_s * left_s)
        if missed >= 1:
            first_s = min(first_s, deadline_s)
        needed_per_s = max(needed_per_s, min(ahead + beside, ahead / (1.0 - MAX_OTHERS_SHARE)) / left_s)
    lines = ahead + late
    own_per_s = per_s - min(others.per_s, MAX_OTHERS_SHARE * per_s)
    done_s = wall_s + min((lines + others.lines) / per_s, lines / own_per_s)
    return Shortage(late + int(missed), needed_per_s, done_s, first_s)


class Forecast:
    """Tell how many lines cannot make their deadline, and what would help; again when there are twice as many.

    Call `look` a few times a second. `run_deadline_s` is that of lines that were not read yet, infinity for none.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        counters: Counters,
        allowance: Callable[[], Allowance],
        run_deadline_s: float,
        tell: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._deadlines = deadlines
        self._counters = counters
        self._allowance = allowance
        self._run_deadline_s = run_deadline_s
        self._tell = tell
        self._wall_clock = wall_clock
        self._time_left = TimeLeft(counters, clock)
        self._began_s: float | None = None
        self._confirmed = 0
        self._told = 0

    def look(self) -> None:
        """Look whether lines will be too late."""
        if self._run_deadline_s == inf and not self._deadlines.unfinished:
            return
        wall_s = self._wall_clock()
        self._began_s = self._began_s or wall_s
        self._time_left.observe(self._allowance())
        steps = self._steps()
        per_s = self._time_left.lines_per_s
        if not per_s:
            return
        observed_s = wall_s - self._began_s
        others = self._others(steps, per_s)
        shortage = find_shortage(steps, per_s, wall_s, others)
        if observed_s < MIN_OBSERVED_SHARE * (shortage.first_s - self._began_s):  # a burst of others may end soon
            others = NO_OTHERS
            shortage = find_shortage(steps, per_s, wall_s)
        due_s = MIN_OBSERVED_SHARE * (shortage.first_s - self._began_s)
        if observed_s < min(max(due_s, MIN_OBSERVED_S), MAX_OBSERVED_S):
            return
        lines = shortage.lines + self._counters.late
        self._confirmed = self._confirmed + 1 if lines > self._told * GROWTH else 0
        if self._confirmed >= CONFIRMATIONS:
            self._told = lines
            self._tell(self._words(shortage._replace(lines=lines), per_s, wall_s, others))

    def _steps(self) -> list[tuple[float, int]]:
        """Return the deadlines of all lines without a record, as far as these are known, with their numbers."""
        steps = [(end_s, lines) for _, end_s, lines in self._deadlines.unfinished.steps()]
        total = total_lines(self._counters)
        unread = 0 if total is None else total.lines - self._counters.records_due
        return [*steps, (self._run_deadline_s, unread)] if unread > 0 and self._run_deadline_s < inf else steps

    def _others(self, steps: Sequence[tuple[float, int]], per_s: float) -> Others:
        """Return the lines without a deadline that are left, and their part of the speed, as it was so far."""
        counters, total = self._counters, total_lines(self._counters)
        left = inf if total is None else max(total.lines - counters.done - sum(lines for _, lines in steps), 0)
        finished = counters.succeeded + counters.failed - counters.malformed
        share = max(finished - self._deadlines.finished, 0) / finished if finished > 0 else 0.0
        return Others(left, per_s * share) if left else NO_OTHERS

    def _words(self, shortage: Shortage, per_s: float, wall_s: float, others: Others) -> str:
        what = "1 line" if shortage.lines == 1 else f"{shortage.lines:,} lines"
        when = "in time" if self._run_deadline_s == inf else f"by {_shown(self._run_deadline_s, wall_s)}"
        if shortage.needed_per_s <= per_s:
            return f"{what} cannot be answered {when} any more; at {rate(per_s)}/s the others can"
        others_per_s = min(others.per_s, MAX_OTHERS_SHARE * per_s)
        part = f", of which lines without a deadline take {rate(others_per_s)}/s" if others_per_s else ""
        return (
            f"{what} cannot be answered {when} at {rate(per_s)}/s{part}: {rate(shortage.needed_per_s)}/s would be "
            f"enough, by higher limits or more endpoints; or give them until {_shown(shortage.done_s, wall_s)}, "
            f"{duration(shortage.done_s - wall_s)} from now"
        )


def _shown(moment_s: float, wall_s: float) -> str:
    """Return a moment as the local clock shows it, with the date if that is another one."""
    moment, now = (datetime.fromtimestamp(each).astimezone() for each in (moment_s, wall_s))
    time_of_day = "%H:%M:%S" if abs(moment_s - wall_s) < SHOWS_SECONDS_S else "%H:%M"
    return f"{moment:{time_of_day}}" if moment.date() == now.date() else f"{moment:%Y-%m-%d {time_of_day}}"
