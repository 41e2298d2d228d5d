"""Request queue: the order in which requests go. Immediate ones come before deferred ones, retries of either first.

Within a class, higher priorities go first, tenants share by their weights, and for each tenant the earliest deadline
goes first; see `ClassTurns` and `WorkClass`.

A retry after a failure needs the retry budget, too; one after a rejection by a rate limit does not.
A retry holds nothing but its memory while it waits. That is bounded by two counts of bytes: `size_bytes` are those of
queued requests, retries too, so that an outage cannot draw the whole file into memory; `held_bytes` are those of all
requests that were added and have not come to their end, since those in flight are kept as well.

Readers ask `size_of` and `waiting_of` how much of a class or of a tenant waits, so that they can go on with one while
there is enough of another.
"""

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Final

from llmblast.models import IMMEDIATE, Attempt
from llmblast.scheduling.class_turns import ClassTurns
from llmblast.scheduling.deadline_book import DeadlineBook
from llmblast.scheduling.lateness import Lateness
from llmblast.scheduling.retry_budget import EARNED_PER_SEND, RetryBudget
from llmblast.scheduling.work_class import Source

DEFAULT_FLOOR: Final = 0.05
NO_SHARES: Final[Mapping[str, float]] = {}
_UNSENT: Final = (Source.FIRST, Source.LINES, Source.NEWEST)


@dataclass(slots=True, eq=False)
class Flow:
    """Counts of requests. Those of sends grow only while more than plain lines are queued."""

    immediate_added: int = 0
    sent: int = 0
    immediate_sent: int = 0


