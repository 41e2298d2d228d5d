"""Quota hold: what one endpoint does about rate-limit replies, and which of them count against their lines."""

import math

from llmblast.models import Attempt
from llmblast.scheduling.learned_limits import LearnedLimits
from llmblast.scheduling.own_models import OwnModels
from llmblast.scheduling.push_back import PushBack
from llmblast.scheduling.rejections import RejectionStreak
from llmblast.scheduling.traffic import Traffic

ALONE_S = 15.0
"""While nothing else is sent, rejections of one line count against it only if they are so many seconds apart: then five
attempts take longer than the minute of a usual quota."""
USED_UP_BEFORE_S = 1.0
"""Rejected requests that were sent up to so many seconds before a hold began belong to that hold."""
_RANDOM_SHARE = 0.06
"""Above this share, rejections are random: a rate limit would not explain them."""


class QuotaHold:
    """Holds requests back through `push_back`, which opens and closes with rate-limit replies. Endpoints of one quota
    group have the same one: a quota that is used up for one is so for all.
    """

    __slots__ = (
        "_held_since_s",
        "_is_exhausted",
        "_last_rejection",
        "_learned",
        "_models",
        "_traffic",
        "_used_up_s",
        "push_back",
        "rejections",
    )

    def __init__(self, push_back: PushBack, learned: LearnedLimits, models: OwnModels, traffic: Traffic) -> None:
        self.push_back = push_back
        self.rejections = RejectionStreak()
        self._learned = learned
        self._models = models
        self._traffic = traffic
        self._held_since_s = math.inf
        """Since when requests are held back, and whether that is for a quota that is used up."""
        self._is_exhausted = False
        self._used_up_s = (math.inf, -math.inf)
        """From when until when a quota was used up the last time."""
        self._last_rejection: tuple[Attempt | None, int, float] = (None, 0, 0.0)
        """The request of the last rate-limit reply, how many were sent by then, and until when that one should wait."""

    def __repr__(self) -> str:
        return f"QuotaHold({self.push_back.state.value})"

    @property
    def has_random_rejections(self) -> bool:
        """Return whether more requests are rejected at random than a rate limit would explain."""
        return self.push_back.share > _RANDOM_SHARE

    def on_sent(self, now: float) -> None:
        """Look whether a send ends the hold."""
        if self._held_since_s != math.inf:
            self._look_for_end(now)

    def on_answer(self, attempt: Attempt, now: float) -> None:
        """Record an answer."""
        self._learned.on_answer_after_push_back(attempt, now)
        self.push_back.on_answer(attempt.sent_s)
        self.rejections.on_answer()
        if self._held_since_s != math.inf:
            self._look_for_end(now)
        if (model := self._models.get(attempt.request.model)) is not None:
            model.push_back.on_answer(attempt.sent_s)
            model.rejections.on_answer()

    def on_rate_limited(self, attempt: Attempt, wait_s: float | None, now: float) -> bool:
        """Record a rate-limit reply; `wait_s` is how long the provider asks to wait. Return whether it is explained by
        the number in flight, so that waiting is of no use.
        """
        sent_s, learned = attempt.sent_s, self._learned
        learned.start()
        was_known = learned.in_flight is not None and learned.in_flight.is_known
        if learned.explain_by_number_in_flight(attempt, now):
            if not was_known and learned.rate is not None:
                self.push_back.end_hold()
                self._held_since_s = math.inf
                learned.notify(learned.rate, learned.rate.set_free, now)
            return True
        self._count_rejection(attempt, wait_s, now)
        self.rejections.on_rejected(now)
        if self._is_for_model_only(attempt, wait_s, now):
            return False
        was_held = self.push_back.is_held
        self.push_back.on_rejected(sent_s, wait_s, now)
        is_held = self.push_back.is_held
        if is_held:
            self._held_since_s, self._is_exhausted = self.push_back.held_since_s, self.push_back.is_exhausted
        learned.on_rate_limited(sent_s, now, was_held=was_held, is_held=is_held)
        return False

    def _is_for_model_only(self, attempt: Attempt, wait_s: float | None, now: float) -> bool:
        """Record a rejection of a model that a line names. Return whether only this model is held back."""
        model = self._models.get(attempt.request.model)
        if model is None or not self._models.are_several:
            return False
        model.rejections.on_rejected(now)
        model.push_back.on_rejected(attempt.sent_s, wait_s, now)
        return model.push_back.is_held and self._traffic.last_answered_sent_s > model.push_back.held_since_s

    def _look_for_end(self, now: float) -> None:
        """Tell the learned rate that requests are accepted again; probe at once where a free slot may be enough."""
        learned = self._learned
        if self.push_back.is_held:
            if learned.in_flight is not None and learned.in_flight.is_suspected:
                self.push_back.probe_now(now)
            return
        if self._is_exhausted:
            self._used_up_s = (self._held_since_s, now)
            if learned.rate is not None:
                learned.notify(learned.rate, learned.rate.on_exhausted, self._held_since_s, now)
        self._held_since_s = math.inf

    def _count_rejection(self, attempt: Attempt, wait_s: float | None, now: float) -> None:
        """Count a rejection against its line when others were accepted since it was rejected last. Where nothing else
        was sent meanwhile, count it when it came after the moment that the last one named, or after some seconds.
        """
        rejected, sends, until_s = self._last_rejection
        traffic = self._traffic
        was_alone = rejected is attempt and sends == traffic.sends - 1 and attempt.sent_s >= until_s
        if attempt.rejected_sent_s == math.inf:
            attempt.rejected_sent_s = attempt.sent_s
        elif was_alone or traffic.last_answered_sent_s >= attempt.rejected_sent_s:
            attempt.rejections += was_alone or not self._was_used_up(attempt.rejected_sent_s)
            attempt.rejected_sent_s = attempt.sent_s
        until_s = attempt.rejected_sent_s + ALONE_S if wait_s is None else now + wait_s
        self._last_rejection = attempt, traffic.sends, until_s

    def _was_used_up(self, sent_s: float) -> bool:
        """Return whether most others were rejected, too, when a request was sent."""
        return self._used_up_s[0] - USED_UP_BEFORE_S <= sent_s <= self._used_up_s[1]
