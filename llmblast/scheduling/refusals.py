"""Refusals: tell whether a line, its model or its endpoint is to blame for a permanent refusal, by the fate of others.

One permanent refusal (400, 401, 402, 403, 404, 412, 422 ...) does not show whose fault it is. Other lines do:

1. An answer to a line that was sent after the refusal of another one shows that the endpoint is well: the refused line
   is to blame. An answer to a line sent before shows nothing: the money may have run out in between.
2. Refusals of different lines without such an answer between them are a row. A row that chance does not explain makes
   the endpoint suspected: two lines before its first answer, later ten, or more where many lines are refused anyway.
   Answers may be slower than refusals, so a row counts only once there are as many lines in it as in flight.
3. While it is suspected, single requests probe it. An answer clears it, refused probes take it out.

The words of a reply decide nothing of that: where they blame the account or the key, shorter rows are enough.

The same holds for one model at an endpoint, where lines name their models themselves.
"""

import math
from dataclasses import dataclass, field
from enum import Enum
from itertools import takewhile

from llmblast.scheduling.limits import Limit

FIRST_ROW = 2
"""Lines in a row before the first answer."""
MIN_ROW, CHANCE = 10, 1e-6
"""Lines in a row later, at least; and more, where chance at the usual share of refused lines is likelier than this."""
MIN_BLAMED_ROW, BLAMED_CHANCE = 3, 1e-3
"""The same where the words of the reply blame the account or the key."""
MAX_ROW = 200
MIXED_ROWS = 3
"""Factor by which a row of refusals that are not alike has to be longer."""
MIN_SHARE = 1.0
MIN_BLAMED_SHARE = 0.25
"""Length of a row as a share of the requests in flight."""
PROBES = 2
FIRST_PROBES = 5
"""Refused probes that take an endpoint out; the latter before its first answer, unless words blame the account: a
file may begin with bad lines."""
PROBE_INTERVAL_S = 5.0
"""A probe goes when everything in flight has come back, or after this time."""


class BreakerState(Enum):
    """BreakerState of a `RefusalBreaker`."""

    CLOSED = "closed"
    SUSPECTED = "suspected"
    OPEN = "open"


@dataclass(slots=True)
class _Row:
    """Refused lines without an answer between them, and when their refusals came, in that order."""

    refused_s: dict[int, float] = field(default_factory=dict)
    signature: str = ""
    alike: int = 0
    """Number of the last lines in the row whose refusals have that signature."""
    is_blamed: bool = False
    """The words of the last refusal blame the account or the key."""

    def __len__(self) -> int:
        return len(self.refused_s)

    def __bool__(self) -> bool:
        return bool(self.refused_s)

    def add(self, line: int, signature: str, now: float, *, is_blamed: bool) -> None:
        """Add a refused line."""
        self.refused_s[line] = now
        self.alike = self.alike + 1 if signature == self.signature else 1
        self.signature, self.is_blamed = signature, is_blamed

    def remove_before(self, sent_s: float) -> int:
        """Remove the lines whose refusals had come at that moment, and return how many there were."""
        lines = list(takewhile(lambda line: self.refused_s[line] <= sent_s, self.refused_s))
        for line in lines:
            del self.refused_s[line]
        self.alike = min(self.alike, len(self.refused_s))
        return len(lines)