class RequestQueue:
    """`shares` are the weights of tenants; `deferred_floor` is the share of sends that deferred lines get at least."""

    __slots__ = (
        "_order",
        "_plain",
        "_turns",
        "budget",
        "deadlines",
        "flow",
        "held_bytes",
        "is_outage",
        "is_plain",
        "is_probing",
        "lateness",
        "retried",
        "size_bytes",
        "waits_for_cache",
    )

    def __init__(
        self,
        shares: Mapping[str, float] = NO_SHARES,
        deferred_floor: float = DEFAULT_FLOOR,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.budget = RetryBudget()
        self.lateness = Lateness(wall_clock)
        self.deadlines = DeadlineBook()
        """Those of deferred lines that were not sent yet. A reader that keeps lines elsewhere adds theirs, and discards
        each before it adds the line to the queue."""
        self.flow = Flow()
        self._turns = ClassTurns(shares, deferred_floor)
        self._plain = self._turns.immediate.plain
        self.is_plain = True
        """Nothing but new immediate lines without terms is queued: they are in one deque."""
        self._order = count()
        self.size_bytes = 0
        self.held_bytes = 0
        """The caller subtracts a request's bytes when it comes to its end."""
        self.retried = 0
        """Requests that were sent again."""
        self.waits_for_cache = True
        """Lines may wait for an endpoint that has their prefix in its cache."""
        self.is_outage = False
        """All endpoints fail: requests that have not failed yet go first, so that probes use up no line's attempts."""
        self.is_probing = False
        """Every endpoint is held back: new requests go first, and the one that was read last before all."""

    def __len__(self) -> int:
        return self.held + (len(self._plain) if self.is_plain else len(self._turns))

    @property
    def held(self) -> int:
        """Requests that wait for a reply to another one, outside of the queue; see `hold`."""
        return self._turns.immediate.held + self._turns.deferred.held

    def __bool__(self) -> bool:
        """Return whether anything may be sent, now or later; requests that are held do not count."""
        return bool(self._plain) or (not self.is_plain and bool(self._turns))

    @property
    def is_spare(self) -> bool:
        """Return whether the request that `peek` returned last is a deferred one, which leaves a reserve to others."""
        return self._turns.is_spare

    def size_of(self, is_deferred: bool) -> tuple[int, int]:
        """Return the number and the bytes of the queued requests of a class, retries included."""
        turns = self._turns
        if is_deferred:
            return len(turns.deferred) + len(turns.urgent) + turns.deferred.held, turns.deferred_bytes
        return len(turns.immediate) + turns.immediate.held, self.size_bytes - turns.deferred_bytes

    def waiting_of(self, tenant: str, is_deferred: bool) -> int:
        """Return how many new lines of a tenant wait in a class; "" are those without a tenant."""
        turns = self._turns
        if is_deferred:
            return turns.deferred.waiting_of(tenant) + turns.urgent.waiting_of(tenant)
        return turns.immediate.waiting_of(tenant)

    def late_of(self, tenant: str, is_deferred: bool, now: float) -> int:
        """Return how many new lines of a tenant can no longer make their deadline: they go behind those that can."""
        work = self._turns.deferred if is_deferred else self._turns.immediate
        return work.late_of(tenant, self.lateness.answered_s(now))

    def take_back(self, tenant: str, is_deferred: bool, count: int) -> list[Attempt]:
        """Remove and return so many new lines of a tenant, those that would go last in their class."""
        taken = (self._turns.deferred if is_deferred else self._turns.immediate).take_last(tenant, count)
        for attempt in taken:
            self.size_bytes -= attempt.size_bytes
            self.held_bytes -= attempt.size_bytes
            if is_deferred:
                self._turns.deferred_bytes -= attempt.size_bytes
                if attempt.request.terms.deadline_s < inf:
                    self.deadlines.discard(attempt.request.terms.deadline_s)
        self.is_plain = self._turns.is_plain
        return taken

    def add(self, attempt: Attempt) -> None:
        """Queue a request that was read."""
        request = attempt.request
        size_bytes = len(request.text) + len(request.body)
        if request.image_bytes and request.content is not None:
            size_bytes += 2 * request.image_bytes  # in the prompt, and rendered for another kind of provider
        attempt.size_bytes = size_bytes
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes
        if request.terms is IMMEDIATE and not self._turns.immediate.priorities:
            self._plain.append(attempt)
            self.flow.immediate_added += 1
        else:
            self._add_with_terms(attempt)

    def add_next(self, attempt: Attempt) -> None:
        """Queue a request that goes before those that were read, such as one that asks again for an answer."""
        request = attempt.request
        attempt.size_bytes = size_bytes = len(request.text) + len(request.body)
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes
        self._turns.class_of(request.terms).first.appendleft(attempt)
        self._count(attempt, is_new=True)

    def hold(self, attempt: Attempt) -> None:
        """Count a request that waits outside of the queue as queued, until `add_held` brings it back."""
        request = attempt.request
        attempt.size_bytes = size_bytes = len(request.text) + len(request.body)
        self._count_held(1, size_bytes, request.terms.is_deferred)

    def add_held(self, attempt: Attempt) -> None:
        """Queue a request that was held: it goes before those of its class that were read, unless it has terms of its
        own.
        """
        self._count_held(-1, -attempt.size_bytes, attempt.request.terms.is_deferred)
        self.add_ahead(attempt)

    def add_ahead(self, attempt: Attempt) -> None:
        """Queue a request before those of its class that were read; one with a priority, a deadline or a tenant has its
        place among them.
        """
        terms = attempt.request.terms
        if terms is IMMEDIATE or not (terms.priority or terms.tenant or terms.deadline_s < inf):
            self.add_next(attempt)
        else:
            self.add(attempt)

    def add_retry(self, attempt: Attempt, due_s: float, *, has_failed: bool = False) -> None:
        """Queue a request that goes again at `due_s` (monotonic seconds) or later."""
        self.size_bytes += attempt.size_bytes
        work = self._turns.class_of_retry(attempt.request.terms)
        work.add_retry(due_s, next(self._order), attempt, has_failed=has_failed)
        self._count(attempt, is_new=False)

    def peek(self, now: float) -> Attempt | None:
        """Return the request whose turn it is at `now`."""
        if self.is_plain and not self.is_probing:
            return self._plain[0] if self._plain else None
        return self._find(now)

    def pop(self, now: float, cost: float = 1.0) -> Attempt:
        """Remove and return the request that `peek(now)` returned, and charge `cost` to its tenant. Raises IndexError
        where none is due.
        """
        if self.is_plain and not self.is_probing:
            attempt = self._plain.popleft()
            self.budget.earned += EARNED_PER_SEND
            self.size_bytes -= attempt.size_bytes
            return attempt
        attempt = self._remove(now, cost)
        self._record_send(attempt, now)
        return attempt

    def park(self, due_s: float, now: float) -> None:
        """Queue the request that `peek(now)` returned for `due_s`: others may go meanwhile."""
        self.add_retry(self._remove(now, 0.0), due_s)

    def promote(self, before_s: float, max_lines: int, now: float) -> None:
        """Make deferred lines urgent that have a deadline before that moment (wall clock), the earliest ones first, so
        that `max_lines` are: they take turns with immediate ones then. Retries of such lines are urgent, too.
        """
        self._turns.promote(before_s, max_lines, self.lateness.answered_s(now), self._order)

    def recall(self, model: str, now: float) -> None:
        """Make retries for a model due at once."""
        for work in self._turns.classes():
            work.retries = [
                (now if attempt.request.model == model else due_s, order, attempt)
                for due_s, order, attempt in work.retries
            ]
            heapq.heapify(work.retries)

    def recall_all(self, due_s: float) -> None:
        """Make retries due at that moment at the latest."""
        for work in self._turns.classes():
            if any(at_s > due_s for at_s, _, _ in work.retries):
                work.retries = [(min(at_s, due_s), order, attempt) for at_s, order, attempt in work.retries]
                heapq.heapify(work.retries)

    def next_due_s(self, now: float) -> float:
        """Return when the next retry is due and paid for; infinity where none waits."""
        if self.is_plain:
            return inf
        due_s = min((work.retries[0][0] for work in self._turns.classes() if work.retries), default=inf)
        failed_s = min((work.failed[0][0] for work in self._turns.classes() if work.failed), default=inf)
        return due_s if failed_s == inf else min(due_s, max(failed_s, self.budget.ready_at(now)))

    def _count_held(self, number: int, size_bytes: int, is_deferred: bool) -> None:
        work = self._turns.deferred if is_deferred else self._turns.immediate
        work.held += number
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes
        if is_deferred:
            self._turns.deferred_bytes += size_bytes

    def _add_with_terms(self, attempt: Attempt) -> None:
        terms = attempt.request.terms
        self._turns.class_of(terms).add(attempt, next(self._order), self.lateness.grace_s(terms.deadline_s))
        self.flow.immediate_added += not terms.is_deferred
        self._count(attempt, is_new=True)

    def _count(self, attempt: Attempt, *, is_new: bool) -> None:
        """Count a request that was added and is no plain line."""
        self.is_plain = False
        terms = attempt.request.terms
        if terms.is_deferred:
            self._turns.deferred_bytes += attempt.size_bytes
            if is_new and terms.deadline_s < inf:
                self.deadlines.add(terms.deadline_s, self.lateness.wall_s())

    def _find(self, now: float) -> Attempt | None:
        """Return the request whose turn it is, in a queue of any kind."""
        turns = self._turns
        if self.is_probing and (newest := turns.find_newest()) is not None:
            return newest
        turns.give_back(self.lateness.hopeless_before_s(now), self._order)
        return turns.find(now, self.lateness.answered_s(now), self._may_retry_failed(now))

    def _remove(self, now: float, cost: float) -> Attempt:
        """Remove the request that `peek(now)` returns, and charge its tenant."""
        if self._find(now) is None:
            raise IndexError("no request is due")
        work = self._turns.peeked
        attempt = work.pop(cost)
        terms = attempt.request.terms
        self.size_bytes -= attempt.size_bytes
        if terms.is_deferred:
            self._turns.deferred_bytes -= attempt.size_bytes
            if work.source in _UNSENT and terms.deadline_s < inf:
                self.deadlines.discard(terms.deadline_s)
        self._turns.is_spare = False
        self.is_plain = self._turns.is_plain
        return attempt

    def _record_send(self, attempt: Attempt, now: float) -> None:
        """Count the request that was removed last as sent. One that was only parked is no retry."""
        work, flow = self._turns.peeked, self.flow
        source = work.source
        if source is Source.FAILED or (source is Source.RETRIES and attempt.sent_s):
            self.retried += 1
        else:
            self.budget.earned += EARNED_PER_SEND
        if source is Source.FAILED:
            self.budget.acquire()
        self._turns.record_send(now)
        flow.sent += 1
        flow.immediate_sent += work is self._turns.immediate

    def _may_retry_failed(self, now: float) -> bool:
        if not any(work.failed and work.failed[0][0] <= now for work in self._turns.classes()):
            return False
        if self.budget.ready_at(now) > now:
            return False
        return not (self.is_outage and self._turns.has_unsent)
