"""One budget of memory for all replies under way: a cap for each one alone would let a hundred fill the machine.

Long replies are counted as they arrive. When the budget is full, all of them are paused but the longest one, so that
the sender waits as TCP has it wait, and nothing is lost. A quarter of the budget, as much as one reply may have, is
kept for that one: it always comes to its end, or to its cap, and gives back what it held.
"""

import asyncio
from heapq import nlargest
from typing import Protocol
from weakref import WeakKeyDictionary

MAX_BUFFERED_BYTES = 256 * 1024 * 1024
UNCOUNTED_BYTES = 64 * 1024
"""Shorter replies are neither counted nor paused: nearly all are shorter, and often arrive in one packet."""
_RESUMED_BYTES = 1024 * 1024
"""For so much of room one reply is resumed: all at once would fill it in a moment, to be paused again."""


class LongReply(Protocol):
    """A reply under way that can be paused."""

    def pause(self) -> None:
        """Read no more."""

    def resume(self) -> None:
        """Read on."""


class ReplyBudget:
    """Counts the bytes of long replies, and decides which of them may go on. Never waits."""

    __slots__ = ("_free_for_all", "_going_on", "_paused", "_sizes", "_used")

    def __init__(self, max_bytes: int) -> None:
        self._free_for_all = max_bytes - max_bytes // 4
        self._used = 0
        self._sizes: dict[LongReply, int] = {}
        self._paused: set[LongReply] = set()
        self._going_on: LongReply | None = None
        """The only one that may go on, while the budget is full."""

    @property
    def used_bytes(self) -> int:
        """What all long replies hold."""
        return self._used

    def grow(self, reply: LongReply, size_bytes: int) -> None:
        """Count more bytes of a reply; may pause it or others."""
        self._sizes[reply] = self._sizes.get(reply, 0) + size_bytes
        self._used += size_bytes
        if self._used <= self._free_for_all or reply is self._going_on:
            return
        if self._going_on is None:
            self._going_on = self._longest()
            for other in self._sizes:
                self._pause(other)
        else:
            self._pause(reply)

    def release(self, reply: LongReply) -> None:
        """Give back what a reply held, if anything: it has ended. Others may go on, the longest ones first."""
        self._used -= self._sizes.pop(reply, 0)
        self._paused.discard(reply)
        if reply is self._going_on:
            self._going_on = None
        if not self._paused:
            return
        share = max(0, self._free_for_all - self._used) // _RESUMED_BYTES
        for other in nlargest(share, self._paused, key=self._sizes.__getitem__):
            self._resume(other)
        if len(self._paused) == len(self._sizes):
            self._going_on = self._longest()
            self._resume(self._going_on)

    def _longest(self) -> LongReply:
        return max(self._sizes, key=self._sizes.__getitem__)

    def _pause(self, reply: LongReply) -> None:
        if reply is not self._going_on and reply not in self._paused:
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