class RefusalBreaker(Limit):
    """A circuit breaker for permanent refusals of one endpoint, or of one model at an endpoint.

    A limit like others, charged 1 while a request is in flight. `now` and `sent_s` are monotonic seconds.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.state = BreakerState.CLOSED
        self.has_answered = False
        self.waits_for_key = False
        """Nothing is sent while a new key is fetched."""
        self._in_flight = 0.0
        self._last_sent_s = -math.inf
        self._answers = self._refused_lines = 0
        """Lines answered, and lines that an answer has shown to be to blame: the usual share of refused lines."""
        self._row = _Row()
        self._suspected_s = self._next_probe_s = -math.inf
        self._refused_probes = 0

    def __repr__(self) -> str:
        return f"RefusalBreaker({self.name!r}, {self.state.value}, {len(self._row)} lines in a row)"

    def start(self, in_flight: int, sent_s: float, answers: int) -> None:
        """Take over the requests in flight, the last of them sent at `sent_s`, and the number of answers before."""
        self._in_flight, self._last_sent_s = float(in_flight), sent_s
        self._answers, self.has_answered = answers, self.has_answered or answers > 0

    @property
    def is_suspected(self) -> bool:
        """Return whether only single probes may go."""
        return self.state is BreakerState.SUSPECTED

    def is_idle(self, now: float, seconds: float) -> bool:
        """Return whether nothing is in flight and nothing was sent for that long: no reply will tell more soon."""
        return not self._in_flight and now - self._last_sent_s >= seconds

    def ready_at(self, cost: float, now: float) -> float:
        """Return the past, or when the next probe may go; infinity where nothing may."""
        if self.state is BreakerState.CLOSED and not self.waits_for_key:
            return -math.inf
        if self.waits_for_key or self.state is BreakerState.OPEN:
            return math.inf
        return self._next_probe_s if self._in_flight else -math.inf

    def acquire(self, cost: float, now: float) -> None:
        """Count a request in flight; while suspected it is a probe."""
        self._in_flight += cost
        self._last_sent_s = now
        self._next_probe_s = now + PROBE_INTERVAL_S

    def settle(self, paid: float, real: float, now: float) -> None:
        """Count a request that has come back."""
        self._in_flight += real - paid

    def on_answer(self, sent_s: float) -> bool:
        """Record an answer to a request sent at `sent_s`. Return whether it shows that refused lines are to blame:
        those whose refusals had come by then.
        """
        self.has_answered = True
        self._answers += 1
        if not self._row.refused_s:
            return False
        shown = self._row.remove_before(sent_s)
        self._refused_lines += shown
        if self.state is BreakerState.SUSPECTED and not self._is_suspicious():
            self.state = BreakerState.CLOSED
        return shown > 0

    def on_refusal(self, line: int, signature: str, sent_s: float, now: float, *, is_blamed: bool) -> None:
        """Record a permanent refusal, at `now`, of the line with that number, sent at `sent_s`. `signature` is the same
        for the same refusal of different lines; `is_blamed` tells that its words blame the account or the key.
        """
        if self.state is BreakerState.OPEN or line in self._row.refused_s:
            return
        self._row.add(line, signature, now, is_blamed=is_blamed)
        if self.state is BreakerState.CLOSED:
            if self._is_suspicious():
                self.state, self._suspected_s, self._refused_probes = BreakerState.SUSPECTED, now, 0
                self._next_probe_s = now + PROBE_INTERVAL_S
        elif sent_s >= self._suspected_s:
            self._refused_probes += 1
            if self._refused_probes >= (PROBES if self.has_answered or is_blamed else FIRST_PROBES):
                self.state = BreakerState.OPEN

    def reset(self) -> None:
        """Forget the row, such as when there is a new key."""
        self.state, self._row = BreakerState.CLOSED, _Row()

    def _is_suspicious(self) -> bool:
        row, needed = self._row, self._needed_row()
        if row.alike < needed and len(row) < MIXED_ROWS * needed:
            return False
        share = MIN_BLAMED_SHARE if row.is_blamed else MIN_SHARE
        return not self.has_answered or len(row) >= share * self._in_flight

    def _needed_row(self) -> int:
        """Return the length of a row that chance does not explain."""
        if not self.has_answered:
            return FIRST_ROW
        share = (self._refused_lines + 0.5) / (self._refused_lines + self._answers + 1)
        chance, min_row = (BLAMED_CHANCE, MIN_BLAMED_ROW) if self._row.is_blamed else (CHANCE, MIN_ROW)
        return min(max(math.ceil(math.log(chance) / math.log(share)), min_row), MAX_ROW)
