"""Hedging: a request that takes longer than most is sent once more, to another endpoint; the first answer wins.

Source: Dean and Barroso, "The Tail at Scale", Communications of the ACM 56 (2), 2013, "hedged requests". What waits
until a high quantile has passed costs few sends and cuts the tail down to that quantile and one usual latency more.

The second send, the twin, is a copy of its request, since each has its own admission. From then on both are alike: the
first to answer is the line's, one that fails leaves the line to the other, and one that is left alone goes the way of
any request.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from typing import NamedTuple

from llmblast.records import Request
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.watching import Counters

BUDGET_SHARE = 0.05
"""Twins for each other send, at any moment of the run."""
MOST_SAVED = 100.0
"""Twins that may go at once after a calm time: enough to rescue what one endpoint holds when it stalls. When all of
them slow down, twins only add to the load, and hours of calm must not have paid for that."""
FEWEST_ANSWERS = 100
"""Answers before a quantile of their latencies says anything."""
LOOKED_AT = 8
"""Stragglers that are tried at one look: the oldest may be one that no endpoint is ready for."""
LOOK_AGAIN_S = 0.01
"""When to try again for a straggler that no endpoint is ready for."""

Start = Callable[[Request, Endpoint], asyncio.Task[None]]
"""Sends a request in a task of its own."""


class Send(NamedTuple):
    """One send under way. Cancelling its task closes its connection."""

    request: Request
    endpoint: Endpoint
    task: asyncio.Task[None]


class Race(NamedTuple):
    """What a send of a hedged request knows of the other one; `rival` is None once that has failed."""

    first_sent_s: float
    rival: Send | None


class Hedging:
    """Who is in flight since when, who is due for a twin, and whose twin is whose. Every step costs the same, however
    many are in flight. `quantile` and `budget_share` are shares of 1, `now` is monotonic seconds.
    """

    def __init__(self, quantile: float, budget_share: float = BUDGET_SHARE) -> None:
        self._quantile = quantile
        self._budget_share = budget_share
        self._budget = 0.0
        self._threshold_s = inf
        self._alone: OrderedDict[Request, Send] = OrderedDict()  # its first entry is found in one step, a dict's is not
        self._races: dict[Request, Race] = {}
        self._unpaired: tuple[Request, Send] | None = None
        """A slow request and its hedge, while these are not paired yet."""

    def learn(self, counters: Counters) -> None:
        """Takes the threshold from the run's latencies so far. Those of hedged requests count from their first send:
        what was slower than the threshold stays so, and the quantile does not fall because of the twins.
        """
        latencies = counters.latency
        if latencies.count >= FEWEST_ANSWERS:
            self._threshold_s = latencies.quantile(self._quantile) or inf

    @property
    def due_s(self) -> float:
        """From when on the oldest request in flight is a straggler; infinity when no twin may go."""
        if self._budget < 1.0 or not self._alone:
            return inf
        oldest = next(iter(self._alone))
        return oldest.sent_s + self._threshold_s

    def wake_at(self, now: float) -> float:
        """When to look for stragglers, if nothing else leads to a look before."""
        due_s = self.due_s
        return due_s if due_s > now else now + LOOK_AGAIN_S

    def watch(self, send: Send) -> None:
        """It has been sent, not as a twin. A request gets one twin at most, however often it is sent."""
        self._budget = min(self._budget + self._budget_share, MOST_SAVED)
        if not send.request.hedged:
            self._alone[send.request] = send

    def send_twins(self, scheduler: Scheduler, counters: Counters, start: Start, now: float) -> None:
        """Sends stragglers once more, before the queue: with every slot in use nothing would be left for them, and
        the budget bounds what they take.
        """
        for straggler in self.stragglers(now):
            dispatch = scheduler.hedge(straggler.request, straggler.endpoint, now)
            if dispatch is None:
                continue
            hedge = Send(*dispatch, start(*dispatch))
            self._unpaired = straggler.request, hedge
            self.pair(straggler, hedge)
            self._unpaired = None
            counters.hedged += 1
            counters.endpoints[dispatch[1].index].sent += 1
            counters.last_sent_s = now

    def rivals(self) -> dict[Request, Send]:
        """Return the other send of each hedged request that is in flight; a pair stands there twice."""
        rivals = {request: race.rival for request, race in self._races.items() if race.rival is not None}
        return rivals if self._unpaired is None else {**rivals, self._unpaired[0]: self._unpaired[1]}

    def stragglers(self, now: float) -> Iterator[Send]:
        """Those that are due for a twin, the oldest first, while the budget lasts; each may be paired at once."""
        for send in list(islice(self._alone.values(), LOOKED_AT)):
            if self._budget < 1.0 or send.request.sent_s + self._threshold_s > now:
                return
            yield send

    def pair(self, straggler: Send, twin: Send) -> None:
        """The twin has been sent."""
        self._budget -= 1.0
        first_sent_s = straggler.request.sent_s
        for send, rival in ((straggler, twin), (twin, straggler)):
            send.request.hedged = True
            self._races[send.request] = Race(first_sent_s, rival)
        del self._alone[straggler.request]

    def won(self, request: Request) -> Race | None:
        """An answer to it came. Its race where it was hedged, whose rival has lost and is forgotten here, too."""
        race = self._forget(request)
        if race is not None and race.rival is not None:
            del self._races[race.rival.request]
        return race

    def yields(self, request: Request) -> bool:
        """It ended without an answer. Whether it leaves the line, and all that has happened to it, to its rival."""
        race = self._forget(request)
        if race is None or race.rival is None:
            return False
        rival = race.rival.request
        rival.attempts = request.attempts
        rival.unusable_replies = request.unusable_replies
        rival.ambiguous_sends = request.ambiguous_sends
        rival.failed_on = request.failed_on
        rival.refused_by = request.refused_by
        rival.rejections = max(rival.rejections, request.rejections)
        self._races[rival] = Race(race.first_sent_s, None)
        return True

    def _forget(self, request: Request) -> Race | None:
        self._alone.pop(request, None)
        return self._races.pop(request, None)
