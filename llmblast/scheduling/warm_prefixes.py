"""Warm prefixes: of lines whose prompts begin alike one goes ahead, and the others follow when its reply is there.

Providers keep the start of a prompt for some minutes and read it again for a tenth to a half of the price, but only
once they have read it. So the first line of a group goes before the others of its class, and those wait for its reply,
some seconds at most: longer than reading a prompt takes. Then they go in front of other lines, to the same endpoint. A
leader without an answer is followed by another one, and after the third all go: its failure is none of theirs.

A run that has immediate and deferred lines holds the deferred ones only. Where holding lines costs too much time, none
are held: slots that stay free while nothing else is left to send are counted, see `IdleBudget`. There are few, since
lines are read ahead of their turn, and a leader goes before them. Nor do slots stay free for lines that share so little
in all that hardly anything is saved, as in a small file, nor where answers show that nothing is cached. Groups that a
person has named wait in any case.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from llmblast.models import Attempt, Prefix
from llmblast.scheduling.endpoints import Endpoint
from llmblast.scheduling.idle_budget import IdleBudget
from llmblast.scheduling.request_queue import RequestQueue
from llmblast.scheduling.shared_prefixes import PrefixFinder
from llmblast.scheduling.waiting_worth import WaitingWorth

MAX_WAIT_S: Final = 15.0
"""Wait for the reply to a leader, from when it was sent."""
MAX_HOLD_S: Final = 60.0
"""Wait for a leader, whether it was sent or not."""
WARM_S: Final = 240.0
"""Providers forget a prefix 5 to 10 minutes after its last use."""
MAX_FAILURES: Final = 3


class WarmPrefixes:
    """Stands before the queue: holds the lines that follow others. `max_in_flight` is that of the run; `cached_tokens`
    returns how many tokens the providers had in their caches so far.
    """

    def __init__(
        self,
        finder: PrefixFinder,
        queue: RequestQueue,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        max_in_flight: int,
        *,
        cached_tokens: Callable[[], int] = lambda: 1,
    ) -> None:
        self._finder = finder
        self.least_bytes = finder.least_bytes
        """Requests with less do not have to be added here: they share nothing."""
        self._queue = queue
        self._clock = clock
        self._wall_clock = wall_clock
        self._max_in_flight = max_in_flight
        self._budget = IdleBudget(max_in_flight)
        self._worth = WaitingWorth(cached_tokens, is_asked_for=finder.is_asked_for)
        self._due: deque[tuple[float, Prefix]] = deque()
        self._has_deferred = False
        self._due_s = inf
        self.is_idle = False
        """Slots stay free while lines are held."""

    def add(self, attempt: Attempt, in_flight: int) -> None:
        """Queue a request that was read, or hold it; so many are in flight."""
        shared = self._finder.find(attempt)
        if shared is None:
            self._queue.add(attempt)
            return
        now, leader = self._clock(), shared.leader
        if shared.warm_until_s > now:
            self._queue.add(attempt)
        elif leader is None or self._is_late(shared, leader, in_flight):
            self._lead(shared, attempt)
        elif self._may_hold(attempt):
            self._hold(shared, attempt, now)
        else:
            self._queue.add(attempt)

    def on_reply(self, attempt: Attempt, endpoint: Endpoint, *, is_answered: bool) -> None:
        """Let the lines go that waited for this one, where it has a prefix."""
        prefix = attempt.prefix
        if prefix is None:
            return
        self._on_reply(prefix, attempt, endpoint, is_answered=is_answered)
        if prefix.parent is not None:
            self._on_reply(prefix.parent, attempt, endpoint, is_answered=is_answered)

    def on_unsendable(self, attempt: Attempt) -> None:
        """Let the lines go that waited for one that is not sent in this run."""
        prefix = attempt.prefix
        while prefix is not None:
            if prefix.leader is attempt:
                self._replace_leader(prefix)
            prefix = prefix.parent

    def wake_at(self, now: float, in_flight: int) -> float:
        """Return when lines that are held go in any case. Nothing else may be sent at `now`."""
        queue, budget = self._queue, self._budget
        self.is_idle = queue.held > 0 and not queue and in_flight < self._max_in_flight
        self._worth.set_idle(self.is_idle, now)
        budget.count(now, in_flight if self.is_idle else self._max_in_flight)
        return min(self._due_s, budget.spent_at(now), self._worth.due_s)

    def release_due(self, now: float) -> None:
        """Let the lines go that have waited long enough."""
        if self._queue.held and (self._budget.spent_at(now) <= now or self._worth.due_s <= now):
            self.release_all()
            return
        while self._due and self._due[0][0] <= now:
            prefix = self._due.popleft()[1]
            leader = prefix.leader
            if prefix.followers is None or (leader is not None and leader.sent_s == 0.0 and now < prefix.due_s):
                if prefix.followers is not None:
                    self._due.append((now + MAX_WAIT_S, prefix))
                continue
            prefix.warm_until_s = now + WARM_S
            self._release(prefix)
        self._due_s = self._due[0][0] if self._due else inf

    def release_all(self) -> None:
        """Let all lines go that are held."""
        while self._due:
            self._release(self._due.popleft()[1])
        self._due_s = inf

    def _is_late(self, prefix: Prefix, leader: Attempt, in_flight: int) -> bool:
        """Return whether others stand before the leader, so that a line that is put ahead of them goes sooner."""
        going = len(self._queue) - self._queue.held + in_flight
        return not prefix.is_ahead and leader.sent_s == 0.0 and going > self._max_in_flight

    def _may_hold(self, attempt: Attempt) -> bool:
        if self._worth.is_proven_useless:
            return False
        terms = attempt.request.terms
        if terms.deadline_s < inf and terms.deadline_s < self._wall_clock() + MAX_HOLD_S:
            return False
        if terms.is_deferred:
            if not self._has_deferred:
                self._has_deferred = True
                self.release_all()
            return not self._budget.is_spent
        return not self._has_deferred and not self._budget.is_spent

    def _lead(self, prefix: Prefix, attempt: Attempt) -> None:
        prefix.leader, prefix.is_ahead = attempt, True
        self._queue.add_ahead(attempt)

    def _hold(self, prefix: Prefix, attempt: Attempt, now: float) -> None:
        self._queue.hold(attempt)
        self._worth.shared_bytes += prefix.shared_bytes
        if prefix.followers is not None:
            prefix.followers.append(attempt)
            return
        prefix.followers = [attempt]
        prefix.due_s = now + MAX_HOLD_S
        self._due.append((now + MAX_WAIT_S, prefix))
        self._due_s = self._due[0][0]

    def _on_reply(self, prefix: Prefix, attempt: Attempt, endpoint: Endpoint, *, is_answered: bool) -> None:
        if is_answered:
            if prefix.warm_at & endpoint.bit:
                self._learn_cached()
            prefix.leader, prefix.failures = None, 0
            prefix.warm_at |= endpoint.bit
            now = self._clock()
            prefix.warm_until_s = now + WARM_S
            if prefix.followers is not None:
                self._budget.learn(now - attempt.sent_s)
            if prefix.followers is not None:
                self._release(prefix)
            return
        prefix.sent_to &= ~endpoint.bit | prefix.warm_at
        if prefix.leader is attempt:
            self._replace_leader(prefix)

    def _learn_cached(self) -> None:
        """Learn from an answer to a line whose prefix was warm. Let all lines go where nothing is cached."""
        self._worth.learn()
        if self._worth.is_proven_useless == self._queue.parked.may_wait_for_cache:
            self._queue.parked.may_wait_for_cache = not self._worth.is_proven_useless
            self.release_all()

    def _replace_leader(self, prefix: Prefix) -> None:
        """Let another line go ahead after one that got no answer."""
        prefix.leader, prefix.is_ahead = None, False
        prefix.failures += 1
        followers = prefix.followers
        if followers is None:
            return
        if prefix.failures >= MAX_FAILURES:
            self._release(prefix)
            return
        leader = followers.pop(0)
        self._worth.shared_bytes -= prefix.shared_bytes
        if not followers:
            prefix.followers = None
        prefix.leader, prefix.is_ahead = leader, True
        self._queue.add_held(leader)

    def _release(self, prefix: Prefix) -> None:
        followers, prefix.followers = prefix.followers, None
        if followers is not None:
            self._worth.shared_bytes -= len(followers) * prefix.shared_bytes
            for attempt in reversed(followers):
                self._queue.add_held(attempt)
