"""Engine: carries every request from the queue to its end: admit, send, handle the reply.

`Scheduler` says which request may go, `Sender` sends it, `ResponseHandler` decides what follows from its reply. One
timer wakes the queue at the very moment when the next request may go. With hedging, the hedge of a slow request goes
before the queue.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Final

from llmblast.errors import ExitCode
from llmblast.fence import Fence
from llmblast.job.back_pressure import BackPressure, Sink
from llmblast.job.deadlines import Deadlines
from llmblast.job.decisions import Decisions, RenewKey, Retry, SendNext, Stop
from llmblast.job.departures import Departures
from llmblast.job.hedged_sends import HedgedSends
from llmblast.job.hedging import Hedging
from llmblast.job.key_refresh import KeyRenewal
from llmblast.job.line_ends import LineEnds
from llmblast.job.refused_lines import RefusedLines
from llmblast.job.response_handler import ResponseHandler
from llmblast.job.run_end import RunEnd
from llmblast.job.sender import Dispatch, Sender
from llmblast.job.wait_limit import WaitLimit
from llmblast.job.wake_up import WakeUp
from llmblast.models import Attempt, Failure, Reply, Request
from llmblast.provider_contract import Provider
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.scheduling import Endpoint, PrefixFinder, Scheduler, WarmPrefixes
from llmblast.sending import Backoff, Channel, EndpointKey
from llmblast.watching import Counters

if TYPE_CHECKING:
    from llmblast.job.answer_review import AnswerRules
    from llmblast.job.flex_tier import FlexTier

DEFAULT_MAX_WAIT_S = 900.0
_NOT_2XX: Final = 300


class Engine:
    """Steps 4 to 7 of the flow. All state changes are synchronous; only the exchange itself is awaited.

    These callbacks reach it, all of them handed over at construction: `dispatch_ready` from the timer and when a hedged
    request's other send was cancelled; from `Sender` `_on_reply`, `_handle_reply_and_dispatch_next` and `_on_task_end`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        channels: Sequence[Channel],
        sink: Sink,
        backoff: Backoff,
        counters: Counters,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        max_in_flight: int,
        max_wait_s: float = DEFAULT_MAX_WAIT_S,
        keys: Sequence[EndpointKey] = (),
        providers: Sequence[Provider] = (),
        gives_up: Callable[[Counters], bool],
        notice: Callable[[str], None] | None = None,
        hedging: Hedging | None = None,
        fence: Fence | None = None,
        report_defect: Callable[[BaseException], str] = repr,
        answer_rules: "AnswerRules | None" = None,
        prefixes: PrefixFinder | None = None,
        flex: "FlexTier | None" = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        fence = fence or Fence()
        self.end = RunEnd(report_defect)
        self.wait_limit = WaitLimit(scheduler, wall_clock, max_wait_s)
        self._scheduler = scheduler
        self._sink = sink
        self._counters = counters
        self._clock = clock
        self._pressure = BackPressure(sink, scheduler.queue, max_in_flight)
        self._warm = (
            None
            if prefixes is None
            else WarmPrefixes(
                prefixes,
                scheduler.queue,
                clock,
                wall_clock,
                max_in_flight,
                cached_tokens=lambda: counters.cached_tokens,
            )
        )
        self._hedges = HedgedSends(hedging, scheduler, counters, clock, fence, on_slot_free=self.dispatch_ready)
        line_ends = LineEnds(scheduler, sink, counters, gives_up, self._hedges, fence, deadlines)
        self._handler = ResponseHandler(
            scheduler,
            line_ends,
            RefusedLines(scheduler, line_ends, self._hedges),
            backoff,
            counters,
            self._hedges,
            KeyRenewal(keys, channels),
            providers or [DEFAULT_PROVIDER] * len(channels),
            notice,
            wall_clock,
            max_wait_s,
            fence,
        )
        self._handler.flex = flex
        self._wake_up = WakeUp(self.dispatch_ready, clock, is_precise=scheduler.is_even)
        self._departures = Departures(scheduler, clock, self._wake_up)
        self._sender = Sender(
            scheduler.endpoints,
            channels,
            self._departures,
            self._hedges,
            on_reply=self._on_reply,
            next_after=self._handle_reply_and_dispatch_next,
            on_task_end=self._on_task_end,
        )
        if answer_rules is not None:
            from llmblast.job.answer_review import AnswerReview  # noqa: PLC0415 -- most runs judge no answers

            self._handler.review = AnswerReview(
                answer_rules, scheduler, line_ends, counters, self._sender.run_task, self._on_late_decisions
            )
        self._done = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """The reader should wait."""
        return self._pressure.is_full

    @property
    def is_full_of_deferred(self) -> bool:
        """No more deferred lines should come, be it from a reader or from elsewhere."""
        return self._pressure.is_full_of_deferred

    @property
    def has_endpoints(self) -> bool:
        """Some endpoint is left that may take requests."""
        return not self._scheduler.pool.is_exhausted

    @property
    def is_draining(self) -> bool:
        """Return whether nothing is left to send: what is in flight is the rest of the run."""
        is_stopped = self.end.exit_code is not None
        return is_stopped or (self._counters.input_ended and not len(self._scheduler.queue))

    def accept(self, request: Request) -> None:
        """Queue a request. Call `dispatch_ready` after the last one of a batch."""
        attempt = Attempt(request)
        if self._handler.flex is not None:
            self._handler.flex.mark(attempt)
        if self._warm is None or len(request.body) < self._warm.least_bytes:
            self._scheduler.queue.add(attempt)
        else:
            self._warm.add(attempt, self._scheduler.in_flight)

    def refuse(self, failure: Failure) -> None:
        """Record a line that could not become a request."""
        self._counters.malformed += 1
        self._carry_out(self._handler.line_ends.record_failure(failure))

    def on_batch_reply(self, request: Request, index: int, reply: Reply) -> bool:
        """Handle the reply of a batch at the endpoint with this index. Return False where the line is to be sent
        directly.
        """
        decisions = self._handler.on_batch_reply(Attempt(request), self._scheduler.endpoints[index], reply)
        if decisions is None:
            return False
        self._carry_out(decisions)
        if decisions:
            self.dispatch_ready()
        return True

    def run_task(self, work: Coroutine[None, None, None]) -> None:
        """Run a task that the run waits for, such as one that waits for batches."""
        self._sender.run_task(work)

    def leave_pending(self, lines: int, waits_for: str) -> None:
        """Leave lines to another run; `waits_for` is the reason, in words."""
        self._counters.left_pending += lines
        self._handler.line_ends.waits_for = waits_for

    async def room(self, *, is_deferred: bool = False) -> None:
        """Wait until the queue's part for such lines is half empty and there is memory for more, or the run stops."""
        await self._pressure.wait_for_room(is_deferred=is_deferred)

    def lift_pressure(self, on_sent: Callable[[Request], None]) -> None:
        """Hold no reader back any more: lines wait on disk. `on_sent` is called for each request that is sent."""
        self._pressure.on_sent = on_sent
        self._pressure.lift()

    def end_immediate(self) -> None:
        """Expect no more immediate lines."""
        self._scheduler.end_immediate()

    async def wait_until_done(self) -> None:
        """Wait until nothing is queued or in flight any more, or the run stopped and nothing is in flight."""
        self._check_done()
        await self._done.wait()
        if count := self._counters.left_pending:
            what = "1 line waits" if count == 1 else f"{count:,} lines wait"
            self.stop(ExitCode.STOPPED, f"{what} for {self._handler.line_ends.waits_for}")

    def fail_internal(self, defect: BaseException) -> None:
        """End the run because of a defect of ours: send nothing more; replies to requests in flight are still handled,
        as far as the defect allows.
        """
        self.end.on_defect(defect)
        self._on_stop()

    def stop(self, exit_code: ExitCode, reason: str) -> None:
        """Send nothing more; requests in flight may finish. The first reason counts."""
        self.end.stop(exit_code, reason)
        self._on_stop()

    async def abort_in_flight(self) -> None:
        """Abandon the requests in flight: their lines have no record and run again."""
        self._counters.abandoned += self._scheduler.abandon()
        self._wake_up.close()
        await self._sender.abort()
        self._done.set()

    def unreachable(self, index: int, why: str) -> None:
        """Send only probes to an endpoint to which no connection could be opened ahead, instead of the first crowd."""
        self._scheduler.endpoints[index].trip(why, self._clock())

    def dispatch_ready(self) -> None:
        """Send every request that may go now."""
        now = self._clock()
        if self._counters.first_sent_s is None:
            self._counters.first_sent_s = now
        try:
            if self._departures.next_s <= now:
                self._departures.let_leave(now)
            if self._warm is not None and self._scheduler.queue.held:
                self._warm.release_due(now)
            while (dispatch := self._next(now)) is not None:
                attempt, endpoint = dispatch  # `*dispatch` would be a slow call where this is compiled
                if not self._sender.try_send(attempt, endpoint):
                    self._sender.send_in_task(attempt, endpoint)
        except Exception as error:  # noqa: BLE001 -- a timer's call, say, would lose it
            self.fail_internal(error)

    def refresh_counters(self) -> None:
        """Bring totals and gauges up to date, and the latencies that hedging knows: looked at a few times a second, not
        counted at every request.
        """
        counters = self._counters
        for mine, endpoint in zip(counters.endpoints, self._scheduler.endpoints, strict=True):
            mine.in_flight = endpoint.traffic.in_flight
            mine.state = endpoint.state(self._clock())
        counters.sent = sum(mine.sent for mine in counters.endpoints)
        counters.retries = self._scheduler.queue.retried
        counters.in_flight = self._scheduler.in_flight
        counters.queued = len(self._scheduler.queue)
        if self._hedges.is_on:
            self._hedges.learn()
            self._arm(self._clock())

    def check_waits(self) -> None:
        """Decide on lines that have waited for too long. Called a few times a second."""
        if self.end.exit_code is not None:
            return
        now, refused = self._clock(), self._handler.refused
        has_suspects = bool(refused.suspects)
        if has_suspects:
            self._carry_out(refused.decide_timed_out(now))
        blocked = self.wait_limit.check(now)
        self._carry_out(blocked.decisions)
        if blocked.has_new or has_suspects:
            self.dispatch_ready()

    def _next(self, now: float) -> Dispatch | None:
        if self.end.exit_code is not None:
            return None
        if self._sink.is_full:
            self._scheduler.wait_for_output(now)
            return None
        if self._hedges.is_on:
            self._hedges.send_due(self._sender.send_in_task, now)
        dispatch = self._scheduler.next(now)
        if self._scheduler.unsendable:
            self._give_up_unsendable()
        if dispatch is None:
            self._arm(now)
        else:
            self._counters.endpoints[dispatch[1].index].sent += 1
            self._counters.last_sent_s = now
            if self._pressure.on_sent is not None:
                self._pressure.on_sent(dispatch[0].request)
        if self._pressure.reader_waiting:
            self._pressure.wake_reader()
        return dispatch

    def _give_up_unsendable(self) -> None:
        unsendable = self._scheduler.unsendable
        while unsendable:
            attempt = unsendable.popleft()
            self._carry_out(self._handler.line_ends.give_up_unsendable(attempt))
            if self._warm is not None:
                self._warm.on_unsendable(attempt)
        self._check_done()

    def _arm(self, now: float) -> None:
        """Set the one timer."""
        wake_at = self._departures.next_s
        if self.end.exit_code is None and not self._sink.is_full:
            wake_at = min(wake_at, self._scheduler.wake_at)
            if self._hedges.is_on:
                wake_at = min(wake_at, self._hedges.wake_at(now))
            if self._warm is not None and (self._scheduler.queue.held or self._warm.is_idle):
                wake_at = min(wake_at, self._warm.wake_at(now, self._scheduler.in_flight))
        self._wake_up.set(wake_at, now)

    def _on_reply(self, endpoint: Endpoint, attempt: Attempt, reply: Reply) -> None:
        try:
            dispatch = self._handle_reply_and_dispatch_next(attempt, endpoint, reply)
            if dispatch is not None:
                self._sender.send_in_task(*dispatch)
        except Exception as error:  # noqa: BLE001 -- no task would hold it
            self.fail_internal(error)
        if not self._scheduler.in_flight or self.end.defect is not None:
            self._check_done()

    def _handle_reply_and_dispatch_next(self, attempt: Attempt, endpoint: Endpoint, reply: Reply) -> Dispatch | None:
        """Send the next request in the place of the one that has ended, or more, since a settlement or a lifted pause
        may let more than one go. Return one that still needs a task.
        """
        now = self._clock()
        decisions = self._handler.on_reply(attempt, endpoint, reply, now)
        if decisions:
            self._carry_out(decisions)
        if attempt.prefix is not None and self._warm is not None:
            self._warm.on_reply(attempt, endpoint, is_answered=reply.cause is None and reply.status < _NOT_2XX)
        if not self._scheduler.queue and not self._hedges.is_on:
            if self._scheduler.queue.held:
                self._arm(now)
            if self._pressure.reader_waiting:
                self._pressure.wake_reader()
            return None
        dispatch = self._next(now)
        if dispatch is None:
            return None
        next_attempt, next_endpoint = dispatch
        is_sent = self._sender.try_send(next_attempt, next_endpoint)
        if self._scheduler.in_flight < self._pressure.max_in_flight and self._scheduler.queue:
            self.dispatch_ready()
        return None if is_sent else dispatch

    def _carry_out(self, decisions: Decisions) -> None:
        for decision in decisions:
            match decision:
                case Retry():
                    self._scheduler.queue.add_retry(decision.attempt, decision.due_s, has_failed=decision.has_failed)
                case SendNext():
                    self._scheduler.queue.add_next(decision.attempt)
                case Stop():
                    self.stop(decision.exit_code, decision.reason)
                case RenewKey():
                    self._sender.run_task(self._renew_key(decision.endpoint))

    def _on_late_decisions(self, decisions: Decisions) -> None:
        """Carry out what follows from an answer whose check took time, and go on: there is room for one more."""
        self._carry_out(decisions)
        if self._pressure.reader_waiting:
            self._pressure.wake_reader()
        self.dispatch_ready()

    async def _renew_key(self, endpoint: Endpoint) -> None:
        await self._handler.keys.renew(endpoint)
        self.dispatch_ready()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail_internal(error)
        self._check_done()

    def _on_stop(self) -> None:
        self._pressure.lift()
        self._check_done()

    def _check_done(self) -> None:
        if self._is_quiet and self.end.exit_code is None and self._handler.refused.suspects:
            try:
                self._carry_out(self._handler.refused.decide_all())
            except Exception as error:  # noqa: BLE001 -- the caller only asks whether all is done
                self.fail_internal(error)
            self.dispatch_ready()
        if self._is_quiet and self._scheduler.queue.held and self._warm is not None and self.end.exit_code is None:
            self._warm.release_all()
            self.dispatch_ready()
        if self._is_quiet or (self.end.exit_code is not None and not self._is_under_way):
            self._done.set()

    @property
    def _is_under_way(self) -> bool:
        """After a defect only tasks and channels know: a request that failed half-way counts as in flight for ever."""
        if self.end.defect is None:
            return bool(self._sender.has_tasks or self._scheduler.in_flight)
        return self._sender.is_busy

    @property
    def _is_quiet(self) -> bool:
        """Nothing is under way or queued, and no more lines come."""
        return not self._is_under_way and self._counters.input_ended and not self._scheduler.queue
