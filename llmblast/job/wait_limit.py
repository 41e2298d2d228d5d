"""Wait limit: end the run, or leave lines pending, where a rate limit lasts longer than the run may wait.

No line waits for ever. A moment that the provider names is believed however far it is, so a quota of a day ends the run
at once, with the moment to come back. Where no moment is named, rate-limit replies without one answer are enough.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from llmblast.errors import ExitCode
from llmblast.job.decisions import DONE, Decisions, Stop
from llmblast.scheduling import PushBack, Scheduler
from llmblast.scheduling.rejections import RejectionStreak
from llmblast.watching import duration


class Blocked(NamedTuple):
    """`has_new`: an endpoint or a model is blocked for too long that was not before; lines may have to be given up."""

    has_new: bool
    decisions: Decisions = DONE


@dataclass(slots=True, eq=False)
class WaitLimit:
    """`ends_s` is when `--max-time` is over."""

    scheduler: Scheduler
    wall_clock: Callable[[], float]
    max_wait_s: float
    ends_s: float = math.inf

    def check(self, now: float) -> Blocked:
        """Mark endpoints and models that are blocked for too long; stop the run where all endpoints are."""
        blocked = list[tuple[float, int]]()
        has_new = False
        for endpoint in (*self.scheduler.pool.enabled, *self.scheduler.pool.reserve):
            health = endpoint.health
            until_s = self._blocked_until_s(endpoint.hold.push_back, endpoint.hold.rejections, now)
            has_new = has_new or bool(until_s and not health.blocked)
            health.blocked = self._in_words(until_s, now) if until_s else ""
            if until_s and endpoint not in self.scheduler.pool.reserve:
                blocked.append((until_s, endpoint.index))
            for model in endpoint.models:
                if not model.is_out and (until_s := self._blocked_until_s(model.push_back, model.rejections, now)):
                    model.until_s, model.reason = until_s, self._in_words(until_s, now)
                    self.scheduler.queue.recall(model.name, now)
                    has_new = True
        if not blocked or len(blocked) < len(self.scheduler.pool.enabled):
            return Blocked(has_new)
        first = self.scheduler.endpoints[min(blocked)[1]]
        return Blocked(has_new, [Stop(ExitCode.STOPPED, f"{first.name}: {first.health.blocked}")])

    def _blocked_until_s(self, push_back: PushBack, rejections: RejectionStreak, now: float) -> float:
        """Return until when a rate limit blocks, where that is beyond the longest wait; infinity where no request was
        accepted for that long; else 0.
        """
        if push_back.named_end_s > min(now + self.max_wait_s, self.ends_s):
            return push_back.named_end_s
        return math.inf if rejections.span_s > self.max_wait_s else 0.0

    def _in_words(self, until_s: float, now: float) -> str:
        if until_s == math.inf:
            return (
                f"no request was accepted for {duration(self.max_wait_s)}: all met a rate limit (HTTP 429 or similar)"
            )
        moment = datetime.fromtimestamp(self.wall_clock() + until_s - now).astimezone()
        return f"its rate limit lasts until {moment:%Y-%m-%d %H:%M:%S}, for {duration(until_s - now)}"
