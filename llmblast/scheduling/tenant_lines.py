"""Tenant lines: the new lines of one tenant in one class and priority, earliest deadline first.

Among unit costs on one server, sending the earliest deadline that can still be met, and nothing too late before it,
misses the fewest deadlines there are (Moore, Management Science 15, 1968). Plain earliest-deadline-first does not under
overload: once one line is late, each line behind it is late, too. So a line that can no longer make its deadline goes
behind those that can, and before those that have none. It counts as late once its answer would probably come too late;
one that came with little time counts as late only when that is certain.
"""

import heapq
from collections import deque
from math import inf

from llmblast.models import Attempt

_Dated = tuple[float, int, Attempt, float]
"""Deadline, order, line, and the deadline with what it may exceed the usual time of an answer."""


class TenantLines:
    """`start` is the virtual start tag of the tenant's next send, see `FairSharing`."""

    __slots__ = ("_dated", "_late", "name", "plain", "start", "weight")

    def __init__(self, name: str, weight: float, plain: deque[Attempt] | None = None) -> None:
        self.name = name
        self.weight = weight
        self.start = 0.0
        self.plain: deque[Attempt] = deque() if plain is None else plain
        """Lines without a deadline."""
        self._dated: list[_Dated] = []
        self._late: list[_Dated] = []

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

    def add(self, attempt: Attempt, order: int, grace_s: float) -> None:
        """Add a line; it counts as late by `grace_s` later than others."""
        deadline_s = attempt.request.terms.deadline_s
        if deadline_s == inf:
            self.plain.append(attempt)
        else:
            heapq.heappush(self._dated, (deadline_s, order, attempt, deadline_s + grace_s))

    def peek(self, answered_s: float) -> Attempt:
        """Return the next line. `answered_s` is when a line that is sent now will have its answer, in wall clock."""
        if self._dated:
            self.put_late_aside(answered_s)
        dated = self._dated or self._late
        return dated[0][2] if dated else self.plain[0]

    def pop(self) -> Attempt:
        """Remove and return the line that `peek` returned."""
        dated = self._dated or self._late
        return heapq.heappop(dated)[2] if dated else self.plain.popleft()

    def put_late_aside(self, answered_s: float) -> int:
        """Put lines behind the others that are late by now, and return how many there are."""
        dated = self._dated
        while dated and dated[0][3] < answered_s:
            heapq.heappush(self._late, heapq.heappop(dated))
        return len(self._late)

    def take_last(self, count: int) -> list[Attempt]:
        """Remove and return so many lines, those that would go last."""
        taken = [self.plain.pop() for _ in range(min(count, len(self.plain)))]
        for dated in (self._late, self._dated):
            if len(taken) < count and dated:
                dated.sort()  # a sorted list is a heap
                first = max(len(dated) - (count - len(taken)), 0)
                taken += [entry[2] for entry in dated[first:]]
                del dated[first:]
        return taken
