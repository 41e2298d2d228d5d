"""Push-back: hold back where a quota is used up, and tell that from a few rejections among many answers.

A rejected request says little; the fate of later ones says more. So rejections are counted as a streak, which ends with
the first later request that was accepted: one that was answered, or was not rejected in the time that rejections take,
since answers may take a minute. A streak that chance does not explain (its likelihood, as in Wald's sequential test,
1945) holds everything back. Then single requests probe, after pauses that grow, until one is accepted. Once rejected
probes show that the quota is used up, the provider's retry time is obeyed, and probes go out after parts of it:
providers round up.
"""

import math
from dataclasses import dataclass
from enum import Enum

from llmblast.scheduling.limits import Limit

CHANCE = 2e-4
"""Rejections in a row that are less likely than this by chance mean that a quota is used up; divided by the rejections
so far, each of which may begin such a streak (Bonferroni, 1936)."""
MAX_STREAK = 6
"""Rejections in a row that always hold back. A hold without a reason costs little: requests in flight end it."""
STREAK_SHARE = 0.5
"""Share of the requests sent since the streak began; a shorter streak does not hold back."""
FIRST_GAP_S = 0.05
"""Pause before the first probe; the next ones are three times the hold so far, up to the usual pause, later a seventh
of the hold."""
USUAL_GAP_S, GAP_SHARE, MAX_GAP_S = 0.3, 1 / 7, 60.0
PROBED_PARTS = (0.25, 0.5)
"""Parts of the hold that the provider names after which requests probe."""
MAX_DOUBTED_GAP_S = 0.5
"""Pause before the next probe where the provider names a moment, but chance is not ruled out."""
MIN_PATIENCE_S = 0.02
"""A request that is not rejected within three times the latency of rejections, and this, was accepted."""
MIN_SHARE = 0.1
"""Lowest share of random rejections to reckon with: four in a row at least rule out chance."""
PRIOR_SENDS = 10
MEMORY_SENDS = 2000
LATENCY_GAIN = 0.2
_PAST = -math.inf


class HoldState(Enum):
    """State of a `PushBack`."""

    FREE = "free"
    HELD = "held"
    EXHAUSTED = "held for a quota that is used up"


@dataclass(slots=True)
class _Streak:
    """Rejections in a row, and the hold that they led to."""

    rejections: int = 0
    sends: int = 0
    first_sent_s: float = math.inf
    last_sent_s: float = -math.inf
    """When the first and the last rejected request were sent."""
    next_sent_s: float = math.inf
    """When the next request was sent, whose fate shows whether others are accepted."""
    held_since_s: float = math.inf
    probe_at_s: float = -math.inf
    rejected_probes: int = 0
    named_s: float = -math.inf
    """End of the hold that the provider names."""


