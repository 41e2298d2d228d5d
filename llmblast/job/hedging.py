"""Hedging: a request that takes longer than most is sent once more, to another endpoint; the first answer wins.

Source: Dean and Barroso, "The Tail at Scale", Communications of the ACM 56 (2), 2013, "hedged requests". A hedge that
waits until a high quantile has passed costs few sends and cuts the tail down to that quantile and one usual latency
more.

The hedge is a copy of the slow attempt, since each has its own admission. From then on both are alike: the first to
answer is the line's, one that fails leaves the line to its peer, and one that is left alone is treated as any other.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from typing import NamedTuple

from llmblast.models import Attempt
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.watching import Counters

BUDGET_SHARE = 0.05
"""Hedges for each other send, at any moment of the run."""
MAX_SAVED = 100.0
"""Hedges that may go at once after a calm time: enough to rescue the requests at one endpoint when it stalls. When all
endpoints slow down, hedges only add to the load, and hours of calm must not have paid for that."""
MIN_SAMPLES = 100
"""Answers before a quantile of their latencies says anything."""
MAX_TRIED = 8
"""Slow requests that are tried at one look: the oldest may be one that no endpoint is ready for."""
RESCAN_INTERVAL_S = 0.01
"""When to try again for a slow request that no endpoint is ready for."""

SendInTask = Callable[[Attempt, Endpoint], asyncio.Task[None]]


class Send(NamedTuple):
    """One send under way. Cancelling its task closes its connection."""

    attempt: Attempt
    endpoint: Endpoint
    task: asyncio.Task[None]


class HedgePair(NamedTuple):
    """One of the two sends of a hedged request; `peer` is the other one, None once that has failed."""

    first_sent_s: float
    peer: Send | None


class Hedging:
    """Tracks requests in flight, chooses those to hedge, and pairs each with its hedge. Every step costs the same,
    however many are in flight. `quantile` and `budget_share` are shares of 1, `now` is monotonic seconds.
    """

    def __init__(self, quantile: float, budget_share: float = BUDGET_SHARE) -> None:
        self._quantile = quantile
        self._budget_share = budget_share
        self._budget = 0.0
        self._threshold_s = inf
        self._alone: OrderedDict[Attempt, Send] = OrderedDict()  # its first entry is found in one step, a dict's is not
        self._pairs: dict[Attempt, HedgePair] = {}
        self._unpaired: tuple[Attempt, Send] | None = None
        """A slow request and its hedge, while these are not paired yet."""

    def learn(self, counters: Counters) -> None:
        """Take the threshold from the run's latencies so far. Those of hedged requests count from their first send:
        what was slower than the threshold stays so, and hedges do not make the quantile fall.
        """
        latencies = counters.latency
        if latencies.count >= MIN_SAMPLES:
            self._threshold_s = latencies.quantile(self._quantile) or inf

    @property
    def due_s(self) -> float:
        """Moment from which the oldest request in flight is slow; infinity where no hedge may go."""
        if self._budget < 1.0 or not self._alone:
            return inf
        oldest = next(iter(self._alone))
        return oldest.sent_s + self._threshold_s

    def wake_at(self, now: float) -> float:
        """Return when to look for slow requests, if nothing else leads to a look before."""
        due_s = self.due_s
        return due_s if due_s > now else now + RESCAN_INTERVAL_S

    def watch(self, send: Send) -> None:
        """Track a send that is no hedge. A request gets one hedge at most, however often it is sent."""
        self._budget = min(self._budget + self._budget_share, MAX_SAVED)
        if not send.attempt.hedged:
            self._alone[send.attempt] = send

    def send_hedges(self, scheduler: Scheduler, counters: Counters, send_in_task: SendInTask, now: float) -> None:
        """Hedge slow requests, before the queue: with every slot in use nothing would be left for hedges, and the
        budget bounds what they take.
        """
        for slow in self.slow_sends(now):
            dispatch = scheduler.hedge(slow.attempt, slow.endpoint, now)
            if dispatch is None:
                continue
            hedge = Send(*dispatch, send_in_task(*dispatch))
            self._unpaired = slow.attempt, hedge
            self.pair(slow, hedge)
            self._unpaired = None
            counters.hedged += 1
            counters.endpoints[dispatch[1].index].sent += 1
            counters.last_sent_s = now

    def peers(self) -> dict[Attempt, Send]:
        """Return the other send of each hedged request that is in flight; a pair stands there twice."""
        peers = {attempt: pair.peer for attempt, pair in self._pairs.items() if pair.peer is not None}
        return peers if self._unpaired is None else {**peers, self._unpaired[0]: self._unpaired[1]}

    def slow_sends(self, now: float) -> Iterator[Send]:
        """Yield sends that are due for a hedge, oldest first, while the budget lasts; each may be paired at once."""
        for send in list(islice(self._alone.values(), MAX_TRIED)):
            if self._budget < 1.0 or send.attempt.sent_s + self._threshold_s > now:
                return
            yield send

    def pair(self, slow: Send, hedge: Send) -> None:
        """Pair a slow send with its hedge, which has been sent."""
        self._budget -= 1.0
        first_sent_s = slow.attempt.sent_s
        for send, peer in ((slow, hedge), (hedge, slow)):
            send.attempt.hedged = True
            self._pairs[send.attempt] = HedgePair(first_sent_s, peer)
        del self._alone[slow.attempt]

    def on_answer(self, attempt: Attempt) -> HedgePair | None:
        """Forget an attempt that was answered, and its peer. Return their pair where it was hedged."""
        pair = self._forget(attempt)
        if pair is not None and pair.peer is not None:
            del self._pairs[pair.peer.attempt]
        return pair

    def defers_to_peer(self, attempt: Attempt) -> bool:
        """Forget an attempt that ended without an answer. Return whether it leaves the line, and all that has happened
        to it, to its peer.
        """
        pair = self._forget(attempt)
        if pair is None or pair.peer is None:
            return False
        peer = pair.peer.attempt
        peer.attempts = attempt.attempts
        peer.unusable_replies = attempt.unusable_replies
        peer.ambiguous_sends = attempt.ambiguous_sends
        peer.failed_on = attempt.failed_on
        peer.refused_by = attempt.refused_by
        peer.rejections = max(peer.rejections, attempt.rejections)
        self._pairs[peer] = HedgePair(pair.first_sent_s, None)
        return True

    def _forget(self, attempt: Attempt) -> HedgePair | None:
        self._alone.pop(attempt, None)
        return self._pairs.pop(attempt, None)
