"""Learned rate: find the request rate that an endpoint allows, by what it rejects.

Slow start comes first (`adaptive_concurrency`). A cumulative sum (Page, 1954) notices more rejections than usual. The
rate to try is what was accepted since they began (TCP Westwood, 2001). A sequential test (Wald, 1945) decides whether
that helps: where the share of rejections stays through several trials, the rate is not their cause, and the former rate
comes back. A rate that held is raised by steps that grow while nothing is rejected and halve when something is, ever
more rarely (CUBIC's plateau, RFC 9438).
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from llmblast.scheduling.limits import Rate
from llmblast.scheduling.sequential_test import SequentialTest

MARGIN = 0.97
"""Part of the accepted rate that is tried."""
MIN_EVIDENCE, MIN_FREE_EVIDENCE, MIN_SET_EVIDENCE, MIN_RAISED_EVIDENCE = 4.0, 10.0, 20.0, 2.0
"""Log likelihood ratios that decide: 50 to 1; more before the first rate is tried, and against a configured rate; less
against a raised rate, which mostly is one rejection."""
RESIDUAL_SHARE = 0.005
"""Share of rejections at a rate that holds."""
NOTICED_SHARE = 0.015
"""Share of rejections above the usual one that is noticed."""
MAX_TOLERATED_SHARE = 0.3
"""A larger share of rejections is always about the rate."""
MIN_REMAINING = 0.75
"""A lower rate that leaves more than this part of the share has not helped, however large the share is."""
TRIALS, MIN_TRIAL_S, MIN_TRIAL_SENDS = 2, 0.1, 12
"""After so many lower rates that did not help, for at least that long each, rejections are not about the rate."""
LATENCY_GAIN = 0.2
MIN_EPOCH_S = 1.0
"""Windows of providers are no shorter."""
OVERLOAD_S = 1.5
MIN_SENDS, MIN_FREE_SENDS = 30, 20
FIRST_STEP, KNOWN_STEP, MIN_STEP, MAX_STEP = 0.25, 0.05, 0.01, 1.0
FIRST_PLATEAU_S, KNOWN_PLATEAU_S, MAX_PLATEAU_S = 0.5, 8.0, 60.0
MIN_PER_S = 0.02


class RateState(Enum):
    """What a learned rate does at present."""

    FREE = "free"
    HOLDING = "holding"
    RAISED = "raised"
    LOWERED = "lowered on trial"


class _Trial(NamedTuple):
    """A lower rate on trial: how many may still be tried, and the share of rejections before this one."""

    left: int
    former_share: float


class _Floor(NamedTuple):
    """No lower rate is tried until `until_s`: windows that were filled at a higher one are not over yet."""

    per_s: float = 0.0
    until_s: float = -math.inf


@dataclass(slots=True)
class _Epoch:
    """The requests accepted since a quota was last refilled."""

    opened_s: float = math.inf
    accepted: int = 0
    is_refill: bool = False
    """The quota was used up before: its refill began the epoch."""


@dataclass(slots=True)
class _Raises:
    """How far the rate is raised next, and how long it holds before that."""

    step: float
    plateau_s: float

    def encourage(self) -> None:
        """Raise further and sooner, since a raised rate held."""
        self.step, self.plateau_s = min(3 * self.step, MAX_STEP), max(self.plateau_s / 2, FIRST_PLATEAU_S)

    def discourage(self) -> None:
        """Raise less and later, since a rate did not hold."""
        self.plateau_s, self.step = min(2 * self.plateau_s, MAX_PLATEAU_S), max(self.step / 2, MIN_STEP)


class LearnedRate(Rate):
    """A rate of requests that follows push-back. `set_per_s` is the configured rate, which other limits keep."""

    is_learned = True

    def __init__(self, name: str, set_per_s: float = math.inf, learned_per_s: float = math.inf) -> None:
        super().__init__(name, math.inf)
        self._set_per_s = set_per_s
        self.tolerated_share = 0.0
        """Share of rejections that no lower rate changes."""
        self._latency_s = 0.0
        self._trial: _Trial | None = None
        self._epoch, self._floor = _Epoch(), _Floor()
        is_known = learned_per_s < math.inf
        self._raises = _Raises(KNOWN_STEP, KNOWN_PLATEAU_S) if is_known else _Raises(FIRST_STEP, FIRST_PLATEAU_S)
        self._hold(learned_per_s if learned_per_s < set_per_s else math.inf, -math.inf)

    def __repr__(self) -> str:
        return f"LearnedRate({self.name!r}, {self.state.value}, {self.learned_per_s:.3g} a second)"

    @property
    def state(self) -> RateState:
        """Return what the rate does at present."""
        if self._trial is not None:
            return RateState.LOWERED
        if self._base_per_s < self.learned_per_s:
            return RateState.RAISED
        return RateState.HOLDING if self.learned_per_s < math.inf else RateState.FREE

    @property
    def established_per_s(self) -> float:
        """Return the rate that has held, for another run to begin with; infinity where none has, or one is set."""
        if self._trial is not None or self._set_per_s < math.inf:
            return math.inf
        return min(self._base_per_s, self.learned_per_s)

    def start(self, opened_s: float, accepted: int) -> None:
        """Begin with the requests accepted since `opened_s`, before the first rejection."""
        self._epoch = _Epoch(opened_s, accepted)

    def acquire(self, cost: float, now: float) -> None:
        """Charge a request, and change the rate where the evidence suffices."""
        epoch, test = self._epoch, self._test
        if epoch.opened_s == math.inf:
            epoch.opened_s = now
        epoch.accepted += 1
        if self.learned_per_s < math.inf:
            super().acquire(cost, now)
        if now < test.since_s + self._latency_s:
            return  # requests sent now may be rejected later than those that are judged
        test.all_sends += 1
        evidence = test.evidence = test.evidence + test.per_send
        if self._trial is not None:
            if evidence <= -MIN_EVIDENCE:
                self._hold(self.learned_per_s, now)
            return
        if evidence < 0.0:
            test.evidence = 0.0
        if self.learned_per_s < math.inf:
            self._look_higher(now)

    def on_rejected(self, sent_s: float, now: float) -> None:
        """Record a rate-limit reply to a request sent at `sent_s`; it says nothing of a rate set later."""
        test, state = self._test, self.state
        self._epoch.accepted -= 1
        took_s = max(now - sent_s, 0.0)
        self._latency_s += LATENCY_GAIN * (took_s - self._latency_s) if self._latency_s else took_s
        if sent_s < test.since_s or (self.learned_per_s <= self._floor.per_s and now < self._floor.until_s):
            return
        if test.evidence == 0 and state in (RateState.FREE, RateState.HOLDING):
            test.restart(sent_s, now)
        test.rejections += 1
        test.evidence += test.per_rejection
        if test.evidence < self._min_evidence(state):
            return
        if state is RateState.RAISED:
            self._fall_back(now)
        elif self._is_measured(now):
            self._try_lower(now)

    def on_held_rejected(self) -> None:
        """Record a rejected probe, or a rejection of one of the requests in flight when the quota was used up."""
        self._epoch.accepted -= 1
        if self._trial is None:
            self._test.evidence += self._test.per_rejection

    def on_exhausted(self, held_since_s: float, now: float) -> None:
        """Record that a quota was used up at `held_since_s` and has refilled just now.

        At first, the requests accepted until it was used up give the rate; then those from one refill to the next. The
        first time may have been an overload, which says nothing of the rate: where one is set, or where it lasted
        longer than the shortest windows of providers, nothing changes until the second time.
        """
        epoch = self._epoch
        elapsed_s = (now if epoch.is_refill else held_since_s) - epoch.opened_s
        if epoch.is_refill and elapsed_s < MIN_EPOCH_S:
            return
        per_s = MARGIN * min(max(epoch.accepted - 1, 1) / max(elapsed_s, MIN_EPOCH_S), self._set_per_s)
        self._epoch = _Epoch(now, accepted=1, is_refill=True)  # accepted was the probe
        if self.learned_per_s == math.inf:
            may_be_overload = self._set_per_s < math.inf or now - held_since_s > OVERLOAD_S
            if epoch.is_refill or not may_be_overload:
                self._floor = _Floor(per_s, now + MIN_EPOCH_S)
                self._hold(per_s, now)
        elif held_since_s > self._changed_s:
            if self.state is RateState.RAISED:
                self._fall_back(now)
            else:
                least_per_s = self._floor.per_s if now < self._floor.until_s else self.learned_per_s / 2
                self._hold(min(max(per_s, least_per_s), self.learned_per_s), now)

    def set_free(self, now: float) -> None:
        """Forget the rate: the rejections had another reason."""
        self._hold(math.inf, now)

    def _min_evidence(self, state: RateState) -> float:
        if state is RateState.FREE:
            return MIN_FREE_EVIDENCE if self._set_per_s == math.inf else MIN_SET_EVIDENCE
        return MIN_RAISED_EVIDENCE if state is RateState.RAISED else MIN_EVIDENCE

    def _is_measured(self, now: float) -> bool:
        """Return whether enough was sent to tell which rate is accepted."""
        test = self._test
        if self.learned_per_s == math.inf:
            return test.sends >= MIN_FREE_SENDS or now >= test.counted_s + MIN_EPOCH_S
        return test.sends >= MIN_TRIAL_SENDS and now >= test.counted_s + MIN_TRIAL_S

    def _try_lower(self, now: float) -> None:
        test, trial = self._test, self._trial
        share = test.rejections / max(test.sends, test.rejections)
        if trial is None:
            self._base_per_s = self.learned_per_s
            self._raises.discourage()  # the rate did not hold
            left = TRIALS
        else:
            has_helped = MAX_TOLERATED_SHARE < share < MIN_REMAINING * trial.former_share
            left = trial.left if has_helped else trial.left - 1
            if not left:
                self.tolerated_share = min(max(share, trial.former_share), MAX_TOLERATED_SHARE)
                self._raises.step = MAX_STEP  # the former rate may have been chosen for such rejections
                self._hold(self._base_per_s, now)
                return
        self._trial = _Trial(left, share)
        low = max(share / 10, RESIDUAL_SHARE)
        self._set(self._lower_per_s(share, now), low, 5 * low, now)

    def _lower_per_s(self, share: float, now: float) -> float:
        """Return the rate to try: a little less than what was accepted, within bounds."""
        test = self._test
        accepted_per_s = max(test.sends - test.rejections, 1) / max(now - test.counted_s, 1e-3)
        per_s = MARGIN * min(accepted_per_s, self._set_per_s, self.learned_per_s)
        if self.learned_per_s < math.inf:
            per_s = max(per_s, 0.5 * self.learned_per_s * max(1 - share, 0.5))
        else:
            epoch = self._epoch
            floor_per_s = MARGIN * epoch.accepted / max(now - epoch.opened_s, MIN_EPOCH_S)
            self._floor = _Floor(floor_per_s, now + MIN_EPOCH_S)
        if now < self._floor.until_s:
            per_s = min(max(per_s, self._floor.per_s), self.learned_per_s)
        return per_s

    def _look_higher(self, now: float) -> None:
        """Raise the rate after its plateau; a raised rate that held is the one to raise next."""
        per_s, raises, sends = self.learned_per_s, self._raises, self._test.all_sends
        if sends < MIN_SENDS:
            return
        is_raised = self._base_per_s < per_s
        span_s = MIN_EPOCH_S * min(2.0, 0.5 / raises.step) if is_raised else raises.plateau_s
        if sends < per_s * span_s:
            return
        if is_raised:
            raises.encourage()
        if per_s > self._set_per_s:
            self._hold(math.inf, now)
            return
        self._base_per_s, step = per_s, raises.step
        low = max(self.tolerated_share, RESIDUAL_SHARE)
        self._set(per_s * (1 + step), low, low + (1 - low) * step / (1 + step), now)

    def _fall_back(self, now: float) -> None:
        self._raises.discourage()
        if self._set_per_s == math.inf:
            self._floor = _Floor(self._base_per_s, now + MIN_EPOCH_S)
        self._hold(self._base_per_s, now)

    def _hold(self, per_s: float, now: float) -> None:
        self._base_per_s = max(MIN_PER_S, per_s)
        self._trial = None
        low = max(self.tolerated_share, RESIDUAL_SHARE)
        self._set(per_s, low, max(low + NOTICED_SHARE, 1.5 * low), now)

    def _set(self, per_s: float, low: float, high: float, now: float) -> None:
        self.learned_per_s = max(MIN_PER_S, per_s)
        self._seconds_per_unit = 1 / self.learned_per_s
        self._next_s = min(self._next_s, now + self._seconds_per_unit)
        self._changed_s = now
        self._test = SequentialTest.between(low, high, now, now + self._latency_s)
