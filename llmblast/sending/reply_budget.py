"""Reply budget: one limit of memory for all replies under way, since a cap for each would let a hundred fill memory.

Long replies are counted as they arrive. When the budget is full, all but the longest one are paused: back-pressure of
TCP, nothing is lost. A quarter of the budget, the cap of one reply, is reserved for the longest one: it always reaches
its end or its cap, and gives its bytes back.
"""

import asyncio
from heapq import nlargest
from typing import Protocol
from weakref import WeakKeyDictionary

MAX_BUFFERED_BYTES = 256 * 1024 * 1024
UNCOUNTED_BYTES = 64 * 1024
"""Shorter replies are neither counted nor paused: nearly all are shorter, and often arrive in one packet."""
_BYTES_PER_RESUME = 1024 * 1024
"""Free bytes for which one reply is resumed: all at once would fill the budget again in a moment."""


class LongReply(Protocol):
    """A reply under way that can be paused."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Continue reading."""


class ReplyBudget:
    """Counts the bytes of long replies, pauses and resumes them. Never waits."""

    __slots__ = ("_exempt", "_paused", "_shared_bytes", "_sizes", "_used")

    def __init__(self, max_bytes: int) -> None:
        self._shared_bytes = max_bytes - max_bytes // 4
        self._used = 0
        self._sizes: dict[LongReply, int] = {}
        self._paused: set[LongReply] = set()
        self._exempt: LongReply | None = None
        """The only reply that is not paused, while the budget is full."""

    @property
    def used_bytes(self) -> int:
        """Return the bytes of all long replies."""
        return self._used

    def grow(self, reply: LongReply, size_bytes: int) -> None:
        """Count more bytes of a reply; may pause it or others."""
        self._sizes[reply] = self._sizes.get(reply, 0) + size_bytes
        self._used += size_bytes
        if self._used <= self._shared_bytes or reply is self._exempt:
            return
        if self._exempt is None:
            self._exempt = self._longest()
            for other in self._sizes:
                self._pause(other)
        else:
            self._pause(reply)

    def release(self, reply: LongReply) -> None:
        """Give back the bytes of a reply that has ended, if it was counted. Resume others, the longest ones first."""
        self._used -= self._sizes.pop(reply, 0)
        self._paused.discard(reply)
        if reply is self._exempt:
            self._exempt = None
        if not self._paused:
            return
        share = max(0, self._shared_bytes - self._used) // _BYTES_PER_RESUME
        for other in nlargest(share, self._paused, key=self._sizes.__getitem__):
            self._resume(other)
        if len(self._paused) == len(self._sizes):
            self._exempt = self._longest()
            self._resume(self._exempt)

    def _longest(self) -> LongReply:
        return max(self._sizes, key=self._sizes.__getitem__)

    def _pause(self, reply: LongReply) -> None:
        if reply is not self._exempt and reply not in self._paused:
            self._paused.add(reply)
            reply.pause()

    def _resume(self, reply: LongReply) -> None:
        self._paused.discard(reply)
        reply.resume()


_budgets: WeakKeyDictionary[asyncio.AbstractEventLoop, ReplyBudget] = WeakKeyDictionary()


def reply_budget() -> ReplyBudget:
    """Return the budget of the running loop: all channels on it share one."""
    loop = asyncio.get_running_loop()
    budget = _budgets.get(loop)
    if budget is None:
        budget = _budgets[loop] = ReplyBudget(MAX_BUFFERED_BYTES)
    return budget
