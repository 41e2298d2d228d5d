"""A run without sockets, processes and real time: Scheduler, ResponseHandler and WaitLimit on a fake clock."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

from llmblast.errors import ExitCode
from llmblast.fence import Fence
from llmblast.job.decisions import Decisions, Retry, SendNext, Stop
from llmblast.job.hedged_sends import HedgedSends
from llmblast.job.key_refresh import KeyRenewal
from llmblast.job.line_ends import LineEnds
from llmblast.job.refused_lines import RefusedLines
from llmblast.job.response_handler import ResponseHandler
from llmblast.job.wait_limit import WaitLimit
from llmblast.models import Attempt, Failure, Line, Outcome, Reply, Request, Success
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.scheduling import Endpoint
from llmblast.sending import Backoff
from llmblast.watching import Counters, EndpointCounters
from tests.scheduling.scheduling_samples import EndpointOptions, Levels, make_attempt, make_scheduler

TEND_S = 0.2
MAX_EVENTS = 200_000
ANSWER = b'{"choices":[{"message":{"content":"yes"},"finish_reason":"stop"}]}'


@dataclass(frozen=True)
class Replied:
    """What a request meets, and after how many seconds."""

    status: int = 200
    body: bytes = ANSWER
    headers: dict[bytes, bytes] = field(default_factory=dict)
    latency_s: float = 0.05


Provider = Callable[[Request, Endpoint, float], Replied]


def say(status: int, message: str = "", latency_s: float = 0.001, retry_after: str = "", code: str = "") -> Replied:
    """An error reply."""
    body = b'{"error":{"message":"%s","code":"%s"}}' % (message.encode(), code.encode())
    headers = {b"retry-after": retry_after.encode()} if retry_after else {}
    return Replied(status, body, headers, latency_s)


class Run:
    """Sends all lines to endpoints that reply as `provider` says. `outcomes` are the records in their order."""

    def __init__(
        self,
        provider: Provider,
        endpoints: Sequence[EndpointOptions] = ({},),
        *,
        concurrency: int = 4,
        max_wait_s: float = 900.0,
        max_attempts: int = 5,
        **levels: float,
    ) -> None:
        self.now = 1000.0
        self.outcomes: list[Outcome] = []
        self.ended_s: list[float] = []
        """When each of the outcomes came."""
        self.sends: list[tuple[float, int, int]] = []
        """Moment, line and endpoint of each send."""
        self.exit_code: ExitCode | None = None
        self.reason = ""
        self.is_full = False
        named: Levels = {"concurrency": concurrency, **levels}  # type: ignore[typeddict-item] # the caller's
        self.scheduler = make_scheduler(endpoints, **named)
        counters = Counters(endpoints=[EndpointCounters(e.name) for e in self.scheduler.endpoints])
        fence = Fence()
        hedges = HedgedSends(None, self.scheduler, counters, lambda: self.now, fence, on_slot_free=lambda: None)
        self.line_ends = LineEnds(self.scheduler, self, counters, lambda counters: False, hedges, fence)
        self.refused = RefusedLines(self.scheduler, self.line_ends, hedges)
        self.handler = ResponseHandler(
            self.scheduler,
            self.line_ends,
            self.refused,
            Backoff(max_attempts, Random(0)),
            counters,
            hedges,
            KeyRenewal((), ()),
            [DEFAULT_PROVIDER] * len(self.scheduler.endpoints),
            None,
            lambda: 1.8e9 + self.now,
            max_wait_s,
            fence,
        )
        self.wait_limit = WaitLimit(self.scheduler, lambda: 1.8e9 + self.now, max_wait_s)
        self._provider = provider
        self._flights: list[tuple[float, int, Attempt, Endpoint, Replied]] = []
        self._order = count()
        self._next_tend_s = self.now + TEND_S
        self.events = 0

    def leave_out(self, line: Line) -> None:
        """Nothing waits for it."""

    def put(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.ended_s.append(self.now)

    @property
    def answered(self) -> list[int]:
        return sorted(outcome.request.number for outcome in self.outcomes if isinstance(outcome, Success))

    @property
    def failures(self) -> list[Failure]:
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failure)]

    @property
    def failed(self) -> list[int]:
        return sorted(failure.line.number for failure in self.failures)

    def run(
        self, lines: int, models: Callable[[int], str | None] = lambda number: None, stays_open_s: float = 0.0
    ) -> None:
        """Run lines 1, 2, ..., each naming a model or none; the input stays open for so long after the last one."""
        for number in range(1, lines + 1):
            self.scheduler.queue.add(make_attempt(number, model=models(number)))
        end_s = self.now + stays_open_s
        while self.exit_code is None or self._flights:
            self._admit()
            is_idle = not self._flights and not self.scheduler.queue
            if is_idle and self.refused.suspects and self.now >= end_s and self.exit_code is None:
                self._carry_out(self.refused.decide_all())
                continue
            if is_idle and not self.refused.suspects:
                return
            self._go_on()

    def _go_on(self) -> None:
        self.events += 1
        assert self.events < MAX_EVENTS, "the run does not come to its end"
        reply_s = self._flights[0][0] if self._flights else math.inf
        wake_at = self.scheduler.wake_at if self.exit_code is None else math.inf
        self.now = max(self.now, min(reply_s, wake_at, self._next_tend_s))
        if self.now >= self._next_tend_s:
            self._next_tend_s = self.now + TEND_S
            if self.exit_code is None:
                self._carry_out(self.refused.decide_timed_out(self.now))
                self._carry_out(self.wait_limit.check(self.now).decisions)
        elif self.now >= reply_s:
            self._land()

    def _admit(self) -> None:
        while self.exit_code is None and (dispatch := self._next()) is not None:
            attempt, endpoint = dispatch
            self.sends.append((self.now, attempt.request.number, endpoint.index))
            replied = self._provider(attempt.request, endpoint, self.now)
            heapq.heappush(self._flights, (self.now + replied.latency_s, next(self._order), attempt, endpoint, replied))

    def _next(self) -> tuple[Attempt, Endpoint] | None:
        dispatch = self.scheduler.next(self.now)
        while self.scheduler.unsendable:
            self._carry_out(self.line_ends.give_up_unsendable(self.scheduler.unsendable.popleft()))
        return dispatch

    def _land(self) -> None:
        _, _, attempt, endpoint, replied = heapq.heappop(self._flights)
        reply = Reply(replied.status, replied.headers, replied.body)
        self._carry_out(self.handler.on_reply(attempt, endpoint, reply, self.now))

    def _carry_out(self, decisions: Decisions) -> None:
        for decision in decisions:
            if isinstance(decision, Retry):
                self.scheduler.queue.add_retry(decision.attempt, decision.due_s, has_failed=decision.has_failed)
            elif isinstance(decision, SendNext):
                self.scheduler.queue.add_next(decision.attempt)
            elif isinstance(decision, Stop) and self.exit_code is None:
                self.exit_code, self.reason = decision.exit_code, decision.reason
