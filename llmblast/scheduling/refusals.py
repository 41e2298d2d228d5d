"""Refusals: tell a line that is refused from an endpoint, an account or a model that refuses, by what others meet.

A permanent refusal (400, 401, 402, 403, 404, 422 ...) of one line, where another line sent at the same time or later is
answered, is that line's. The same refusal of several different lines in a row, with no answer to what was sent since
the row began, is suspicious: then what is in flight is awaited, and single requests probe. An answer clears the
endpoint; refused probes take it out. The words of a reply only shorten or lengthen the row that is asked for.
"""

import math
from enum import Enum

MAX_ROW = 10
"""Different lines in a row that are refused before an endpoint that has answered is suspected ..."""
MAX_BLAMED_ROW = 3
"""... and where the words of the reply speak of the account or the key."""
FIRST_ROW = 2
"""The same before the first answer."""
MAX_PROBES = 2
"""Refused probes that take an endpoint out; one is enough where nothing was ever answered."""
ROW_SHARE = 0.5
"""A row counts when it is so much of what was sent since it began: refusals come fast, answers slowly."""


class State(Enum):
    """Of a `RefusalBreaker`."""

    CLOSED = "closed"
    SUSPECTED = "suspected"
    OPEN = "open"


class RefusalBreaker:
    """A circuit breaker for permanent refusals of one endpoint, or of one model at an endpoint. Before
    the first answer, `first_row` lines in a row are suspicious.

    A limit like others, charged 1 while a request is in flight. `now` and `sent_s` are monotonic seconds.
    """

    __slots__ = (
        "_began_s",
        "_first_row",
        "_in_flight",
        "_lines",
        "_max_row",
        "_probes",
        "_sends",
        "_signature",
        "has_answered",
        "is_paused",
        "name",
        "state",
        "waited_s",
    )

    def __init__(self, name: str, first_row: int = FIRST_ROW) -> None:
        self.name = name
        self.waited_s = 0.0
        self.state = State.CLOSED
        self.has_answered = False
        self.is_paused = False
        """Nothing goes, such as while a new key is fetched."""
        self._first_row = first_row
        self._in_flight = 0.0
        self._signature = ""
        self._began_s = math.inf
        self._lines = self._sends = self._probes = 0

    def __repr__(self) -> str:
        return f"RefusalBreaker({self.name!r}, {self.state.value}, {self._lines} lines in a row)"

    @property
    def is_suspected(self) -> bool:
        """Only single probes may go."""
        return self.state is State.SUSPECTED

    @property
    def has_row(self) -> bool:
        """Some lines were refused, and nothing sent since was answered."""
        return self._lines > 0

    def ready_at(self, cost: float, now: float) -> float:
        """Return the past, or infinity while a probe, or what was sent before it, is in flight."""
        if self.state is State.CLOSED and not self.is_paused:
            return -math.inf
        return math.inf if self._in_flight or self.is_paused or self.state is State.OPEN else -math.inf

    def take(self, cost: float, now: float) -> None:
        """Count a request in flight."""
        self._in_flight += cost
        if self._lines:
            self._sends += 1

    def settle(self, paid: float, real: float, now: float) -> None:
        """Count a request that has come back."""
        self._in_flight += real - paid

    def on_answer(self, sent_s: float) -> bool:
        """Note an answer to what was sent at `sent_s`. Return whether that ends a row: those lines are to blame."""
        self.has_answered = True
        if not self._lines or sent_s < self._began_s:
            return False
        self.close()
        return True

    def on_refusal(self, signature: str, sent_s: float, *, is_blamed: bool) -> None:
        """Note a permanent refusal of one more line. `signature` is alike for the same refusal of different lines;
        `is_blamed` tells that its words speak of the endpoint or the account.
        """
        if self.state is State.SUSPECTED:
            self._probes += 1
            if self._probes >= (MAX_PROBES if self.has_answered else 1):
                self.state = State.OPEN
            return
        if signature != self._signature:
            self.close()
            self._signature, self._began_s = signature, sent_s
        self._lines += 1
        self._sends = max(self._sends, self._lines)
        self._began_s = min(self._began_s, sent_s)
        if self._lines >= self._needed(is_blamed) and self._lines >= ROW_SHARE * self._sends:
            self.state, self._probes = State.SUSPECTED, 0

    def close(self) -> None:
        """Forget the row."""
        self.state = State.CLOSED
        self._signature, self._began_s = "", math.inf
        self._lines = self._sends = self._probes = 0

    def _needed(self, is_blamed: bool) -> int:
        if not self.has_answered:
            return self._first_row
        return MAX_BLAMED_ROW if is_blamed else MAX_ROW
