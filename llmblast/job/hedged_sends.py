"""Hedged sends: `Hedging` as the run uses it. It only advises: a defect there switches it off."""

import asyncio
from collections.abc import Callable
from math import inf

from llmblast.fence import Fence
from llmblast.job.hedging import Hedging, Send, SendInTask
from llmblast.models import Attempt, Reply
from llmblast.scheduling import CANCELLED, Endpoint, Scheduler
from llmblast.watching import Counters


class HedgedSends:
    """Without `hedging`, or once that was switched off, every line has one send at a time. `on_slot_free` is called
    when a cancelled send has ended.
    """

    def __init__(
        self,
        hedging: Hedging | None,
        scheduler: Scheduler,
        counters: Counters,
        clock: Callable[[], float],
        fence: Fence,
        *,
        on_slot_free: Callable[[], None],
    ) -> None:
        self._hedging = hedging
        self.is_on = hedging is not None
        """Slow requests are hedged; asked for each request."""
        self._scheduler = scheduler
        self._counters = counters
        self._clock = clock
        self._fence = fence
        self._on_slot_free = on_slot_free

    def learn(self) -> None:
        """Learn from the latencies so far."""
        if self._hedging is not None:
            try:
                self._hedging.learn(self._counters)
            except Exception as error:  # noqa: BLE001 -- advice
                self._switch_off(error)

    def watch(self, attempt: Attempt, endpoint: Endpoint, task: asyncio.Task[None]) -> None:
        """Track a send that is no hedge."""
        if self._hedging is not None:
            try:
                self._hedging.watch(Send(attempt, endpoint, task))
            except Exception as error:  # noqa: BLE001 -- advice
                self._switch_off(error)

    def send_due(self, send_in_task: SendInTask, now: float) -> None:
        """Hedge requests that are slow by now."""
        if self._hedging is not None:
            try:
                if self._hedging.due_s <= now:
                    self._hedging.send_hedges(self._scheduler, self._counters, send_in_task, now)
            except Exception as error:  # noqa: BLE001 -- advice
                self._switch_off(error)

    def wake_at(self, now: float) -> float:
        """Return when the next hedge is due; infinity where none is."""
        if self._hedging is not None:
            try:
                return self._hedging.wake_at(now)
            except Exception as error:  # noqa: BLE001 -- advice
                self._switch_off(error)
        return inf

    def on_answer(self, winner: Attempt, reply: Reply, now: float) -> None:
        """Cancel the other send of a hedged request that has its answer. The latency becomes the line's: it counts from
        the first send.
        """
        if self._hedging is None:
            return
        try:
            pair = self._hedging.on_answer(winner)
        except Exception as error:  # noqa: BLE001 -- advice
            winner.ambiguous_sends += self._switch_off(error, winner, has_answer=True)
            return
        if pair is None:
            return
        reply.latency_s = now - pair.first_sent_s
        if pair.peer is not None:
            winner.ambiguous_sends += 1
            self._cancel(pair.peer, now)

    def defers_to_peer(self, attempt: Attempt) -> bool:
        """Return whether an attempt that ended without an answer leaves its line to another send."""
        if self._hedging is None:
            return False
        try:
            return self._hedging.defers_to_peer(attempt)
        except Exception as error:  # noqa: BLE001 -- advice
            return self._switch_off(error, attempt)

    def _switch_off(self, error: Exception, returned: Attempt | None = None, *, has_answer: bool = False) -> bool:
        """Go on without hedging. `returned` is an attempt whose reply has just come. Return whether its line has
        another send, which keeps the line where the reply was no answer.
        """
        hedging, self._hedging, self.is_on = self._hedging, None, False
        self._fence.switch_off("hedging", error)
        peers = {} if hedging is None else hedging.peers()
        peer = None if returned is None else peers.pop(returned, None)
        if peer is not None:
            peers.pop(peer.attempt, None)
            if has_answer:
                self._cancel(peer, self._clock())
        while peers:
            _, surplus = peers.popitem()
            peers.pop(surplus.attempt, None)
            self._cancel(surplus, self._clock())
        return peer is not None

    def _cancel(self, send: Send, now: float) -> None:
        """Cancel a send that is not needed any more; it may be billed all the same."""
        send.task.add_done_callback(lambda _: self._on_slot_free())
        send.task.cancel()
        self._scheduler.release(send.attempt, send.endpoint, send.attempt.tokens_paid, now)
        self._scheduler.on_outcome(send.attempt, send.endpoint, CANCELLED, now)
        self._counters.maybe_billed += 1
