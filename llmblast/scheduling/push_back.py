"""Push-back: hold back where a quota is used up, and tell that from a few rejections among many answers.

A rejected request says little; what matters is what others meet that were sent at the same time. So rejections are
counted in a row, in which an answer to a later send ends the row. A row that the usual share of rejections does not
explain (the likelihood of a row by chance, as in Wald's sequential test, 1945) holds everything back. Then single
requests probe: soon, since a rejection may be a mishap; half-way to the moment that the provider names, since that is
often rounded up; at that moment; and where none is named, after pauses that grow. A probe that is answered, or that is
not rejected in the time that rejections take, ends the hold.
"""

import math

CHANCE = 1e-4
"""Rows that are less likely than this by chance hold requests back."""
MAX_ROW = 12
ROW_SHARE = 0.5
"""Of what was sent since the row began: below it, others pass."""
FIRST_PROBE_S = 0.05
PROBE_GAPS_S = (0.15, 0.3)
"""The next pauses; after them a seventh of the hold so far, at least the last of these."""
GAP_SHARE = 1 / 7
MAX_GAP_S = 60.0
MIN_PATIENCE_S = 0.03
"""A probe that is not rejected within three times the latency of rejections, and this, was let in."""
PRIOR_SENDS = 20
MEMORY_SENDS = 2000
_LATENCY_GAIN = 0.2


class PushBack:
    """One place where a quota is held: an endpoint, a quota group, or a model at an endpoint. A limit like others."""

    __slots__ = (
        "_began_s",
        "_gap",
        "_last_s",
        "_latency_s",
        "_named_s",
        "_probe_at_s",
        "_probe_sent_s",
        "_rejections",
        "_row",
        "_row_sends",
        "_sends",
        "held_since_s",
        "name",
        "rejected_probes",
        "waited_s",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited_s = 0.0
        self.held_since_s = math.inf
        """When the present hold began; infinity while there is none."""
        self.rejected_probes = 0
        """In the present hold. From one on the quota is known to be used up."""
        self._row = self._row_sends = 0
        self._began_s = self._last_s = -math.inf
        """When the first and the last rejected request of the row were sent."""
        self._sends = self._rejections = 0.0
        self._latency_s = 0.0
        self._named_s = math.inf
        self._gap = 0
        self._probe_at_s = -math.inf
        self._probe_sent_s = math.inf

    @property
    def is_held(self) -> bool:
        """Only probes may go."""
        return self.held_since_s != math.inf

    @property
    def share(self) -> float:
        """The usual share of rejections while others pass."""
        return max(self._rejections, 0.5) / (self._sends + PRIOR_SENDS)

    @property
    def is_exhausted(self) -> bool:
        """A probe was rejected, too, and so many in a row are no chance: the quota is used up."""
        return self.rejected_probes > 0 and self.share ** (self._row + self.rejected_probes) < CHANCE

    @property
    def told_until_s(self) -> float:
        """The moment that the provider names as the end of the present hold; minus infinity while it names none."""
        return self._named_s if self.is_held and self.is_exhausted and self._named_s < math.inf else -math.inf

    def ready_at(self, cost: float, now: float) -> float:
        """Return the moment of the next probe during a hold, else the past."""
        return self._probe_at_s

    def take(self, cost: float, now: float) -> None:
        """Count a send; in a hold it is a probe, and the one before it, if not rejected by now, was let in."""
        if self.held_since_s == math.inf:
            self._sends += 1
            if self._row:
                self._row_sends += 1
        elif self._probe_sent_s == math.inf:
            self._probe_sent_s = now
            self._probe_at_s = now + max(3 * self._latency_s, MIN_PATIENCE_S)
        else:
            self._release()

    def settle(self, paid: float, real: float, now: float) -> None:
        """Owe nothing."""

    def on_answer(self, sent_s: float) -> bool:
        """Note an answer to what was sent at `sent_s`. Return whether that ended a hold."""
        if not self._row or sent_s <= self._began_s:
            return False
        if self.held_since_s != math.inf:
            self._release()
            return True
        self._count(self._row - (sent_s <= self._last_s))
        self._row, self._row_sends, self._began_s = (0, 0, sent_s) if sent_s > self._last_s else (1, 1, self._last_s)
        return False

    def on_rejected(self, sent_s: float, wait_s: float | None, now: float) -> None:
        """Note a rate-limit reply to what was sent at `sent_s`; `wait_s` is how long the provider says to wait."""
        self._latency_s += _LATENCY_GAIN * (now - sent_s - self._latency_s) if self._latency_s else now - sent_s
        if self.held_since_s != math.inf:
            self._row += sent_s < self._probe_sent_s
            if wait_s is not None:
                self._named_s = min(self._named_s, now + wait_s) if self._named_s > now else now + wait_s
            if sent_s >= self._probe_sent_s:
                self._on_rejected_probe(now)
            return
        if self._row == 0 or sent_s < self._began_s:
            self._began_s = sent_s
        self._last_s = max(self._last_s, sent_s)
        needed = self._needed()
        self._row += 1
        self._row_sends = max(self._row_sends, self._row)
        if self._row >= needed and self._row >= ROW_SHARE * self._row_sends:
            self._hold(wait_s, now)

    def _needed(self) -> int:
        """Return the length of a row that chance does not explain."""
        if self._rejections < 1:
            return 1
        return min(max(math.ceil(math.log(CHANCE) / math.log(self.share)), 2), MAX_ROW)

    def _hold(self, wait_s: float | None, now: float) -> None:
        self.held_since_s = now
        self.rejected_probes = self._gap = 0
        self._named_s = math.inf if wait_s is None else now + wait_s
        self._probe_sent_s = math.inf
        self._probe_at_s = min(now + (FIRST_PROBE_S if self._sends >= PRIOR_SENDS else PROBE_GAPS_S[-1]), self._named_s)

    def _on_rejected_probe(self, now: float) -> None:
        self.rejected_probes += 1
        self._probe_sent_s = math.inf
        if self._named_s < math.inf and self.is_exhausted:
            half_s = (self.held_since_s + self._named_s) / 2
            self._probe_at_s = half_s if half_s > now else max(self._named_s, now)
            if self._named_s <= now:
                self._probe_at_s = now + self._next_gap_s(now)
            return
        self._probe_at_s = now + self._next_gap_s(now)

    def _next_gap_s(self, now: float) -> float:
        gap_s = PROBE_GAPS_S[min(self._gap, len(PROBE_GAPS_S) - 1)]
        self._gap += 1
        return min(max(gap_s, GAP_SHARE * (now - self.held_since_s)), MAX_GAP_S)

    def _count(self, rejections: int) -> None:
        self._rejections += rejections
        if self._sends > MEMORY_SENDS:
            self._sends, self._rejections = self._sends / 2, self._rejections / 2

    def _release(self) -> None:
        if not self.is_exhausted:
            self._count(self._row + self.rejected_probes)
        self.held_since_s = math.inf
        self._probe_at_s, self._probe_sent_s = -math.inf, math.inf
        self._row = self._row_sends = 0