class PushBack(Limit):
    """One place where a quota is held: an endpoint, a quota group, or a model at an endpoint. A limit like others."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._sends = self._rejections = 0.0
        """Sends, and rejections while others were accepted; both fade."""
        self._latency_s = 0.0
        self._sent_s = -math.inf
        self._streak: _Streak | None = None

    def __repr__(self) -> str:
        return f"PushBack({self.name!r}, {self.state.value})"

    def start(self, sends: int, sent_s: float) -> None:
        """Take over the requests sent before anything went wrong, the last of them at `sent_s`."""
        self._sends += min(sends, MEMORY_SENDS)
        self._sent_s = max(self._sent_s, sent_s)

    @property
    def state(self) -> HoldState:
        """Return whether requests are held back, and whether that is for a quota that is used up."""
        if not self.is_held:
            return HoldState.FREE
        return HoldState.EXHAUSTED if self.is_exhausted else HoldState.HELD

    @property
    def held_since_s(self) -> float:
        """Return when the present hold began; infinity while there is none."""
        return math.inf if self._streak is None else self._streak.held_since_s

    @property
    def is_held(self) -> bool:
        """Return whether only probes may go."""
        return self._streak is not None and self._streak.held_since_s < math.inf

    @property
    def is_exhausted(self) -> bool:
        """Return whether the hold is for a quota that is used up: a probe was rejected too, and chance is ruled out."""
        streak = self._streak
        if streak is None or not streak.rejected_probes:
            return False
        in_a_row = max(2 * streak.rejections - streak.sends, 1) + streak.rejected_probes
        return max(self.share, MIN_SHARE) ** in_a_row < CHANCE / (1 + self._rejections)

    @property
    def named_end_s(self) -> float:
        """Return the retry time that the provider names as the end of the present hold; minus infinity without one."""
        return self._streak.named_s if self._streak is not None and self.is_exhausted else -math.inf

    @property
    def share(self) -> float:
        """Return the usual share of rejections while others are accepted, plus two standard deviations for safety."""
        most = self._rejections + 2 * math.sqrt(self._rejections) + 1
        return most / (max(self._sends, 2 * self._rejections) + most + PRIOR_SENDS)

    def ready_at(self, cost: float, now: float) -> float:
        """Return when the present probe counts as accepted, or when the next one is due; the past without a hold."""
        if self._streak is None:
            return _PAST
        streak = self._streak
        if streak.next_sent_s < math.inf and streak.held_since_s < math.inf:
            return streak.next_sent_s + self._patience_s
        return streak.probe_at_s

    def acquire(self, cost: float, now: float) -> None:
        """Count a send; in a hold it is a probe, unless the one before was accepted: then the hold ends."""
        if (streak := self._streak) is not None:
            if now >= streak.next_sent_s + self._patience_s:
                self._on_accepted(streak)
            streak.sends += streak.held_since_s == math.inf
            if streak.next_sent_s == math.inf:
                streak.next_sent_s = now
        self._sends += 1
        self._sent_s = now

    def settle(self, paid: float, real: float, now: float) -> None:
        """Owe nothing."""

    def on_answer(self, sent_s: float) -> bool:
        """Record an answer to a request sent at `sent_s`. Return whether that ended a hold."""
        if self._streak is None:
            return False
        streak = self._streak
        was_held = streak.held_since_s < math.inf
        if sent_s <= (streak.last_sent_s if was_held else streak.first_sent_s):
            return False
        self._on_accepted(streak)
        return was_held

    def on_rejected(self, sent_s: float, wait_s: float | None, now: float) -> None:
        """Record a rate-limit reply to a request sent at `sent_s`; the provider asks to wait for `wait_s`."""
        took_s = max(now - sent_s, 0.0)
        self._latency_s += LATENCY_GAIN * (took_s - self._latency_s) if self._latency_s else took_s
        streak, is_first = self._streak or _Streak(), self._streak is None
        self._streak = streak
        if wait_s is not None and (streak.named_s <= now or now + wait_s < streak.named_s):
            streak.named_s = now + wait_s
        streak.last_sent_s = max(streak.last_sent_s, sent_s)
        if is_first or sent_s >= streak.next_sent_s:
            streak.next_sent_s = self._sent_s if self._sent_s > sent_s else math.inf
        if self.is_held:
            if sent_s >= streak.held_since_s:
                streak.rejected_probes += 1
                streak.probe_at_s = self._next_probe_s(streak, now)
            return
        streak.first_sent_s = min(streak.first_sent_s, sent_s)
        streak.rejections += 1
        if streak.rejections >= max(self._needed_streak(), STREAK_SHARE * streak.sends):
            streak.held_since_s, streak.probe_at_s = now, now + FIRST_GAP_S

    def probe_now(self, now: float) -> None:
        """Let the next probe go, for the caller knows that something has changed."""
        if self._streak is not None:
            self._streak.probe_at_s = min(self._streak.probe_at_s, now)

    def end_hold(self) -> None:
        """Let all requests go, for the caller knows that the rejections meant something else."""
        self._streak = None

    @property
    def _patience_s(self) -> float:
        return max(3 * self._latency_s, MIN_PATIENCE_S)

    def _needed_streak(self) -> int:
        if self._rejections < 1:
            return 1
        return min(math.ceil(math.log(CHANCE) / math.log(self.share)), MAX_STREAK)

    def _next_probe_s(self, streak: _Streak, now: float) -> float:
        held_s = now - streak.held_since_s
        if now < streak.named_s < math.inf:
            named_s = streak.named_s - streak.held_since_s
            part = next((part for part in PROBED_PARTS if part * named_s > held_s), 1.0)
            next_s = streak.held_since_s + part * named_s
            return next_s if self.is_exhausted else min(next_s, now + MAX_DOUBTED_GAP_S)
        return now + min(max(min(3 * held_s, USUAL_GAP_S), GAP_SHARE * held_s), MAX_GAP_S)

    def _on_accepted(self, streak: _Streak) -> None:
        """End the streak: a later request was accepted, so its rejections were random or the quota has refilled."""
        if streak.rejected_probes < 2:
            self._rejections += streak.rejections + streak.rejected_probes
        if self._sends > MEMORY_SENDS:
            self._sends, self._rejections = self._sends / 2, self._rejections / 2
        self._streak = None
