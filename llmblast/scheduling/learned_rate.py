"""Learned rate: find the request rate that an endpoint allows, by what it rejects.

Slow start comes first (`adaptive_concurrency`). More rejections than usual are noticed by a cumulative sum of log
likelihood ratios (CUSUM: Page, 1954). What was accepted since they began is the rate to try (TCP Westwood, 2001).
Whether that helps is decided by a sequential probability ratio test (Wald, 1945): where the share of rejections stays
through several trials, it is not about the rate, and the former rate comes back. A rate that held is raised by steps
that double while nothing is rejected and halve when something is, ever more rarely (CUBIC's plateau, RFC 9438).
"""

import math

from llmblast.scheduling.limits import Rate

MARGIN = 0.97
"""Of the accepted rate that is tried."""
DECIDED = 4.0
FREE_DECIDED = 10.0
SET_DECIDED = 20.0
RAISE_DECIDED = 2.0
"""Log likelihood ratios that decide: 50 to 1; more before the first rate is tried, and against the user's word; less
against a raised rate, which mostly is one rejection."""
RESIDUAL_SHARE = 0.005
"""The share of rejections at a rate that holds."""
NOTICED_SHARE = 0.015
"""The share above the usual one that is noticed."""
MAX_BORNE_SHARE = 0.3
"""A larger share of rejections is always about the rate."""
HELPED = 0.75
"""A lower rate that leaves more than this part of the share has not helped, however large the share is."""
TRIALS = 2
MIN_TRIAL_S = 0.1
MIN_TRIAL_SENDS = 12
"""Lower rates that do not help in that time at least: after them rejections are not about the rate."""
LATENCY_GAIN = 0.2
MIN_EPOCH_S = 1.0
"""Windows of providers are no shorter."""
OVERLOAD_S = 1.5
MIN_SENDS = 30
MIN_FREE_SENDS = 20
FIRST_STEP, KNOWN_STEP, MIN_STEP, MAX_STEP = 0.25, 0.05, 0.01, 1.0
FIRST_PLATEAU_S, KNOWN_PLATEAU_S, MAX_PLATEAU_S = 0.5, 8.0, 60.0
MIN_PER_S = 0.02


