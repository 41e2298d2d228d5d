"""Tenant lines: the new lines of one tenant in one class and priority, earliest deadline first.

Among unit costs on one server, sending the earliest deadline that can still be met, and nothing too late before it,
misses the fewest deadlines there are (Moore, Management Science 15, 1968). Plain earliest-deadline-first does not under
overload: once one line is late, each line behind it is late, too. So a line that can no longer make its deadline goes
behind those that can, and before those that have none.
"""

import heapq
from collections import deque
from math import inf

from llmblast.models import Attempt


class LateCount:
    """The number of late lines of all tenants in a class."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        self.lines = 0


class TenantLines:
    """`start` is the virtual start tag of the tenant's next send, see `FairSharing`."""

    __slots__ = ("_dated", "_late", "_late_count", "name", "plain", "start", "weight")

    def __init__(self, name: str, weight: float, late_count: LateCount, plain: deque[Attempt] | None = None) -> None:
        self.name = name
        self._late_count = late_count
        self.weight = weight
        self.start = 0.0
        self.plain: deque[Attempt] = deque() if plain is None else plain
        """Lines without a deadline."""
        self._dated: list[tuple[float, int, Attempt]] = []
        self._late: list[tuple[float, int, Attempt]] = []

    def __len__(self) -> int:
        return len(self._dated) + len(self._late) + len(self.plain)

    def __bool__(self) -> bool:
        return bool(self.plain or self._dated or self._late)

    @property
    def has_deadlines(self) -> bool:
        """Return whether some line has a deadline."""
        return bool(self._dated or self._late)

    @property
    def earliest_s(self) -> float:
        """Return the earliest deadline that can still be met; infinity where there is none."""
        return self._dated[0][0] if self._dated else inf

    def add(self, attempt: Attempt, order: int) -> None:
        """Add a line."""
        deadline_s = attempt.request.terms.deadline_s
        if deadline_s == inf:
            self.plain.append(attempt)
        else:
            heapq.heappush(self._dated, (deadline_s, order, attempt))

    def peek(self, answered_s: float) -> Attempt:
        """Return the next line. `answered_s` is when a line that is sent now will have its answer, in wall clock."""
        dated = self._dated
        while dated and dated[0][0] < answered_s:
            heapq.heappush(self._late, heapq.heappop(dated))
            self._late_count.lines += 1
        dated = dated or self._late
        return dated[0][2] if dated else self.plain[0]

    def pop(self) -> Attempt:
        """Remove and return the line that `peek` returned."""
        if self._dated:
            return heapq.heappop(self._dated)[2]
        if self._late:
            self._late_count.lines -= 1
            return heapq.heappop(self._late)[2]
        return self.plain.popleft()
