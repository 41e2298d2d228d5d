"""Refusals: tell whether a line, its model or its endpoint is to blame for a permanent refusal, by what others meet.

One permanent refusal (400, 401, 402, 403, 404, 412, 422 ...) does not show whose fault it is. Other lines do:

1. An answer to a line that was sent after the refusal of another one shows that the endpoint is well: the refused line
   is to blame. An answer to what was sent before shows nothing: the money may have run out in between.
2. Refusals of different lines without such an answer between them are a row. A row that chance does not explain makes
   the endpoint suspected: two lines before its first answer, later ten, or more where many lines are refused anyway.
   Answers may be slower than refusals, so a row counts only once it is as long as what is still in flight.
3. While it is suspected, single requests probe it. An answer clears it, refused probes take it out.

The words of a reply decide nothing of that: where they blame the account or the key, shorter rows are enough.

The same holds for one model at an endpoint, where lines name their models themselves.
"""

import math
from enum import Enum
from itertools import takewhile

FIRST_ROW = 2
"""Lines in a row before the first answer."""
MIN_ROW = 10
MIN_BLAMED_ROW = 3
"""Lines in a row later, and where the words of the reply blame the account or the key."""
MAX_ROW = 200
CHANCE = 1e-6
BLAMED_CHANCE = 1e-3
"""Rows that are less likely than this, at the usual share of refused lines, are no chance."""
MIXED_ROWS = 3
"""So many times as long is a row of refusals that are not alike."""
MIN_SHARE = 1.0
MIN_BLAMED_SHARE = 0.25
"""Of what is in flight: a row is as long as this."""
PROBES = 2
FIRST_PROBES = 5
"""Refused probes that take an endpoint out; the latter before its first answer, unless words blame the account: a
file may begin with bad lines."""
PROBE_INTERVAL_S = 5.0
"""A probe goes when everything in flight has come back, or after this time."""


class State(Enum):
    """Of a `RefusalBreaker`."""

    CLOSED = "closed"
    SUSPECTED = "suspected"
    OPEN = "open"


class RefusalBreaker:
    """A circuit breaker for permanent refusals of one endpoint, or of one model at an endpoint.

    A limit like others, charged 1 while a request is in flight. `now` and `sent_s` are monotonic seconds.
    """

    __slots__ = (
        "_alike",
        "_answers",
        "_in_flight",
        "_is_blamed",
        "_last_sent_s",
        "_next_probe_s",
        "_probes",
        "_refused_lines",
        "_row",
        "_signature",
        "_suspected_s",
        "has_answered",
        "is_paused",
        "name",
        "state",
        "waited_s",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited_s = 0.0
        self.state = State.CLOSED
        self.has_answered = False
        self.is_paused = False
        """Nothing goes, such as while a new key is fetched."""
        self._in_flight = 0.0
        self._last_sent_s = -math.inf
        self._answers = self._refused_lines = 0
        """Lines answered, and lines that an answer has shown to be to blame: the usual share of refused lines."""
        self._row: dict[int, float] = {}
        """The lines of the row, and when their refusals came, in that order."""
        self._is_blamed = False
        """The words of the last one blame the account or the key."""
        self._signature = ""
        self._alike = 0
        """How many of the last lines in the row were refused with that signature."""
        self._suspected_s = self._next_probe_s = -math.inf
        self._probes = 0
        """Refused ones, since the endpoint is suspected."""

    def __repr__(self) -> str:
        return f"RefusalBreaker({self.name!r}, {self.state.value}, {len(self._row)} lines in a row)"

    def start(self, in_flight: int, sent_s: float, answers: int) -> None:
        """Take over what is in flight, the last of it sent at `sent_s`, and what was answered before."""
        self._in_flight, self._last_sent_s = float(in_flight), sent_s
        self._answers, self.has_answered = answers, self.has_answered or answers > 0

    @property
    def is_suspected(self) -> bool:
        """Only single probes may go."""
        return self.state is State.SUSPECTED

    def is_idle(self, now: float, seconds: float) -> bool:
        """Return whether nothing is in flight and nothing was sent for that long: no reply will tell more soon."""
        return not self._in_flight and now - self._last_sent_s >= seconds

    def ready_at(self, cost: float, now: float) -> float:
        """Return the past, or when the next probe may go; infinity where nothing may."""
        if self.state is State.CLOSED and not self.is_paused:
            return -math.inf
        if self.is_paused or self.state is State.OPEN:
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
        """Note an answer to what was sent at `sent_s`. Return whether that shows that refused lines are to blame: those
        whose refusal had come by then.
        """
        self.has_answered = True
        self._answers += 1
        if not self._row:
            return False
        shown = list(takewhile(lambda line: self._row[line] <= sent_s, self._row))
        for line in shown:
            del self._row[line]
        self._refused_lines += len(shown)
        self._alike = min(self._alike, len(self._row))
        if self.state is State.SUSPECTED and not self._is_suspicious():
            self.state = State.CLOSED
        return bool(shown)

    def on_refusal(self, line: int, signature: str, sent_s: float, now: float, *, is_blamed: bool) -> None:
        """Note a permanent refusal, at `now`, of the line with that number, sent at `sent_s`. `signature` is the same
        for the same refusal of different lines; `is_blamed` tells that its words blame the account or the key.
        """
        if self.state is State.OPEN or line in self._row:
            return
        self._row[line] = now
        self._alike = self._alike + 1 if signature == self._signature else 1
        self._signature, self._is_blamed = signature, is_blamed
        if self.state is State.CLOSED:
            if self._is_suspicious():
                self.state, self._suspected_s, self._probes = State.SUSPECTED, now, 0
                self._next_probe_s = now + PROBE_INTERVAL_S
        elif sent_s >= self._suspected_s:
            self._probes += 1
            if self._probes >= (PROBES if self.has_answered or is_blamed else FIRST_PROBES):
                self.state = State.OPEN

    def reset(self) -> None:
        """Forget the row, such as when there is a new key."""
        self.state = State.CLOSED
        self._row.clear()
        self._signature, self._alike = "", 0

    def _is_suspicious(self) -> bool:
        needed = self._needed()
        if self._alike < needed and len(self._row) < MIXED_ROWS * needed:
            return False
        share = MIN_BLAMED_SHARE if self._is_blamed else MIN_SHARE
        return not self.has_answered or len(self._row) >= share * self._in_flight

    def _needed(self) -> int:
        """Return the length of a row that chance does not explain."""
        if not self.has_answered:
            return FIRST_ROW
        share = (self._refused_lines + 0.5) / (self._refused_lines + self._answers + 1)
        chance, min_row = (BLAMED_CHANCE, MIN_BLAMED_ROW) if self._is_blamed else (CHANCE, MIN_ROW)
        return min(max(math.ceil(math.log(chance) / math.log(share)), min_row), MAX_ROW)