class LearnedRate(Rate):
    """A rate of requests that follows push-back. `set_per_s` is what the user has set: never exceeded anyway."""

    is_learned = True
    __slots__ = (
        "_accepted",
        "_base_per_s",
        "_changed_s",
        "_counted_s",
        "_evidence",
        "_floor_per_s",
        "_floor_until_s",
        "_former_share",
        "_latency_s",
        "_opened_s",
        "_per_rejection",
        "_per_send",
        "_plateau_s",
        "_rejected",
        "_sends",
        "_set_per_s",
        "_since_s",
        "_step",
        "_trials",
        "_used",
        "_was_exhausted",
        "borne_share",
        "learned_per_s",
    )

    def __init__(self, name: str, set_per_s: float = math.inf, learned_per_s: float = math.inf) -> None:
        super().__init__(name, math.inf)
        self._set_per_s = set_per_s
        self.borne_share = self._former_share = 0.0
        """The share of rejections that no lower rate changes, and the one before the present trial."""
        self._latency_s = 0.0
        self._opened_s, self._accepted, self._was_exhausted = math.inf, 0, False
        """Since when requests are accepted, how many were, and whether the quota was used up just before."""
        self._floor_per_s, self._floor_until_s = 0.0, -math.inf
        """No lower rate is tried until then: windows that were filled at a higher one are not over yet."""
        self._step, self._plateau_s = FIRST_STEP, FIRST_PLATEAU_S
        if learned_per_s < math.inf:
            self._step, self._plateau_s = KNOWN_STEP, KNOWN_PLATEAU_S
        self._trials = 0
        """Lower rates still to try; none is on trial at 0."""
        self._evidence = 0.0
        self._hold(learned_per_s if learned_per_s < set_per_s else math.inf, -math.inf)

    def start(self, opened_s: float, accepted: int) -> None:
        """Begin with what was accepted since `opened_s`, before the first rejection."""
        self._opened_s, self._accepted = opened_s, accepted

    def acquire(self, cost: float, now: float) -> None:
        """Charge a request, and go on where the evidence suffices."""
        self._opened_s = min(self._opened_s, now)
        self._accepted += 1
        if self.learned_per_s < math.inf:
            super().acquire(cost, now)
        if now < self._since_s + self._latency_s:
            return  # as many as are sent now may still be rejected
        self._sends += 1
        self._used += 1
        self._evidence += self._per_send
        if self._trials:
            if self._evidence <= -DECIDED:
                self._hold(self.learned_per_s, now)
            return
        self._evidence = max(self._evidence, 0.0)
        if self.learned_per_s < math.inf:
            self._look_higher(now)

    def on_rejected(self, sent_s: float, now: float) -> None:
        """Note a rate-limit reply to what was sent at `sent_s`; of what was sent before a change it says nothing."""
        self._accepted -= 1
        took_s = max(now - sent_s, 0.0)
        self._latency_s += LATENCY_GAIN * (took_s - self._latency_s) if self._latency_s else took_s
        if sent_s < self._since_s or (self.learned_per_s <= self._floor_per_s and now < self._floor_until_s):
            return
        if self._evidence == 0 and not self._trials and not self._is_raised:
            self._begin(sent_s, now)
        self._rejected += 1
        self._evidence += self._per_rejection
        if self._evidence < self._decided:
            return
        if self._is_raised:
            self._fall_back(now)
        elif self._is_measured(now):
            self._try_lower(now)

    def on_held_rejected(self) -> None:
        """Note a rejected probe, or one of the crowd that met the end of the quota."""
        self._accepted -= 1
        if not self._trials:
            self._evidence += self._per_rejection

    def on_exhausted(self, held_since_s: float, now: float) -> None:
        """Note that a quota was used up at `held_since_s` and has refilled just now.

        At first what was accepted until it was used up is the rate; then what is accepted from one refill to the next.
        The first time may have been an overload, which says nothing of the rate: where one is set, or where it lasted
        longer than the shortest windows of providers, nothing changes until the second time.
        """
        elapsed_s = (now if self._was_exhausted else held_since_s) - self._opened_s
        if self._was_exhausted and elapsed_s < MIN_EPOCH_S:
            return
        per_s = MARGIN * min(max(self._accepted - 1, 1) / max(elapsed_s, MIN_EPOCH_S), self._set_per_s)
        is_first, self._was_exhausted = not self._was_exhausted, True
        self._opened_s, self._accepted = now, 1  # the probe that was let in
        may_be_overload = self._set_per_s < math.inf or now - held_since_s > OVERLOAD_S
        if self.learned_per_s == math.inf and is_first and may_be_overload:
            return
        if self.learned_per_s == math.inf:
            self._set_floor(per_s, now)
            self._hold(per_s, now)
        elif held_since_s > self._changed_s:
            if self._is_raised:
                self._fall_back(now)
            else:
                least_per_s = self._floor_per_s if now < self._floor_until_s else self.learned_per_s / 2
                self._hold(min(max(per_s, least_per_s), self.learned_per_s), now)

    def set_free(self, now: float) -> None:
        """Forget the rate: rejections were about something else."""
        self._hold(math.inf, now)

    @property
    def established_per_s(self) -> float:
        """Return the rate that has held, for another run to begin with; infinity where none has, or one is set."""
        if self._trials or self._set_per_s < math.inf:
            return math.inf
        return min(self._base_per_s, self.learned_per_s)

    @property
    def _decided(self) -> float:
        if self.learned_per_s < math.inf:
            return RAISE_DECIDED if self._is_raised else DECIDED
        return FREE_DECIDED if self._set_per_s == math.inf else SET_DECIDED

    def _is_measured(self, now: float) -> bool:
        if self.learned_per_s == math.inf:
            return self._sends >= MIN_FREE_SENDS or now >= self._counted_s + MIN_EPOCH_S
        return self._sends >= MIN_TRIAL_SENDS and now >= self._counted_s + MIN_TRIAL_S

    @property
    def _is_raised(self) -> bool:
        return self._base_per_s < self.learned_per_s

    def _try_lower(self, now: float) -> None:
        share = self._rejected / max(self._sends, self._rejected)
        if not self._trials:
            self._base_per_s, self._trials = self.learned_per_s, TRIALS
            self._raise_less()  # what was taken to hold did not
        elif share <= MAX_BORNE_SHARE or share >= HELPED * self._former_share:
            self._trials -= 1
        if not self._trials:
            self.borne_share = min(max(share, self._former_share), MAX_BORNE_SHARE)
            self._step = MAX_STEP  # the former rate may have been chosen for such rejections
            self._hold(self._base_per_s, now)
            return
        accepted_per_s = max(self._sends - self._rejected, 1) / max(now - self._counted_s, 1e-3)
        per_s = MARGIN * min(accepted_per_s, self._set_per_s, self.learned_per_s)
        if self.learned_per_s < math.inf:
            per_s = max(per_s, 0.5 * self.learned_per_s * max(1 - share, 0.5))
        else:
            self._set_floor(MARGIN * self._accepted / max(now - self._opened_s, MIN_EPOCH_S), now)
        if now < self._floor_until_s:
            per_s = min(max(per_s, self._floor_per_s), self.learned_per_s)
        self._former_share = share
        low = max(share / 10, RESIDUAL_SHARE)
        self._set(per_s, low, 5 * low, now)

    def _look_higher(self, now: float) -> None:
        if self._is_raised:
            if self._used < max(self.learned_per_s * MIN_EPOCH_S * min(2.0, 0.5 / self._step), MIN_SENDS):
                return
            self._step, self._plateau_s = min(3 * self._step, MAX_STEP), max(self._plateau_s / 2, FIRST_PLATEAU_S)
        elif self._used < max(self.learned_per_s * self._plateau_s, MIN_SENDS):
            return
        if self.learned_per_s > self._set_per_s:
            self._hold(math.inf, now)
            return
        self._base_per_s = self.learned_per_s
        low = max(self.borne_share, RESIDUAL_SHARE)
        self._set(self.learned_per_s * (1 + self._step), low, low + (1 - low) * self._step / (1 + self._step), now)

    def _fall_back(self, now: float) -> None:
        self._raise_less()
        if self._set_per_s == math.inf:
            self._set_floor(self._base_per_s, now)
        self._hold(self._base_per_s, now)

    def _raise_less(self) -> None:
        self._plateau_s, self._step = min(2 * self._plateau_s, MAX_PLATEAU_S), max(self._step / 2, MIN_STEP)

    def _hold(self, per_s: float, now: float) -> None:
        self._base_per_s = max(MIN_PER_S, per_s)
        self._trials = 0
        low = max(self.borne_share, RESIDUAL_SHARE)
        self._set(per_s, low, max(low + NOTICED_SHARE, 1.5 * low), now)

    def _set(self, per_s: float, low: float, high: float, now: float) -> None:
        self.learned_per_s = max(MIN_PER_S, per_s)
        self._seconds_per_unit = 1 / self.learned_per_s
        self._next_s = min(self._next_s, now + self._seconds_per_unit)
        self._per_send, self._per_rejection = math.log((1 - high) / (1 - low)), math.log(high / low)
        """Log likelihood ratios of a share of rejections that is too high and one that is all right."""
        self._changed_s = now
        self._used = 0
        self._begin(now, now + self._latency_s)

    def _set_floor(self, per_s: float, now: float) -> None:
        self._floor_per_s, self._floor_until_s = per_s, now + MIN_EPOCH_S

    def _begin(self, since_s: float, counted_s: float) -> None:
        self._since_s, self._counted_s = since_s, counted_s
        """What was sent since the one is judged, what was heard since the other is counted."""
        self._sends = self._rejected = 0
        self._evidence = 0.0
