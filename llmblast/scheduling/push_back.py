"""Push-back: hold back where a quota is used up, and tell that from a few rejections among many answers.

A rejected request says little; what later ones meet says more. So rejections are counted in a row, which ends with
the first later request that was let in: that was answered, or was not rejected in the time that rejections take, since
answers may take a minute. A row that chance does not explain (its likelihood, as in Wald's sequential test, 1945) holds
everything back. Then single requests probe, after pauses that grow, until one is let in. Once rejected probes show that
the quota is used up, the moment that the provider names is obeyed, and parts of the way are tried: providers round up.
"""

import math

CHANCE = 2e-4
"""Rejections in a row that are less likely than this by chance mean that a quota is used up; divided by the rejections
so far, each of which may begin such a row (Bonferroni, 1936)."""
MAX_ROW = 6
"""A row that holds back. A hold without a reason costs little: what is in flight ends it."""
ROW_SHARE = 0.5
"""Of what was sent since the row began; below it, others pass."""
FIRST_GAP_S = 0.05
"""Until the first probe; the next pauses are three times the hold so far, up to the usual pause, later a seventh."""
USUAL_GAP_S = 0.3
GAP_SHARE = 1 / 7
PROBED_PARTS = (0.25, 0.5)
"""Of the hold that the provider names, when requests probe."""
MAX_DOUBTED_GAP_S = 0.5
"""To the next probe where the provider names a moment, but chance is not ruled out."""
MAX_GAP_S = 60.0
MIN_PATIENCE_S = 0.02
"""What is not rejected within three times the latency of rejections, and this, was let in."""
MIN_SHARE = 0.1
"""Four in a row at least: nobody knows that no more are rejected at random, before some were."""
PRIOR_SENDS = 10
MEMORY_SENDS = 2000
LATENCY_GAIN = 0.2


