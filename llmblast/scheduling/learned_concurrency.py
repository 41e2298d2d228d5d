"""Learned concurrency: recognise an endpoint that rejects by the number in flight, and stay at that number.

LiteLLM's `max_parallel_requests` and Ollama's queue reject each request above a number in flight, at any rate, and
LiteLLM names a minute for it. The sign is that every rejection met more in flight than every answer did, again and
again. Then the number is held, and tried a little higher after pauses that double while it does not grow (additive
increase; the growing pauses are those of CUBIC's plateau, RFC 9438).
"""

import math
import sys
from dataclasses import dataclass
from enum import Enum

from llmblast.scheduling.limits import Concurrency

MIN_MOMENTS = 3
MIN_ABOVE = 3
"""Answers above the cap that raise it by one; one or two are accepted while another answer is under way."""
MAX_DOUBTS = 3
DOUBT_FADING = 0.01
"""So many rejections at the cap or below lower it by one, and the next time refute it; each fades with 100 answers."""
FIRST_PAUSE = 20
"""Answers for each slot of a trial before it: a twentieth of them may be rejected."""
MAX_DOUBLINGS = 6
STEP_SHARE = 0.1
PATIENCE_S = 0.1
"""A request that is not rejected in this time was accepted; answers may take a minute."""


class CapState(Enum):
    """State of a `LearnedConcurrency`."""

    UNKNOWN = "no cap known"
    HOLDING = "at the cap"
    LOWERED = "at a lowered cap"


@dataclass(slots=True)
class _Evidence:
    """Signs of a cap while none is known."""

    max_accepted: int = 0
    """Highest number in flight that was answered."""
    min_rejected: float = math.inf
    moments: int = 0
    """How often the endpoint rejected more than it had answered, each time after it had accepted others."""
    rejected_s: float = -math.inf
    """When the last of those rejections came."""

    def raise_accepted(self, in_flight: int) -> None:
        """Record that the endpoint accepted a request when more were in flight than ever."""
        self.max_accepted = in_flight
        if self.max_accepted >= self.min_rejected:
            self.moments, self.min_rejected = 0, math.inf

    def record_rejected(self, in_flight: int, proved_s: float, now: float) -> bool:
        """Record a rejection; others sent until `proved_s` were accepted. Return whether this shows a cap."""
        if in_flight <= self.max_accepted:
            self.moments, self.min_rejected = 0, math.inf
            return False
        self.min_rejected = min(self.min_rejected, in_flight)
        if proved_s > self.rejected_s or not self.moments:
            self.moments += 1
            self.rejected_s = now
        return self.moments >= MIN_MOMENTS and self.max_accepted > 0


class LearnedConcurrency(Concurrency):
    """Requests in flight at one endpoint, without a limit until rejections show one.

    The caller keeps `in_flight`, read after `acquire`, with each request and hands it back with the outcome.
    """

    is_learned = True

    def __init__(self, name: str, cap: int | None = None) -> None:
        super().__init__(name, cap or sys.maxsize)
        self.cap = float(cap) if cap else math.inf
        """Number in flight that the endpoint accepts; infinity while none is known."""
        self._state = CapState.HOLDING if cap else CapState.UNKNOWN
        self._evidence = _Evidence()
        self._proved_s = -math.inf
        """When the last request that is known to be accepted was sent."""
        self._pending, self._pending_s = 0, math.inf
        """The number in flight after one earlier send, and its moment."""
        self._answers = self._doublings = self._above = 0
        self._doubts = 0.0

    def __repr__(self) -> str:
        return f"LearnedConcurrency({self.name!r}, {self._state.value}, {self.in_flight} of {self.cap:g} in flight)"

    def start(self, in_flight: int) -> None:
        """Begin with that many in flight, before the first rejection."""
        self._taken = float(in_flight)

    @property
    def in_flight(self) -> int:
        """Return the number in flight, the last one sent included."""
        return round(self._taken)

    @property
    def is_known(self) -> bool:
        """Return whether the endpoint was recognised as one that limits the number in flight."""
        return self.cap < math.inf

    @property
    def is_suspected(self) -> bool:
        """Return whether rejections look like a cap, and fewer are in flight now than were answered: worth a probe."""
        return self._evidence.moments > 0 and not self.is_known and self._taken < self._evidence.max_accepted

    def acquire(self, cost: float, now: float) -> None:
        """Occupy a slot, and note that an earlier send that was not rejected by now was accepted."""
        self._taken += cost
        if now >= self._pending_s + PATIENCE_S:
            self.on_answer(self._pending, self._pending_s, now)
            self._pending_s = math.inf
        if self._pending_s == math.inf:
            self._pending, self._pending_s = self.in_flight, now

    def on_answer(self, in_flight: int, sent_s: float, now: float) -> None:
        """Record that the endpoint accepted a request when `in_flight` were in flight; try more when it is time."""
        self._proved_s = max(self._proved_s, sent_s)
        cap = self.cap
        if cap == math.inf:
            if in_flight > self._evidence.max_accepted:
                self._evidence.raise_accepted(in_flight)
            return
        if in_flight > cap:
            self._above += 1
            if self._above >= MIN_ABOVE:
                self._set(int(cap) + 1, max(self._doublings - 1, 0), CapState.HOLDING)
        self._answers += 1
        self._doubts = max(self._doubts - DOUBT_FADING, 0.0)
        step = max(1, int(STEP_SHARE * self.cap))
        if self._answers >= FIRST_PAUSE * step * 2**self._doublings and self._slots <= self.cap:
            self._slots = int(self.cap) + step

    def on_rejected(self, in_flight: int, sent_s: float, now: float) -> bool:
        """Record a rate-limit reply. Return whether the cap explains it: then it is no news for any other limit."""
        if sent_s == self._pending_s:
            self._pending_s = math.inf
        if self._state is CapState.UNKNOWN:
            if not self._evidence.record_rejected(in_flight, min(sent_s, self._proved_s), now):
                return False
            self._set(self._evidence.max_accepted, 0, CapState.HOLDING)
            return True
        if in_flight > self.cap:
            if self._slots > self.cap:
                self._set(int(self.cap), min(self._doublings + 1, MAX_DOUBLINGS), self._state)
            return True
        self._doubts += 1
        if self._doubts >= MAX_DOUBTS:
            self._doubts = 0.0
            if self._state is CapState.LOWERED or self.cap == 1:
                self._forget()
            else:
                self._set(int(self.cap) - 1, self._doublings, CapState.LOWERED)
        return False

    def _set(self, cap: int, doublings: int, state: CapState) -> None:
        self._slots, self.cap, self._state = cap, float(cap), state
        self._doublings = doublings
        self._answers = self._above = 0

    def _forget(self) -> None:
        self._slots, self.cap, self._state = sys.maxsize, math.inf, CapState.UNKNOWN
        self._evidence = _Evidence(rejected_s=self._evidence.rejected_s)
