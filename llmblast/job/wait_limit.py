"""Wait limit: end the run, or leave lines pending, where a rate limit lasts longer than the run may wait.

Nothing waits for ever. A moment that the provider names is believed however far it is, so a quota of a day ends the run
at once, with the moment to come back. Where no moment is named, rate-limit replies without one answer are enough.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from llmblast.errors import ExitCode
from llmblast.scheduling import Endpoint, OwnModel, Scheduler
from llmblast.watching import duration


@dataclass(slots=True, eq=False)
class WaitLimit:
    """`stop` ends the run, with an exit code and the reason in words. `ends_s` is when `--max-time` is over."""

    scheduler: Scheduler
    stop: Callable[[ExitCode, str], None]
    wall_clock: Callable[[], float]
    max_wait_s: float
    ends_s: float = math.inf

    def check(self, now: float) -> bool:
        """Mark endpoints and models that are blocked for too long; end the run where all endpoints are. Return whether
        lines may have to be given up.
        """
        blocked = list[tuple[float, int]]()
        has_new = False
        for endpoint in self.scheduler.enabled:
            until_s = self._blocked_until_s(endpoint, now)
            has_new = has_new or bool(until_s and not endpoint.blocked)
            endpoint.blocked = self._in_words(until_s, now) if until_s else ""
            if until_s:
                blocked.append((until_s, endpoint.index))
            for model in endpoint.models:
                if not model.is_out and (until_s := self._blocked_until_s(model, now)):
                    model.until_s, model.reason = until_s, self._in_words(until_s, now)
                    self.scheduler.lanes.recall(model.name, now)
                    has_new = True
        if blocked and len(blocked) == len(self.scheduler.enabled):
            first = self.scheduler.endpoints[min(blocked)[1]]
            self.stop(ExitCode.STOPPED, f"{first.name}: {first.blocked}")
        return has_new

    def _blocked_until_s(self, held: Endpoint | OwnModel, now: float) -> float:
        """Return until when a rate limit blocks, where that is beyond what may be waited for; infinity where nothing
        was let in for that long; else 0.
        """
        told_s = held.push_back.named_end_s
        if told_s > min(now + self.max_wait_s, self.ends_s):
            return told_s
        return math.inf if held.rejections.span_s > self.max_wait_s else 0.0

    def _in_words(self, until_s: float, now: float) -> str:
        if until_s == math.inf:
            return (
                f"no request was accepted for {duration(self.max_wait_s)}: all met a rate limit (HTTP 429 or similar)"
            )
        moment = datetime.fromtimestamp(self.wall_clock() + until_s - now).astimezone()
        return f"its rate limit lasts until {moment:%Y-%m-%d %H:%M:%S}, for {duration(until_s - now)}"
