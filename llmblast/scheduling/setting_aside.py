"""Setting aside: take a line out of the way of others while the endpoints that may take it have no room for it.

A line that only some endpoints take, or only in a certain way, must not hold back those behind it. So it is parked in
the queue until one of its endpoints may have room.
"""

import math
from collections import deque
from typing import Final

from llmblast.models import Attempt, Prefix, Tokens
from llmblast.scheduling.affinity import should_wait
from llmblast.scheduling.endpoint_pool import EndpointPool
from llmblast.scheduling.endpoints import Endpoint
from llmblast.scheduling.flex_capacity import NEAR_S
from llmblast.scheduling.request_queue import RequestQueue

PARKED_S: Final = 0.02
MAX_PARKED_S: Final = 1.0
"""How long a line waits aside, at least and at most, while others go that its endpoints do not hold back."""
CACHE_LOOK_S: Final = 0.05
"""How long a line waits aside for a reply that makes its prefix warm, until it is looked at again."""
MIN_LEFT_S: Final = 60.0
"""A line with less time until its deadline waits for no warm prefix."""


class SettingAside:
    """Decides about the head of the queue. Lines that no endpoint accepts in this run any more come to `unsendable`."""

    __slots__ = ("_pool", "_queue", "_unsendable")

    def __init__(self, queue: RequestQueue, pool: EndpointPool, unsendable: deque[Attempt]) -> None:
        self._queue = queue
        self._pool = pool
        self._unsendable = unsendable

    def take_out(self, attempt: Attempt, tokens: Tokens, now: float) -> bool:
        """Take out a line for which no endpoint is ready, where that is due to the line. Return whether that was so."""
        request = attempt.request
        if not (attempt.refused_by or request.closed_to or request.model is not None or attempt.flex_at):
            return False
        if attempt.flex_at and self._leaves_flex(attempt, now):
            return True
        if all(endpoint.health.blocked for endpoint in self._pool.usable_for(attempt)):
            self._unsendable.append(self._queue.pop(now))
            return True
        return self._park(attempt, tokens, now)

    def await_cache(self, attempt: Attempt, prefix: Prefix, endpoint: Endpoint, now: float) -> bool:
        """Let a line wait for an endpoint that has its prefix, while others go. Return whether it does. Where there are
        deferred lines, the immediate ones do not.
        """
        queue = self._queue
        if not (queue.parked.may_wait_for_cache and should_wait(prefix, endpoint, self._pool.enabled, now)):
            return False
        terms = attempt.request.terms
        if terms.deadline_s < queue.lateness.wall_s() + MIN_LEFT_S:
            return False
        if not terms.is_deferred and queue.size_of(is_deferred=True)[0]:
            return False
        queue.park(now + CACHE_LOOK_S, now)
        return True

    def _leaves_flex(self, attempt: Attempt, now: float) -> bool:
        """Let a line go in the standard tier that has waited too long for a flex tier, or whose deadline is near.
        Return whether that was so.
        """
        is_near = attempt.request.terms.deadline_s < self._queue.lateness.wall_s() + NEAR_S
        for endpoint in self._pool.usable_for(attempt):
            flex = endpoint.flex
            if flex is not None and attempt.flex_at & endpoint.bit and (is_near or flex.is_given_up(now)):
                attempt.flex_at &= ~endpoint.bit
                return True
        return False

    def _park(self, attempt: Attempt, tokens: Tokens, now: float) -> bool:
        """Park a line that waits for its model, for a flex tier, or for the endpoints that have not refused it, where
        others may go at this moment. Return whether that was so.
        """
        if not any(endpoint.limits.is_ready(tokens, now) for endpoint in self._pool.enabled):
            return False
        due_s, full = math.inf, 0
        for endpoint in self._pool.usable_for(attempt):
            ready_s = endpoint.limits.last_ready(tokens, now)[0]
            full |= endpoint.bit if ready_s > now else 0
            model_ready_s = endpoint.model_ready_at(attempt.request.model, now)
            due_s = min(due_s, max(ready_s, model_ready_s, endpoint.flex_ready_at(attempt, now)))
        self._queue.park(min(max(due_s, now + PARKED_S), now + MAX_PARKED_S), now, full)
        return True
