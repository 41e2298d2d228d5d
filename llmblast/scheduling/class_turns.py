"""Class turns: the classes of work, and which of them goes next. Immediate requests come before deferred ones.

Two things let a deferred line go before immediate ones: the floor, a share of all sends, and a deadline that comes
near. Lines of the latter kind are urgent: they are a class of their own, which takes turns with the immediate ones.
"""

from collections.abc import Iterator, Mapping
from math import inf

from llmblast.models import Attempt, Terms
from llmblast.scheduling.deferred_floor import DeferredFloor
from llmblast.scheduling.work_class import WorkClass

Classes = tuple[WorkClass, WorkClass, WorkClass]


class ClassTurns:
    """`find` chooses a class; `peeked` is the one that it chose last, and `is_spare` tells whether its request is a
    deferred one that has to leave a reserve to immediate ones.
    """

    __slots__ = (
        "_floor",
        "_urgent_before_s",
        "_urgent_had_turn",
        "deferred",
        "deferred_bytes",
        "immediate",
        "is_spare",
        "peeked",
        "urgent",
    )

    def __init__(self, shares: Mapping[str, float], deferred_floor: float) -> None:
        self.immediate = WorkClass(shares)
        self.urgent = WorkClass(shares)
        self.deferred = WorkClass(shares)
        self.deferred_bytes = 0
        """Bytes of all deferred requests, urgent ones too."""
        self.peeked = self.immediate
        self.is_spare = False
        self._floor = DeferredFloor(deferred_floor)
        self._urgent_had_turn = False
        self._urgent_before_s = -inf

    def __len__(self) -> int:
        return len(self.immediate) + len(self.urgent) + len(self.deferred)

    def __bool__(self) -> bool:
        return bool(self.immediate or self.urgent or self.deferred)

    @property
    def is_plain(self) -> bool:
        """Return whether nothing but new immediate lines without terms is queued."""
        return self.immediate.is_plain and not self.deferred and not self.urgent

    @property
    def has_unsent(self) -> bool:
        """Return whether some line has not been sent yet."""
        return self.immediate.has_unsent or self.urgent.has_unsent or self.deferred.has_unsent

    def class_of(self, terms: Terms) -> WorkClass:
        """Return the class that a new line with these terms belongs to."""
        return self.deferred if terms.is_deferred else self.immediate

    def class_of_retry(self, terms: Terms) -> WorkClass:
        """Return the class that a request which was sent before belongs to: it is urgent as it may have been before."""
        is_urgent = terms.is_deferred and terms.deadline_s < self._urgent_before_s
        return self.urgent if is_urgent else self.class_of(terms)

    def classes(self) -> Classes:
        """Return the classes in the order of their turns."""
        if self._floor.is_due and self.deferred:
            return self.deferred, self.immediate, self.urgent
        if self._urgent_had_turn or not self.urgent:
            return self.immediate, self.urgent, self.deferred
        return self.urgent, self.immediate, self.deferred

    def find_newest(self) -> Attempt | None:
        """Return the line that was read last, an immediate one first; None where all requests were sent before."""
        for work in (self.immediate, self.urgent, self.deferred):
            attempt = work.peek_newest()
            if attempt is not None:
                return self._choose(work, attempt)
        return None

    def find(self, now: float, answered_s: float, may_retry_failed: bool) -> Attempt | None:
        """Return the request whose turn it is; see `WorkClass.peek`."""
        for work in self.classes():
            attempt = work.peek(now, answered_s, may_retry_failed)
            if attempt is not None:
                return self._choose(work, attempt)
        self.is_spare = False
        return None

    def record_send(self, now: float, cost: float) -> None:
        """Count the request that was found last as sent."""
        is_immediate = self.peeked is self.immediate
        if not is_immediate or self.deferred:
            self._floor.on_send(now, cost, is_deferred=not is_immediate)
        self._urgent_had_turn = self.peeked is self.urgent

    def promote(self, before_s: float, max_lines: int, answered_s: float, orders: Iterator[int]) -> None:
        """Make deferred lines urgent, the earliest ones first; see `RequestQueue.promote`."""
        self._urgent_before_s = before_s
        for attempt in self.deferred.take_dated(before_s, max_lines - len(self.urgent), answered_s):
            self.urgent.add(attempt, next(orders), inf)

    def give_back(self, hopeless_before_s: float, orders: Iterator[int]) -> None:
        """Let urgent lines wait with the deferred ones that have no chance to make their deadline any more."""
        if self.urgent:
            for attempt in self.urgent.take_dated(hopeless_before_s, len(self.urgent)):
                self.deferred.add(attempt, next(orders))

    def _choose(self, work: WorkClass, attempt: Attempt) -> Attempt:
        self.peeked = work
        self.is_spare = work is self.deferred and not self._floor.is_due
        return attempt
