"""Learned rate: find the request rate that an endpoint allows, by what it rejects.

Slow start comes first and is somebody else's (`adaptive_concurrency`). From push-back on this is a bracketing search:
between two rejections a quota is used exactly as fast as it refills, so what was accepted in that time is the rate to
try. Whether a lower rate helps is tested before it is believed: when the share of rejections stays, it is not about the
rate, and the rate is set free. A rate that held is raised by steps that double while nothing is rejected and halve when
something is, ever more rarely (additive increase, multiplicative decrease: Chiu and Jain, 1989; the growing pauses are
those of CUBIC's plateau, RFC 9438).
"""

import math
from enum import Enum, auto

from llmblast.scheduling.limits import Rate

MARGIN = 0.97
"""Of the measured rate that is tried."""
MIN_REJECTIONS = 3
MIN_REJECTIONS_OF_SET_RATE = 6
MIN_SHARE = 0.01
MIN_SENDS = 20
MAX_LOWERINGS = 3
"""Lowerings in a row without effect, after which rejections are not about the rate."""
DECIDED = 3.0
"""Log likelihood ratio at which a trial is decided (Wald's sequential test): 20 to 1."""
RESIDUAL_SHARE = 0.005
"""The share of rejections where a lower rate helps."""
LONG_HOLD_S = 2.0
EXHAUSTED_SHARE = 0.3
FIRST_BLOCKED_SENDS = 100
FIRST_STEP = 0.15
MIN_STEP = 0.01
MAX_STEP = 0.5
FIRST_PLATEAU_S = 0.5
MAX_PLATEAU_S = 60.0
MIN_PER_S = 0.02


class _Mode(Enum):
    FREE = auto()
    TRIAL = auto()
    HOLD = auto()
    RAISE = auto()