class PushBack:
    """One place where a quota is held: an endpoint, a quota group, or a model at an endpoint. A limit like others."""

    __slots__ = (
        "_first_s",
        "_last_s",
        "_latency_s",
        "_named_s",
        "_probe_at_s",
        "_rejected_probes",
        "_rejections",
        "_row",
        "_row_sends",
        "_sends",
        "_sent_s",
        "_witness_s",
        "held_since_s",
        "name",
        "waited_s",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited_s = 0.0
        self.held_since_s = math.inf
        """When the present hold began; infinity while there is none."""
        self._sends = self._rejections = 0.0
        """Rejections while others passed, and sends; both fade."""
        self._latency_s = 0.0
        self._sent_s = -math.inf
        self._row = self._row_sends = self._rejected_probes = 0
        self._first_s, self._last_s = math.inf, -math.inf
        """When the first and the last rejected request of the row were sent."""
        self._witness_s = math.inf
        """When the next request was sent, whose fate shows whether others pass."""
        self._probe_at_s = self._named_s = -math.inf

    def start(self, sends: int, sent_s: float) -> None:
        """Take over what was sent before anything went wrong, the last of it at `sent_s`."""
        self._sends += min(sends, MEMORY_SENDS)
        self._sent_s = max(self._sent_s, sent_s)

    @property
    def is_held(self) -> bool:
        """Return whether only probes may go."""
        return self.held_since_s < math.inf

    @property
    def is_exhausted(self) -> bool:
        """Return whether the hold is for a quota that is used up: a probe was rejected too, and chance is ruled out."""
        in_a_row = max(2 * self._row - self._row_sends, 1) + self._rejected_probes
        chance = CHANCE / (1 + self._rejections)
        return self._rejected_probes > 0 and max(self.share, MIN_SHARE) ** in_a_row < chance

    @property
    def told_until_s(self) -> float:
        """Return the moment that the provider names as the end of the present hold; minus infinity without one."""
        return self._named_s if self.is_held and self.is_exhausted else -math.inf

    @property
    def share(self) -> float:
        """Return the usual share of rejections while others pass, and two standard deviations for safety."""
        most = self._rejections + 2 * math.sqrt(self._rejections) + 1
        return most / (max(self._sends, 2 * self._rejections) + most + PRIOR_SENDS)

    def ready_at(self, cost: float, now: float) -> float:
        """Return when the present probe counts as let in, or when the next one is due; the past without a hold."""
        if self._witness_s < math.inf and self.held_since_s < math.inf:
            return self._witness_s + self._patience_s
        return self._probe_at_s

    def acquire(self, cost: float, now: float) -> None:
        """Count a send; in a hold it is a probe, unless the one before was let in: then the hold ends."""
        if self._row and now >= self._witness_s + self._patience_s:
            self._others_pass()
        self._sends += 1
        self._sent_s = now
        if self._row:
            self._row_sends += not self.is_held
            if self._witness_s == math.inf:
                self._witness_s = now

    def settle(self, paid: float, real: float, now: float) -> None:
        """Owe nothing."""

    def on_answer(self, sent_s: float) -> bool:
        """Note an answer to what was sent at `sent_s`. Return whether that ended a hold."""
        if not self._row or sent_s <= (self._last_s if self.is_held else self._first_s):
            return False
        was_held = self.is_held
        self._others_pass()
        return was_held

    def on_rejected(self, sent_s: float, wait_s: float | None, now: float) -> None:
        """Note a rate-limit reply to what was sent at `sent_s`; `wait_s` is how long the provider says to wait."""
        took_s = max(now - sent_s, 0.0)
        self._latency_s += LATENCY_GAIN * (took_s - self._latency_s) if self._latency_s else took_s
        if wait_s is not None and (self._named_s <= now or now + wait_s < self._named_s):
            self._named_s = now + wait_s
        self._last_s = max(self._last_s, sent_s)
        if sent_s >= self._witness_s or self._row == 0:
            self._witness_s = self._sent_s if self._sent_s > sent_s else math.inf
        if self.is_held:
            if sent_s >= self.held_since_s:
                self._rejected_probes += 1
                self._probe_at_s = self._next_probe_s(now)
            return
        needed = self._needed_row()
        self._first_s = min(self._first_s, sent_s)
        self._row += 1
        if self._row >= needed and self._row >= ROW_SHARE * self._row_sends:
            self.held_since_s = now
            self._probe_at_s = now + FIRST_GAP_S

    def probe_now(self, now: float) -> None:
        """Let the next probe go, for the caller knows that something has changed."""
        self._probe_at_s = min(self._probe_at_s, now)

    def end_hold(self) -> None:
        """Let all requests go, for the caller knows that the rejections meant something else."""
        self._end_row()

    @property
    def _patience_s(self) -> float:
        return max(3 * self._latency_s, MIN_PATIENCE_S)

    def _needed_row(self) -> int:
        if self._rejections < 1:
            return 1
        return min(math.ceil(math.log(CHANCE) / math.log(self.share)), MAX_ROW)

    def _next_probe_s(self, now: float) -> float:
        held_s = now - self.held_since_s
        if now < self._named_s < math.inf:
            named_s = self._named_s - self.held_since_s
            part = next((part for part in PROBED_PARTS if part * named_s > held_s), 1.0)
            next_s = self.held_since_s + part * named_s
            return next_s if self.is_exhausted else min(next_s, now + MAX_DOUBTED_GAP_S)
        return now + min(max(min(3 * held_s, USUAL_GAP_S), GAP_SHARE * held_s), MAX_GAP_S)

    def _others_pass(self) -> None:
        if self._rejected_probes < 2:
            self._rejections += self._row + self._rejected_probes
        if self._sends > MEMORY_SENDS:
            self._sends, self._rejections = self._sends / 2, self._rejections / 2
        self._end_row()

    def _end_row(self) -> None:
        self._row = self._row_sends = self._rejected_probes = 0
        self._first_s = self._witness_s = self.held_since_s = math.inf
        self._last_s = -math.inf
        self._probe_at_s = self._named_s = -math.inf
