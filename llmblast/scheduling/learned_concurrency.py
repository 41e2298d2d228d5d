"""Learned concurrency: recognise an endpoint that rejects by the number in flight, and stay at that number.

LiteLLM's `max_parallel_requests` and Ollama's queue reject whatever is one too many, at any rate, and LiteLLM names a
minute for it. The sign is that every rejection met more in flight than every answer did, again and again. Then the
number is held, and tried a little higher after pauses that double while it does not grow (additive increase; the
growing pauses are those of CUBIC's plateau, RFC 9438).
"""

import math
import sys

from llmblast.scheduling.limits import Concurrency

MIN_MOMENTS = 3
MIN_ABOVE = 3
"""Answers above the cap that raise it by one; one or two are let in while another answer is under way."""
MAX_DOUBTS = 3
DOUBT_FADING = 0.01
"""So many rejections at the cap or below lower it by one, and the next time refute it; each fades with 100 answers."""
FIRST_PAUSE = 20
"""Answers for each slot of a trial before it: a twentieth of them may be rejected."""
MAX_DOUBLINGS = 6
STEP_SHARE = 0.1
PATIENCE_S = 0.1
"""What is not rejected in this time was let in; answers may take a minute."""


class LearnedConcurrency(Concurrency):
    """Requests in flight at one endpoint, without a limit until rejections show one.

    The caller keeps `in_flight`, read after `acquire`, with each request and hands it back with the outcome.
    """

    is_learned = True
    __slots__ = (
        "_above",
        "_answers",
        "_cap",
        "_doublings",
        "_doubts",
        "_heard_s",
        "_highest",
        "_lowest",
        "_moments",
        "_pending",
        "_pending_s",
        "_proved_s",
        "_was_lowered",
    )

    def __init__(self, name: str, cap: int | None = None) -> None:
        super().__init__(name, cap or sys.maxsize)
        self._cap = float(cap) if cap else math.inf
        self._lowest = math.inf
        """The number in flight that the endpoint takes, and the lowest that was rejected without one known."""
        self._highest = self._moments = 0
        """The highest number in flight that was answered, and how often more was rejected since."""
        self._heard_s = self._proved_s = -math.inf
        """When the last of those rejections came, and when the last request that is known to be let in was sent."""
        self._pending, self._pending_s = 0, math.inf
        self._answers = self._doublings = self._above = 0
        self._doubts, self._was_lowered = 0.0, False

    def start(self, in_flight: int) -> None:
        """Begin with that many in flight, before the first rejection."""
        self._taken = float(in_flight)

    @property
    def in_flight(self) -> int:
        """Return the number in flight, the last one sent included."""
        return round(self._taken)

    @property
    def cap(self) -> float:
        """Return the number in flight that the endpoint takes; infinity while none is known."""
        return self._cap

    @property
    def is_known(self) -> bool:
        """Return whether the endpoint was recognised as one that limits the number in flight."""
        return self._cap < math.inf

    @property
    def is_suspected(self) -> bool:
        """Return whether rejections look like a cap, and fewer are in flight now than were answered: worth a probe."""
        return self._moments > 0 and not self.is_known and self._taken < self._highest

    def acquire(self, cost: float, now: float) -> None:
        """Occupy a slot, and note that an earlier send that was not rejected by now was let in."""
        self._taken += cost
        if now >= self._pending_s + PATIENCE_S:
            self.on_answer(self._pending, self._pending_s, now)
            self._pending_s = math.inf
        if self._pending_s == math.inf:
            self._pending, self._pending_s = self.in_flight, now

    def on_answer(self, in_flight: int, sent_s: float, now: float) -> None:
        """Note that the endpoint took a request when `in_flight` were in flight, and try more when it is time to."""
        self._proved_s = max(self._proved_s, sent_s)
        if self._cap == math.inf:
            self._highest = max(self._highest, in_flight)
            if self._highest >= self._lowest:
                self._moments, self._lowest = 0, math.inf
            return
        if in_flight > self._cap:
            self._above += 1
            if self._above >= MIN_ABOVE:
                self._was_lowered = False
                self._set(int(self._cap) + 1, max(self._doublings - 1, 0))
        self._answers += 1
        self._doubts = max(self._doubts - DOUBT_FADING, 0.0)
        step = max(1, int(STEP_SHARE * self._cap))
        if self._answers >= FIRST_PAUSE * step * 2**self._doublings and self._slots <= self._cap:
            self._slots = int(self._cap) + step

    def on_rejected(self, in_flight: int, sent_s: float, now: float) -> bool:
        """Note a rate-limit reply. Return whether the cap explains it: then it is no news for any other limit."""
        if sent_s == self._pending_s:
            self._pending_s = math.inf
        if self.is_known:
            if in_flight > self._cap:
                if self._slots > self._cap:
                    self._set(int(self._cap), min(self._doublings + 1, MAX_DOUBLINGS))
                return True
            self._doubts += 1
            if self._doubts < MAX_DOUBTS:
                return False
            if self._was_lowered or self._cap == 1:
                self._forget()
            else:
                self._set(int(self._cap) - 1, self._doublings)
                self._was_lowered, self._doubts = True, 0.0
            return False
        if in_flight <= self._highest:
            self._moments, self._lowest = 0, math.inf
            return False
        self._lowest = min(self._lowest, in_flight)
        if min(sent_s, self._proved_s) > self._heard_s or not self._moments:
            self._moments += 1
            self._heard_s = now
        if self._moments < MIN_MOMENTS or self._highest == 0:
            return False
        self._set(self._highest, 0)
        return True

    def _set(self, cap: int, doublings: int) -> None:
        self._slots = cap
        self._cap = float(cap)
        self._doublings = doublings
        self._answers = self._above = 0

    def _forget(self) -> None:
        self._slots = sys.maxsize
        self._cap = self._lowest = math.inf
        self._highest = self._moments = 0
        self._doubts, self._was_lowered = 0.0, False
