"""Learned rate: find the request rate that an endpoint allows, by what it rejects.

Slow start comes first (`adaptive_concurrency`). More rejections than usual are noticed by a cumulative sum of log
likelihood ratios (CUSUM: Page, 1954). What was accepted since they began is the rate to try (TCP Westwood, 2001).
Whether that helps is decided by a sequential probability ratio test (Wald, 1945): where the share of rejections stays,
it is not about the rate, and the former rate comes back. A rate that held is raised by steps that double while nothing
is rejected and halve when something is, ever more rarely, as on CUBIC's plateau (RFC 9438).
"""

import math

from llmblast.scheduling.limits import Rate

MARGIN = 0.97
"""Of the accepted rate that is tried."""
DECIDED = 4.0
FREE_DECIDED = 10.0
"""Log likelihood ratios that decide: 50 to 1, and more before the first rate is tried."""
RESIDUAL_SHARE = 0.005
"""The share of rejections at a rate that holds."""
NOTICED_SHARE = 0.015
"""The share above the usual one that is noticed."""
MAX_SHARE = 0.3
"""A larger share of rejections is always about the rate, and so is a larger share of time on hold."""
MAX_HELD_SHARE = 0.4
MIN_HOLDS = 2
LATENCY_GAIN = 0.2
TRIALS = 2
"""Lower rates that do not help, after which rejections are not about the rate."""
MIN_EPOCH_S = 1.0
"""Windows of providers are no shorter."""
MIN_SENDS = 20
FIRST_STEP = 0.25
MIN_STEP = 0.01
MAX_STEP = 0.5
FIRST_PLATEAU_S = 0.5
MAX_PLATEAU_S = 60.0
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
        "_held_s",
        "_high",
        "_holds",
        "_latency_s",
        "_low",
        "_opened_s",
        "_plateau_s",
        "_rejected",
        "_sends",
        "_set_per_s",
        "_since_s",
        "_step",
        "_trials",
        "_was_exhausted",
        "borne_share",
        "learned_per_s",
    )

    def __init__(self, name: str, set_per_s: float = math.inf, learned_per_s: float = math.inf) -> None:
        super().__init__(name, math.inf)
        self._set_per_s = set_per_s
        self.learned_per_s = math.inf
        """The present rate; infinity while nothing is known."""
        self.borne_share = 0.0
        """The share of rejections that no lower rate changes."""
        self._base_per_s = math.inf
        """The rate to come back to when a lower rate does not help, or a higher one does not hold."""
        self._trials = 0
        """Lower rates still to try; 0 while none is on trial."""
        self._low = self._high = 0.0
        """The share of rejections that is all right, and the one that is told from it."""
        self._changed_s = -math.inf
        self._former_share = 0.0
        """The share of rejections before the present trial."""
        self._floor_per_s, self._floor_until_s = 0.0, -math.inf
        self._latency_s = 0.0
        self._since_s = self._counted_s = -math.inf
        """What was sent since then is judged; what arrived since then is counted."""
        self._sends = self._rejected = self._holds = 0
        self._evidence = self._held_s = 0.0
        self._opened_s, self._accepted, self._was_exhausted = math.inf, 0, False
        self._plateau_s, self._step = FIRST_PLATEAU_S, FIRST_STEP
        if learned_per_s < set_per_s:
            self._plateau_s *= 16
        self._hold(learned_per_s if learned_per_s < set_per_s else math.inf, -math.inf)

    def acquire(self, cost: float, now: float) -> None:
        """Charge a request, and go on where the evidence suffices."""
        if self._opened_s == math.inf:
            self._opened_s = now
        self._accepted += 1
        if self.learned_per_s < math.inf:
            super().take(cost, now)
        if now < self._since_s + self._latency_s:
            return  # as many as are sent now, at this rate, may still be rejected
        self._sends += 1
        self._evidence += math.log((1 - self._high) / (1 - self._low))
        if self._trials:
            if self._evidence <= -DECIDED:
                self._hold(self.learned_per_s, now)
            return
        self._evidence = max(self._evidence, 0.0)
        if self.learned_per_s < math.inf:
            self._look_higher(now)

    take = acquire

    def on_rejected(self, sent_s: float, now: float) -> None:
        """Note a rate-limit reply to what was sent at `sent_s`; of what was sent before a change it says nothing."""
        self._accepted -= 1
        took_s = max(now - sent_s, 0.0)
        self._latency_s += LATENCY_GAIN * (took_s - self._latency_s) if self._latency_s else took_s
        if sent_s < self._since_s:
            return
        if self._evidence == 0 and not self._trials and not self._is_raised:
            self._begin(sent_s, now)
        self._rejected += 1
        self._evidence += math.log(self._high / self._low)
        if self.learned_per_s <= self._floor_per_s and now < self._floor_until_s:
            self._begin(now, now + self._latency_s)
        elif self._evidence < (DECIDED if self.learned_per_s < math.inf else FREE_DECIDED) or (
            self._trials and self._sends < min(MIN_SENDS, self.learned_per_s)
        ):
            return
        elif self._is_raised:
            self._lower_again(now)
        else:
            self._try_lower(now)

    def on_held_rejected(self) -> None:
        """Note a rejected probe, or one of the crowd that met the end of the quota."""
        self._accepted -= 1

    def on_exhausted(self, held_since_s: float, now: float) -> None:
        """Note that a quota was used up at `held_since_s` and has refilled just now.

        At first what was accepted until it was used up is the rate; then what is accepted from one refill to the next.
        """
        elapsed_s = (now if self._was_exhausted else held_since_s) - self._opened_s
        if self._was_exhausted and elapsed_s < MIN_EPOCH_S:
            return
        per_s = MARGIN * self._accepted / max(elapsed_s, MIN_EPOCH_S)
        self._opened_s, self._accepted, self._was_exhausted = now, 0, True
        if held_since_s <= self._changed_s:
            return
        if self._is_raised:
            self._lower_again(now)
        elif self.learned_per_s < math.inf:
            self._hold(min(max(per_s, self.learned_per_s / 2), self.learned_per_s), now)
        else:
            self._set_floor(per_s, now)
            self._hold(min(per_s, self._set_per_s), now)

    def on_released(self, held_since_s: float, now: float) -> None:
        """Note that a hold ended that was not for a quota that is used up."""
        self._holds += 1
        self._held_s += max(now - max(held_since_s, self._counted_s), 0.0)

    def set_free(self, now: float) -> None:
        """Forget the rate: rejections were about something else."""
        self._hold(math.inf, now)

    @property
    def _share(self) -> float:
        return self._rejected / max(self._sends, self._rejected, 1)

    @property
    def _is_raised(self) -> bool:
        return self._base_per_s < self.learned_per_s

    def _try_lower(self, now: float) -> None:
        share = self._share
        elapsed_s = max(now - self._counted_s, 1e-3)
        accepted_per_s = max(self._sends - self._rejected, 1) / elapsed_s
        is_noise = share <= MAX_SHARE
        if self._trials == 0:
            self._base_per_s, self._trials = self.learned_per_s, TRIALS
        elif is_noise and self._trials == 1:
            self.borne_share = min(max(share, self._former_share, self.borne_share), MAX_SHARE)
            self._hold(self._base_per_s, now)
            return
        else:
            self._trials -= is_noise
        if self.learned_per_s == math.inf:
            self._set_floor(MARGIN * self._accepted / max(now - self._opened_s, MIN_EPOCH_S), now)
            per_s = min(MARGIN * accepted_per_s, MARGIN * self._set_per_s)
            if self._holds >= MIN_HOLDS and self._held_s > MAX_HELD_SHARE * elapsed_s:
                self._hold(max(per_s, self._floor_per_s), now)
                return
        elif share <= MAX_SHARE:
            per_s = MARGIN * self.learned_per_s * (1 - share)
        else:
            per_s = min(max(MARGIN * accepted_per_s, self.learned_per_s / 2), MARGIN * self.learned_per_s)
        if now < self._floor_until_s:
            per_s = max(per_s, self._floor_per_s)
        self._former_share = share
        low = max(share / 10, RESIDUAL_SHARE)
        self._set(min(per_s, self.learned_per_s), low, 5 * low, now)

    def _set_floor(self, per_s: float, now: float) -> None:
        """Go no lower until the windows that were filled before are over."""
        self._floor_per_s, self._floor_until_s = per_s, now + MIN_EPOCH_S

    def _lower_again(self, now: float) -> None:
        self._plateau_s, self._step = min(2 * self._plateau_s, MAX_PLATEAU_S), max(self._step / 2, MIN_STEP)
        self._hold(self._base_per_s, now)

    def _look_higher(self, now: float) -> None:
        if not self._is_raised:
            if self._sends >= max(self.learned_per_s * self._plateau_s, MIN_SENDS):
                self._raise(now)
        elif self._sends >= max(self.learned_per_s * 2 * MIN_EPOCH_S, MIN_SENDS):
            self._step, self._plateau_s = min(2 * self._step, MAX_STEP), max(self._plateau_s / 2, FIRST_PLATEAU_S)
            if self.learned_per_s > self._set_per_s:
                self._hold(math.inf, now)
            else:
                self._raise(now)

    def _raise(self, now: float) -> None:
        self._base_per_s = self.learned_per_s
        low = max(self.borne_share, RESIDUAL_SHARE)
        self._set(self.learned_per_s * (1 + self._step), low, low + self._step / (1 + self._step), now)

    def _hold(self, per_s: float, now: float) -> None:
        self._base_per_s = max(per_s, MIN_PER_S)
        self._trials = 0
        low = max(self.borne_share, RESIDUAL_SHARE)
        self._set(per_s, low, max(low + NOTICED_SHARE, 1.5 * low), now)

    def _set(self, per_s: float, low: float, high: float, now: float) -> None:
        self.learned_per_s = max(per_s, MIN_PER_S)
        self._seconds_per_unit = 1 / self.learned_per_s
        self._next_s = min(self._next_s, now + self._seconds_per_unit)
        self._low, self._high = low, high
        self._changed_s = now
        self._begin(now, now + self._latency_s)

    def _begin(self, since_s: float, counted_s: float) -> None:
        self._since_s, self._counted_s = since_s, counted_s
        self._sends = self._rejected = self._holds = 0
        self._evidence = self._held_s = 0.0
