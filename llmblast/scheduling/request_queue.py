"""Request queue: the order in which requests go. Immediate ones come before deferred ones, retries of either first.

Within a class, higher priorities go first, tenants share by their weights, and for each tenant the earliest deadline
goes first; see `WorkClass`. Two things let a deferred line go before immediate ones: the floor, a share of all sends,
and a deadline that comes near: such lines are urgent, and take turns with immediate ones.

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
from itertools import count
from math import inf
from typing import Final

from llmblast.models import IMMEDIATE, Attempt
from llmblast.scheduling.deadline_book import DeadlineBook
from llmblast.scheduling.deferred_floor import DeferredFloor
from llmblast.scheduling.retry_budget import EARNED_PER_SEND, RetryBudget
from llmblast.scheduling.work_class import Source, WorkClass

DEFAULT_FLOOR: Final = 0.05
NO_SHARES: Final[Mapping[str, float]] = {}
_UNSENT: Final = (Source.FIRST, Source.LINES, Source.NEWEST)


class RequestQueue:
    """Immediate, urgent and deferred requests. `shares` are the weights of tenants, `deferred_floor` is the share of
    all sends that deferred lines get at least.
    """

    __slots__ = (
        "_average_s",
        "_deferred",
        "_deferred_bytes",
        "_floor",
        "_held_deferred",
        "_immediate",
        "_order",
        "_peeked",
        "_plain",
        "_urgent",
        "_urgent_before_s",
        "_urgent_had_turn",
        "_usual_max_s",
        "_wall_clock",
        "added",
        "answered_after_s",
        "budget",
        "deadlines",
        "held",
        "held_bytes",
        "immediate_sent",
        "is_outage",
        "is_plain",
        "is_probing",
        "is_spare",
        "retried",
        "sent",
        "size_bytes",
    )

    def __init__(
        self,
        shares: Mapping[str, float] = NO_SHARES,
        deferred_floor: float = DEFAULT_FLOOR,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.budget = RetryBudget()
        self._wall_clock = wall_clock
        self._immediate = WorkClass(shares)
        self._urgent = WorkClass(shares)
        self._deferred = WorkClass(shares)
        self._plain = self._immediate.plain
        self._peeked = self._immediate
        """The class of the request that `peek` returned last."""
        self._deferred_bytes = 0
        self._held_deferred = 0
        self._floor = DeferredFloor(deferred_floor)
        self._order = count()
        self._urgent_had_turn = False
        self._urgent_before_s = -inf
        self.size_bytes = 0
        self.held_bytes = 0
        """The caller subtracts a request's bytes when it comes to its end."""
        self.held = 0
        """Requests that wait for a reply to another one, outside of the queue; see `hold`."""
        self.retried = 0
        """Requests that were sent again."""
        self.is_plain = True
        """Nothing but new immediate lines without terms is queued: they are in one deque."""
        self.is_outage = False
        """All endpoints fail: requests that have not failed yet go first, so that probes use up no line's attempts."""
        self.is_probing = False
        """Every endpoint is held back: new requests go first, and the one that was read last before all."""
        self.is_spare = False
        """The request that `peek` returned last is a deferred one, which leaves a reserve to immediate ones."""
        self.answered_after_s = -inf
        """What to add to `now` for the moment, in wall clock, at which a line that is sent then has its answer."""
        self._usual_max_s = 0.0
        self._average_s = 0.0
        """How long answers take."""
        self.deadlines = DeadlineBook()
        """Those of deferred lines that were not sent yet. A reader that keeps lines elsewhere adds theirs, and discards
        each before it adds the line to the queue."""
        self.added = 0
        """Immediate lines that were read so far."""
        self.sent = 0
        self.immediate_sent = 0
        """Sends while deferred lines, or others with terms, were queued."""

    def __len__(self) -> int:
        if self.is_plain:
            return self.held + len(self._plain)
        return self.held + len(self._immediate) + len(self._urgent) + len(self._deferred)

    def __bool__(self) -> bool:
        """Return whether anything may be sent, now or later; requests that are held do not count."""
        return bool(self._plain) or (not self.is_plain and len(self) > self.held)

    def size_of(self, is_deferred: bool) -> tuple[int, int]:
        """Return the number and the bytes of the queued requests of a class, retries included."""
        if is_deferred:
            return len(self._deferred) + len(self._urgent) + self._held_deferred, self._deferred_bytes
        return self.held - self._held_deferred + len(self._immediate), self.size_bytes - self._deferred_bytes

    def waiting_of(self, tenant: str, is_deferred: bool) -> int:
        """Return how many new lines of a tenant wait in a class; "" are those without a tenant."""
        if is_deferred:
            return self._deferred.waiting_of(tenant) + self._urgent.waiting_of(tenant)
        return self._immediate.waiting_of(tenant)

    def late_of(self, tenant: str, is_deferred: bool, now: float) -> int:
        """Return how many new lines of a tenant can no longer make their deadline: they go behind those that can."""
        work = self._deferred if is_deferred else self._immediate
        return work.late_of(tenant, now + self.answered_after_s)

    def take_back(self, tenant: str, is_deferred: bool, count: int) -> list[Attempt]:
        """Remove and return so many new lines of a tenant, those that would go last in their class."""
        taken = (self._deferred if is_deferred else self._immediate).take_last(tenant, count)
        for attempt in taken:
            self.size_bytes -= attempt.size_bytes
            self.held_bytes -= attempt.size_bytes
            if is_deferred:
                self._deferred_bytes -= attempt.size_bytes
                if attempt.request.terms.deadline_s < inf:
                    self.deadlines.discard(attempt.request.terms.deadline_s)
        self.is_plain = self._immediate.is_plain and not self._deferred and not self._urgent
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
        if request.terms is IMMEDIATE and not self._immediate.priorities:
            self._plain.append(attempt)
            self.added += 1
        else:
            self._add_with_terms(attempt)

    def add_next(self, attempt: Attempt) -> None:
        """Queue a request that goes before those that were read, such as one that asks again for an answer."""
        request = attempt.request
        attempt.size_bytes = size_bytes = len(request.text) + len(request.body)
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes
        work = self._class_of(attempt)
        work.first.appendleft(attempt)
        self._count_deadline(work, request.terms.deadline_s)

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
        self._class_of(attempt).add_retry(due_s, next(self._order), attempt, has_failed=has_failed)

    def peek(self, now: float) -> Attempt | None:
        """Return the request whose turn it is at `now`."""
        if self.is_plain and not self.is_probing:
            return self._plain[0] if self._plain else None
        return self._peek_classes(now)

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
        self._record_send(now)
        return attempt

    def park(self, due_s: float, now: float) -> None:
        """Queue the request that `peek(now)` returned for `due_s`: others may go meanwhile."""
        self.add_retry(self._remove(now, 0.0), due_s)

    def expect_answers(self, now: float, average_s: float, usual_max_s: float) -> None:
        """Tell how long answers take: a line whose answer would come too late goes behind those that can be in time."""
        self._average_s, self._usual_max_s = average_s, usual_max_s
        self.answered_after_s = self._wall_clock() - now + usual_max_s

    def promote(self, before_s: float, max_lines: int, now: float) -> None:
        """Make deferred lines urgent that have a deadline before that moment (wall clock), the earliest ones first, so
        that `max_lines` are: they take turns with immediate ones then. Retries of such lines are urgent, too.
        """
        self._urgent_before_s = before_s
        answered_s = now + self.answered_after_s
        for attempt in self._deferred.take_dated(before_s, max_lines - len(self._urgent), answered_s):
            self._urgent.add(attempt, next(self._order), inf)

    def recall(self, model: str, now: float) -> None:
        """Make retries for a model due at once."""
        for work in self._classes():
            work.retries = [
                (now if attempt.request.model == model else due_s, order, attempt)
                for due_s, order, attempt in work.retries
            ]
            heapq.heapify(work.retries)

    def recall_all(self, due_s: float) -> None:
        """Make retries due at that moment at the latest."""
        for work in self._classes():
            if any(at_s > due_s for at_s, _, _ in work.retries):
                work.retries = [(min(at_s, due_s), order, attempt) for at_s, order, attempt in work.retries]
                heapq.heapify(work.retries)

    def next_due_s(self, now: float) -> float:
        """Return when the next retry is due and paid for; infinity where none waits."""
        if self.is_plain:
            return inf
        due_s = min((work.retries[0][0] for work in self._classes() if work.retries), default=inf)
        failed_s = min((work.failed[0][0] for work in self._classes() if work.failed), default=inf)
        return due_s if failed_s == inf else min(due_s, max(failed_s, self.budget.ready_at(now)))

    def _count_held(self, number: int, size_bytes: int, is_deferred: bool) -> None:
        self.held += number
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes
        if is_deferred:
            self._held_deferred += number
            self._deferred_bytes += size_bytes

    def _classes(self) -> tuple[WorkClass, WorkClass, WorkClass]:
        """Return all classes in the order in which they have their turns."""
        if self._floor.is_due and self._deferred:
            return self._deferred, self._immediate, self._urgent
        if self._urgent_had_turn or not self._urgent:
            return self._immediate, self._urgent, self._deferred
        return self._urgent, self._immediate, self._deferred

    def _class_of(self, attempt: Attempt) -> WorkClass:
        """Return the class that a request is added to, which is not plain any more."""
        self.is_plain = False
        terms = attempt.request.terms
        if not terms.is_deferred:
            return self._immediate
        self._deferred_bytes += attempt.size_bytes
        return self._urgent if terms.deadline_s < self._urgent_before_s else self._deferred

    def _add_with_terms(self, attempt: Attempt) -> None:
        work, deadline_s = self._class_of(attempt), attempt.request.terms.deadline_s
        has_little_time = deadline_s < inf and deadline_s < self._wall_clock() + self._usual_max_s
        work.add(attempt, next(self._order), self._usual_max_s - self._average_s if has_little_time else 0.0)
        self.added += work is self._immediate
        self._count_deadline(work, deadline_s)

    def _count_deadline(self, work: WorkClass, deadline_s: float) -> None:
        if deadline_s < inf and work is not self._immediate:
            self.deadlines.add(deadline_s, self._wall_clock())

    def _peek_classes(self, now: float) -> Attempt | None:
        answered_s = now + self.answered_after_s
        if self._urgent:
            self._give_back_hopeless(answered_s - self._usual_max_s + self._average_s)
        may_retry_failed = self._may_retry_failed(now)
        for is_probe in (True, False) if self.is_probing else (False,):
            for work in self._classes():
                attempt = work.peek_newest() if is_probe else work.peek(now, answered_s, may_retry_failed)
                if attempt is not None:
                    self._peeked = work
                    self.is_spare = work is self._deferred and not self._floor.is_due
                    return attempt
        self.is_spare = False
        return None

    def _give_back_hopeless(self, answered_s: float) -> None:
        """Let urgent lines wait with the deferred ones that have no chance to make their deadline any more."""
        for attempt in self._urgent.take_dated(answered_s, len(self._urgent)):
            self._deferred.add(attempt, next(self._order))

    def _remove(self, now: float, cost: float) -> Attempt:
        """Remove the request that `peek(now)` returns, and charge its tenant."""
        if self._peek_classes(now) is None:
            raise IndexError("no request is due")
        work = self._peeked
        attempt = work.pop(cost)
        self.size_bytes -= attempt.size_bytes
        if work is not self._immediate:
            self._deferred_bytes -= attempt.size_bytes
            if work.source in _UNSENT and attempt.request.terms.deadline_s < inf:
                self.deadlines.discard(attempt.request.terms.deadline_s)
        self.is_spare = False
        self.is_plain = self._immediate.is_plain and not self._deferred and not self._urgent
        return attempt

    def _record_send(self, now: float) -> None:
        """Count the request that was removed last as sent."""
        work = self._peeked
        source, is_immediate = work.source, work is self._immediate
        if source is Source.RETRIES or source is Source.FAILED:
            self.retried += 1
        else:
            self.budget.earned += EARNED_PER_SEND
        if source is Source.FAILED:
            self.budget.acquire()
        if not is_immediate or self._deferred:
            self._floor.on_send(now, is_deferred=not is_immediate)
        self._urgent_had_turn = work is self._urgent
        self.sent += 1
        self.immediate_sent += is_immediate

    def _may_retry_failed(self, now: float) -> bool:
        if not any(work.failed and work.failed[0][0] <= now for work in self._classes()):
            return False
        if self.budget.ready_at(now) > now:
            return False
        return not (self.is_outage and any(work.has_unsent for work in self._classes()))
