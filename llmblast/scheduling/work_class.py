"""Work class: the queued requests of one class. Due retries go first, then new lines by priority, tenant and deadline.

Most runs have only plain lines, which have no terms: they stay in one deque, in the order of the file. The levels for
priorities, tenants and deadlines are there as long as lines need them.
"""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Mapping
from enum import Enum
from math import inf

from llmblast.models import IMMEDIATE, Attempt, Terms
from llmblast.scheduling.fair_sharing import FairSharing
from llmblast.scheduling.tenant_lines import TenantLines

_Retry = tuple[float, int, Attempt]


class Source(Enum):
    """The place of the next request of a class."""

    RETRIES = "retries"
    FAILED = "retries after a failure"
    FIRST = "lines that go before the others"
    LINES = "new lines"
    NEWEST = "the line that was read last"


class WorkClass:
    """Retries by due time, those on the retry budget apart; new lines: higher priority first, tenants by fair sharing,
    and for each tenant the earliest deadline first. `order` numbers keep the order of the file among equals.
    """

    __slots__ = (
        "_levels",
        "_others",
        "_weights",
        "failed",
        "first",
        "held",
        "plain",
        "priorities",
        "retries",
        "source",
    )

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self.held = 0
        """Requests of the class that wait outside of the queue; see `RequestQueue.hold`."""
        self.retries: list[_Retry] = []
        self.failed: list[_Retry] = []
        """Heaps of what goes again at its due time; `failed` needs the retry budget, too."""
        self.first: deque[Attempt] = deque()
        """Lines that go before those that were read."""
        self.plain: deque[Attempt] = deque()
        """Lines without priority, deadline and tenant."""
        self._levels: dict[int, FairSharing] = {}
        self.priorities: list[int] = []
        """Priorities that have a level, ascending. No level: all new lines are in `plain`."""
        self._others = 0
        """Lines in levels but not in `plain`."""
        self.source = Source.LINES
        """The place of the request that `peek` returned last."""

    def __len__(self) -> int:
        return len(self.retries) + len(self.failed) + len(self.first) + len(self.plain) + self._others

    def __bool__(self) -> bool:
        return bool(self.plain or self._others or self.retries or self.failed or self.first)

    @property
    def has_unsent(self) -> bool:
        """Return whether some line has not been sent yet."""
        return bool(self.plain or self._others or self.first)

    @property
    def is_plain(self) -> bool:
        """Return whether all that is queued is in `plain`, in the order in which it has to go."""
        return not (self.priorities or self.retries or self.failed or self.first)

    def waiting_of(self, tenant: str) -> int:
        """Return how many new lines of a tenant wait."""
        if not self.priorities:
            return 0 if tenant else len(self.plain)
        return sum(level.waiting_of(tenant) for level in self._levels.values())

    def late_of(self, tenant: str, answered_s: float) -> int:
        """Return how many new lines of a tenant are late; see `peek`."""
        return sum(level.late_of(tenant, answered_s) for level in self._levels.values())

    def take_last(self, tenant: str, count: int) -> list[Attempt]:
        """Remove and return so many new lines of a tenant, those that would go last."""
        if not self.priorities:
            return [] if tenant else [self.plain.pop() for _ in range(min(count, len(self.plain)))]
        taken: list[Attempt] = []
        for priority in list(self.priorities):
            taken += self._levels[priority].take_last(tenant, count - len(taken))
        self._others -= sum(not is_plain_in_class(attempt.request.terms) for attempt in taken)
        self._drop_levels()
        return taken

    def add(self, attempt: Attempt, order: int, grace_s: float = 0.0) -> None:
        """Add a line that was read; see `TenantLines.add`."""
        terms = attempt.request.terms
        is_plain = is_plain_in_class(terms)
        if is_plain and not self.priorities:
            self.plain.append(attempt)
            return
        self._others += not is_plain
        if self.plain and not self.priorities:
            self._level(0).wake_plain()
        self._level(terms.priority).add(attempt, order, grace_s)

    def add_retry(self, due_s: float, order: int, attempt: Attempt, *, has_failed: bool) -> None:
        """Add a request that goes again at `due_s` or later."""
        heapq.heappush(self.failed if has_failed else self.retries, (due_s, order, attempt))

    def peek(self, now: float, answered_s: float, may_retry_failed: bool) -> Attempt | None:
        """Return the next request that is due, if any. `answered_s` is the moment, in wall clock, at which a line that
        is sent now has its answer.
        """
        if self.retries and self.retries[0][0] <= now:
            self.source = Source.RETRIES
            return self.retries[0][2]
        if may_retry_failed and self.failed and self.failed[0][0] <= now:
            self.source = Source.FAILED
            return self.failed[0][2]
        if self.first:
            self.source = Source.FIRST
            return self.first[0]
        self.source = Source.LINES
        if not self.priorities:
            return self.plain[0] if self.plain else None
        found = self._next_tenant()
        return None if found is None else found[1].peek(answered_s)

    def pop(self, cost: float) -> Attempt:
        """Remove and return the request that `peek` has just returned, and charge its tenant. Raises IndexError."""
        source = self.source
        if source is Source.NEWEST and (self.plain or self.first):
            return (self.plain or self.first).pop()
        if source is Source.LINES or source is Source.NEWEST:
            return self._pop_line(cost)
        if source is Source.FIRST:
            attempt = self.first.popleft()
        else:
            attempt = heapq.heappop(self.retries if source is Source.RETRIES else self.failed)[2]
        terms = attempt.request.terms
        if (level := self._levels.get(terms.priority)) is not None:
            level.charge(terms.tenant, cost)
        return attempt

    def peek_newest(self) -> Attempt | None:
        """Return the line that was read last, as far as that is known; None where every request was sent before."""
        self.source = Source.NEWEST
        if self.plain or self.first:
            return (self.plain or self.first)[-1]
        found = self._next_tenant()
        return None if found is None else found[1].peek(-inf)

    def take_dated(self, before_s: float, max_lines: int, answered_s: float = -inf) -> list[Attempt]:
        """Remove and return new lines with a deadline before that moment, the earliest ones first, but for late ones;
        see `peek`.
        """
        if max_lines <= 0 or before_s == -inf:
            return []
        taken: list[Attempt] = []
        tenants: list[tuple[float, int, TenantLines]] = []
        for level in self._levels.values():
            for tenant in level.tenants():
                if tenant.earliest_s < before_s:
                    tenant.put_late_aside(answered_s)
                    tenants.append((tenant.earliest_s, len(tenants), tenant))
        heapq.heapify(tenants)
        while len(taken) < max_lines and tenants and tenants[0][0] < before_s:
            _, index, tenant = tenants[0]
            taken.append(tenant.pop())
            heapq.heapreplace(tenants, (tenant.earliest_s, index, tenant))
        self._others -= len(taken)
        return taken

    def _pop_line(self, cost: float) -> Attempt:
        if not self.priorities:
            attempt = self.plain.popleft()
        else:
            found = self._next_tenant()
            if found is None:
                raise IndexError("no line waits")
            level, tenant = found
            attempt = tenant.pop()
            level.charge_turn(tenant, cost)
            self._others -= not is_plain_in_class(attempt.request.terms)
            self._drop_levels()
        return attempt

    def _next_tenant(self) -> tuple[FairSharing, TenantLines] | None:
        while self.priorities:
            level = self._levels[self.priorities[-1]]
            tenant = level.next_tenant()
            if tenant is not None:
                return level, tenant
            del self._levels[self.priorities.pop()]
        return None

    def _level(self, priority: int) -> FairSharing:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = FairSharing(self._weights, None if priority else self.plain)
            insort(self.priorities, priority)
        return level

    def _drop_levels(self) -> None:
        """Do without levels again where only plain lines are left."""
        if self._others or self._next_tenant() is None:
            return
        if len(self.priorities) == 1 and not self.priorities[0] and self._levels[0].is_plain:
            self._levels.clear()
            self.priorities.clear()


def is_plain_in_class(terms: Terms) -> bool:
    """Return whether terms say nothing but the class."""
    return terms is IMMEDIATE or (terms.priority == 0 and terms.deadline_s == inf and not terms.tenant)