class LearnedRate(Rate):
    """A rate of requests that follows push-back. `set_per_s` is what the user has set: never exceeded anyway."""

    is_learned = True
    __slots__ = (
        "_base_per_s",
        "_blocked_sends",
        "_event_s",
        "_evidence",
        "_expected_share",
        "_lowerings",
        "_min_rejections",
        "_mode",
        "_plateau_s",
        "_quota_accepted",
        "_quota_since_s",
        "_rejected",
        "_rejections",
        "_sends",
        "_set_per_s",
        "_since_s",
        "_step",
        "borne_share",
        "learned_per_s",
    )

    def __init__(self, name: str, set_per_s: float = math.inf, learned_per_s: float = math.inf) -> None:
        super().__init__(name, math.inf)
        self._set_per_s = set_per_s
        self._min_rejections = MIN_REJECTIONS if set_per_s == math.inf else MIN_REJECTIONS_OF_SET_RATE
        self.learned_per_s = math.inf
        """The present rate; infinity while nothing is known."""
        self.borne_share = 0.0
        """The share of rejections that no lower rate changes."""
        self._mode = _Mode.FREE
        self._since_s = math.inf
        self._event_s = -math.inf
        self._quota_since_s, self._quota_accepted = math.inf, 0
        self._sends = self._rejected = self._rejections = self._lowerings = 0
        self._blocked_sends = 0
        self._expected_share = self._evidence = 0.0
        self._base_per_s = math.inf
        self._plateau_s, self._step = FIRST_PLATEAU_S, FIRST_STEP
        if learned_per_s < set_per_s:
            self._plateau_s = 16 * FIRST_PLATEAU_S
            self._set(learned_per_s, _Mode.HOLD, -math.inf)

    def take(self, cost: float, now: float) -> None:
        """Charge a request."""
        if self._quota_since_s == math.inf:
            self._quota_since_s = now
        self._quota_accepted += 1
        self._sends += 1
        if self._mode is not _Mode.FREE:
            super().take(cost, now)
            self._look(now)

    def on_rejected(self, sent_s: float, now: float) -> None:
        """Note a rate-limit reply to what was sent at `sent_s`; of what was sent before a change it says nothing."""
        self._quota_accepted -= 1
        if self._since_s == math.inf:
            self._begin(now)
        if sent_s < self._since_s:
            return
        self._rejected += 1
        if sent_s < self._event_s:
            return
        self._event_s = now
        self._rejections += 1
        if self._mode is _Mode.TRIAL:
            self._evidence -= math.log(self._expected_share / RESIDUAL_SHARE)
            if self._evidence <= -DECIDED:
                if self._lowerings > 0:
                    self._lower(now)
                elif self._expected_share >= EXHAUSTED_SHARE:
                    self._set(self.learned_per_s, _Mode.HOLD, now)
                else:
                    self._set_free(now)
        elif self._mode is _Mode.RAISE and self._is_significant(1):
            self._plateau_s, self._step = min(2 * self._plateau_s, MAX_PLATEAU_S), max(self._step / 2, MIN_STEP)
            self._set(self._base_per_s, _Mode.HOLD, now)
        elif self._mode is _Mode.HOLD and self._is_significant(2):
            self._plateau_s = min(2 * self._plateau_s, MAX_PLATEAU_S)
            self._try_lower(self._measured_per_s(now), self._share, 1, now)
        elif self._mode is _Mode.FREE and self._sends >= self._blocked_sends:
            if self._is_significant(self._min_rejections):
                self._try_lower(self._measured_per_s(now), self._share, 0, now)

    def on_held_rejected(self) -> None:
        """Note a rejected probe, or one of the crowd that met the end of the quota."""
        self._quota_accepted -= 1
        self._rejected += 1

    def on_exhausted(self, held_since_s: float, now: float) -> None:
        """Note that a quota was used up at `held_since_s` and has refilled just now.

        What was accepted until then is the rate; windows are a second long at least.
        """
        end_s = now if now - held_since_s > LONG_HOLD_S else held_since_s
        per_s = self._quota_accepted / max(end_s - self._quota_since_s, 1.0)
        if self.learned_per_s < math.inf:
            per_s = max(per_s, self.learned_per_s / 2)
        self._quota_since_s, self._quota_accepted = now, 0
        self._try_lower(per_s, EXHAUSTED_SHARE, MAX_LOWERINGS, now)

    @property
    def _share(self) -> float:
        return self._rejections / max(self._sends, 1)

    def _is_significant(self, rejections: int) -> bool:
        return self._rejections >= rejections and self._share >= max(MIN_SHARE, 2 * self.borne_share)

    def _measured_per_s(self, now: float) -> float:
        return (self._sends - self._rejected) / max(now - self._since_s, 1e-3)

    def _try_lower(self, per_s: float, share: float, lowerings: int, now: float) -> None:
        self._expected_share = min(max(share, 0.02), 0.5)
        self._lowerings = lowerings
        self._set(MARGIN * min(per_s, self.learned_per_s, self._set_per_s), _Mode.TRIAL, now)

    def _lower(self, now: float) -> None:
        self._lowerings -= 1
        at_least = 0.5 if self._sends >= MIN_SENDS else 0.9
        per_s = max(self._measured_per_s(now), at_least * self.learned_per_s)
        self._set(MARGIN * min(per_s, self.learned_per_s), _Mode.TRIAL, now)

    def _set_free(self, now: float) -> None:
        """Rejections are not about the rate."""
        self.borne_share = max(self._share, self._expected_share, self.borne_share)
        self._blocked_sends = max(2 * self._blocked_sends, FIRST_BLOCKED_SENDS)
        self._set(math.inf, _Mode.FREE, now)

    def _look(self, now: float) -> None:
        if self._mode is _Mode.TRIAL:
            self._evidence += math.log((1 - RESIDUAL_SHARE) / (1 - self._expected_share))
            if self._evidence >= DECIDED:
                self._set(self.learned_per_s, _Mode.HOLD, now)
        elif self._mode is _Mode.HOLD:
            if now - self._since_s >= self._plateau_s and self._sends >= MIN_SENDS * self._plateau_s:
                self._base_per_s = self.learned_per_s
                self._set(self.learned_per_s * (1 + self._step), _Mode.RAISE, now)
        elif self._sends >= max(MIN_SENDS, self.learned_per_s):
            self._step, self._plateau_s = min(2 * self._step, MAX_STEP), max(self._plateau_s / 2, FIRST_PLATEAU_S)
            if self.learned_per_s > self._set_per_s:
                self._set(math.inf, _Mode.FREE, now)
            else:
                self._set(self.learned_per_s, _Mode.HOLD, now)

    def _set(self, per_s: float, mode: _Mode, now: float) -> None:
        self.learned_per_s = max(per_s, MIN_PER_S)
        self._seconds_per_unit = 1 / self.learned_per_s
        self._mode = mode
        self._evidence = 0.0
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._since_s = now
        self._sends = self._rejected = self._rejections = 0
