"""Engine: carries every request from the lanes to its record: admit, send, judge, write or queue again.

There is no pool of workers. A task is started for a request that was admitted when nothing was at hand to carry it,
takes the next admitted one when it is done, and ends when there is none; so there are never more tasks than requests
in flight, and at full speed one request costs no task at all. One timer wakes the queue at the very moment when
somebody may go. With hedging, a straggler's twin goes before the queue, in a task of its own; it is told from other
requests only where a send ends.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from llmblast.errors import ExitCode
from llmblast.job.hedging import Hedging, Send
from llmblast.records import NO_TOKENS, Answer, Failure, Outcome, QuotaWord, Reply, Request, Success
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.sending import Action, Backoff, Channel, Verdict, judge, read_quotas
from llmblast.watching import Counters

MAX_QUEUED_BYTES = 8 * 1024 * 1024
QUEUED_PER_SLOT = 4
"""Lines read ahead for each request that may be in flight: a burst of replies must not find the lanes empty."""
_CUT_OFF_REASONS = ("length", "content_filter")


class Sink(Protocol):
    """Where outcomes go."""

    @property
    def is_full(self) -> bool: ...

    def put(self, outcome: Outcome) -> None: ...


class Engine:
    """Steps 4 to 8 of the flow. All state changes are synchronous; only the exchange itself is awaited."""

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
        gives_up: Callable[[Counters], bool],
        notice: Callable[[str], None] | None = None,
        hedging: Hedging | None = None,
    ) -> None:
        self.exit_code: ExitCode | None = None
        """Set when the run was stopped before its end, with `reason` in words."""
        self.reason = ""
        self._scheduler = scheduler
        self._channels = channels
        self._sink = sink
        self._backoff = backoff
        self._counters = counters
        self._clock = clock
        self._wall_clock = wall_clock
        self._max_in_flight = max_in_flight
        self._max_queued = max_in_flight * QUEUED_PER_SLOT
        self._gives_up = gives_up
        self._notice = notice
        self._hedging = hedging
        for endpoint, channel in zip(scheduler.endpoints, channels, strict=True):
            channel.on_late = partial(self._left_late, endpoint)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._feed_waits = False
        self.stopping = asyncio.Event()
        """Set once nothing more is sent."""
        self._done = asyncio.Event()
        self._introduced: set[Endpoint] = set()
        self._bug: BaseException | None = None

    @property
    def is_full(self) -> bool:
        """Whether the intake should wait."""
        lanes = self._scheduler.lanes
        return self._sink.is_full or len(lanes) >= self._max_queued or lanes.size_bytes >= MAX_QUEUED_BYTES

    @property
    def is_fed(self) -> bool:
        """Whether there is enough queued to let others run before more is read."""
        lanes = self._scheduler.lanes
        return len(lanes) >= self._max_in_flight or lanes.size_bytes >= MAX_QUEUED_BYTES

    def accept(self, request: Request) -> None:
        """Queues a request. Call `pump` after the last one of a batch."""
        self._scheduler.lanes.add(request)

    def refuse(self, failure: Failure) -> None:
        """Records a line that could not become a request."""
        self._counters.malformed += 1
        self._fail(failure)

    async def room(self) -> None:
        """Waits until the lanes are half empty, or the run stops."""
        while self.is_full and self.exit_code is None:
            self._room.clear()
            self._feed_waits = True
            await self._room.wait()
        self._feed_waits = False

    async def wait_until_done(self) -> None:
        """Waits until nothing is queued or in flight any more, or the run stopped and nothing is in flight."""
        self._check_done()
        await self._done.wait()
        if self._bug is not None:
            raise self._bug

    def stop(self, exit_code: ExitCode, reason: str) -> None:
        """Sends nothing more; what is in flight may finish. The first reason counts."""
        if self.exit_code is None:
            self.exit_code, self.reason = exit_code, reason
        self.stopping.set()
        self._room.set()
        self._check_done()

    async def cut_short(self) -> None:
        """Abandons what is in flight: those lines have no record and run again."""
        self._counters.abandoned += len(self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._done.set()

    def unreachable(self, index: int) -> None:
        """No connection to an endpoint could be opened ahead: only probes go there, instead of the first crowd."""
        self._scheduler.endpoints[index].breaker.trip(self._clock())

    def pump(self) -> None:
        """Starts everything that may go now."""
        now = self._clock()
        if self._counters.first_sent_s is None:
            self._counters.first_sent_s = now
        while (dispatch := self._next(now)) is not None:
            task = self._start(*dispatch)
            if self._hedging is not None:
                self._hedging.watch(Send(*dispatch, task))

    def refresh_counters(self) -> None:
        """Brings totals and gauges up to date, and what hedging knows of latencies: looked at a few times a second, not
        counted at every request.
        """
        counters = self._counters
        for mine, endpoint in zip(counters.endpoints, self._scheduler.endpoints, strict=True):
            mine.in_flight = endpoint.in_flight
            mine.state = endpoint.state(self._clock())
        counters.sent = sum(mine.sent for mine in counters.endpoints)
        counters.in_flight = len(self._tasks)
        counters.queued = len(self._scheduler.lanes)
        if self._hedging is not None:
            self._hedging.learn(counters)
            self._arm(self._clock())

    def _start(self, request: Request, endpoint: Endpoint) -> asyncio.Task[None]:
        task = self._loop.create_task(self._carry(request, endpoint))
        self._tasks.add(task)
        task.add_done_callback(self._carried)
        return task

    def _next(self, now: float) -> tuple[Request, Endpoint] | None:
        if self.exit_code is not None or self._sink.is_full:
            return None
        if self._hedging is not None and self._hedging.due_s <= now:
            self._hedge(self._hedging, now)
        dispatch = self._scheduler.next(now)
        if dispatch is None:
            self._arm(now)
        else:
            self._counters.endpoints[dispatch[1].index].sent += 1
            self._counters.last_sent_s = now
        if self._feed_waits and self._is_half_empty():
            self._room.set()
        return dispatch

    def _hedge(self, hedging: Hedging, now: float) -> None:
        """Sends stragglers once more, before the queue: with every slot in use nothing would be left for them, and
        the budget bounds what they take.
        """
        for straggler in hedging.stragglers(now):
            dispatch = self._scheduler.hedge(straggler.request, straggler.endpoint, now)
            if dispatch is None:
                continue
            hedging.pair(straggler, Send(*dispatch, self._start(*dispatch)))
            self._counters.hedged += 1
            self._counters.endpoints[dispatch[1].index].sent += 1
            self._counters.last_sent_s = now

    def _is_half_empty(self) -> bool:
        lanes = self._scheduler.lanes
        return len(lanes) * 2 <= self._max_queued and lanes.size_bytes * 2 <= MAX_QUEUED_BYTES

    def _arm(self, now: float) -> None:
        """Sets the one timer, rounded up to the loop's resolution of 1 ms: too early would only mean waking twice."""
        wake_at = self._scheduler.wake_at
        if self._hedging is not None:
            wake_at = min(wake_at, self._hedging.wake_at(now))
        if wake_at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = wake_at
        if wake_at != math.inf:
            delay_ms = math.ceil(max(wake_at - now, 0.0) * 1000)
            self._timer = self._loop.call_later(delay_ms / 1000, self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self.pump()

    async def _carry(self, request: Request, endpoint: Endpoint) -> None:
        while True:
            reply = await self._channels[endpoint.index].send(request)
            now = self._clock()
            self._conclude(request, endpoint, reply, now)
            dispatch = self._next(now)
            if dispatch is None:
                return
            request, endpoint = dispatch
            if self._hedging is not None:
                self._hedging.watch(Send(request, endpoint, _this_task()))
            if len(self._tasks) < self._max_in_flight and self._scheduler.lanes:
                self.pump()  # a settlement or a lifted pause may let more than one go

    def _left_late(self, endpoint: Endpoint, request: Request) -> None:
        self._scheduler.left_late(request, endpoint, self._clock())

    def _carried(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bug = error
            self.stop(ExitCode.OUTPUT_FAILED, "internal error")
        self._check_done()

    def _check_done(self) -> None:
        is_drained = self.exit_code is not None or (self._counters.input_ended and not self._scheduler.lanes)
        if is_drained and not self._tasks:
            self._done.set()

    def _conclude(self, request: Request, endpoint: Endpoint, reply: Reply, now: float) -> None:
        reply.latency_s = now - request.sent_s
        if reply.cause is None:
            endpoint.breaker.answered()
        wall_now_s = self._wall_clock()
        if reply.headers and endpoint.listens(now):
            words = read_quotas(reply.headers, wall_now_s)
            self._scheduler.heard(request, endpoint, words, now)
            if self._notice is not None and endpoint not in self._introduced:
                self._introduced.add(endpoint)
                self._tell_limits(endpoint, words, self._notice)
        verdict = judge(request, reply, wall_now_s)
        if isinstance(verdict, Answer):
            self._scheduler.answered(request, endpoint, reply.latency_s)
            self._scheduler.release(request, endpoint, endpoint.estimator.charged(request, verdict), now)
            self._succeed(request, endpoint, reply, verdict)
        else:
            self._scheduler.release(request, endpoint, request.tokens_paid if verdict.was_used else NO_TOKENS, now)
            self._handle(request, endpoint, reply, verdict, now)

    def _tell_limits(self, endpoint: Endpoint, words: Sequence[QuotaWord], notice: Callable[[str], None]) -> None:
        """What a provider says of its limits in its first reply, for whoever has to choose ours."""
        for word in words:
            if word.limit is not None:
                left = "" if word.remaining is None else f", {word.remaining:,g} left"
                notice(f"{endpoint.name}: the provider tells a limit of {word.limit:,g} {word.kind}{left}")

    def _succeed(self, request: Request, endpoint: Endpoint, reply: Reply, answer: Answer) -> None:
        request.attempts += 1
        if self._hedging is not None:
            self._end_race(request, reply, self._hedging)
        counters = self._counters
        counters.succeeded += 1
        if answer.finish_reason in _CUT_OFF_REASONS:
            counters.flagged += 1
        mine = counters.endpoints[endpoint.index]
        mine.succeeded += 1
        mine.latency.add(reply.latency_s)
        if answer.prompt_tokens is not None and answer.completion_tokens is not None:
            counters.prompt_tokens += answer.prompt_tokens
            counters.completion_tokens += answer.completion_tokens
            mine.tokens += answer.prompt_tokens + answer.completion_tokens
            if self._scheduler.counts_tokens:
                endpoint.estimator.learn(request, answer)
        self._sink.put(Success(request, answer, reply, endpoint.name))

    def _end_race(self, winner: Request, reply: Reply, hedging: Hedging) -> None:
        """Cancels the other send of a hedged request. The latency becomes the line's: it counts from the first send."""
        race = hedging.won(winner)
        if race is None:
            return
        now = winner.sent_s + reply.latency_s
        reply.latency_s = now - race.first_sent_s
        if race.rival is None:
            return
        loser, endpoint, task = race.rival
        self._scheduler.release(loser, endpoint, loser.tokens_paid, now)
        endpoint.passed_over(loser.sent_s, now)
        winner.ambiguous_sends += 1
        self._counters.maybe_billed += 1
        task.add_done_callback(lambda _: self.pump())  # its slot is free now
        task.cancel()

    def _handle(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float) -> None:
        """Everything that is no success."""
        mine = self._counters.endpoints[endpoint.index]
        if verdict.action is Action.COOL_DOWN:
            self._counters.rate_limited += 1
            mine.rate_limited += 1
        elif verdict.action is not Action.RESEND:
            mine.errors += 1
            endpoint.observe_failure()
        is_first = not request.failed_on & endpoint.bit
        request.failed_on |= endpoint.bit
        if verdict.was_used:
            self._note_use(request, reply)
        if self._notice is not None:
            self._notice(f"line {request.number}: {endpoint.name}: {verdict.action.name}: {verdict.message}")
        if verdict.blames_endpoint and not endpoint.answers:
            self._disable(endpoint, f"{verdict.message}; it never gave an answer: are its URL and its model right?")
            self._again(request, now)
            return
        match verdict.action:
            case Action.COOL_DOWN:
                self._cool_down(request, endpoint, verdict, now)
                self._again(request, now)
            case Action.RESEND:
                endpoint.passed_over(request.sent_s, now)
                request.resent = True
                self._again(request, now)
            case Action.NOT_SENT:
                endpoint.unreachable(request.sent_s, now)
                self._again(request, now)
                self._check_reachable(verdict)
            case Action.DISABLE:
                self._disable(endpoint, verdict.message)
                self._again(request, now)
            case _:
                if verdict.transient:
                    self._scheduler.failed(request, endpoint, now, is_first=is_first)
                else:
                    endpoint.refused(request.sent_s, now)
                self._retry_or_fail(request, endpoint, reply, verdict, now)

    def _note_use(self, request: Request, reply: Reply) -> None:
        self._counters.maybe_billed += 1
        if reply.cause is None:
            request.unusable_replies += 1
        else:
            request.ambiguous_sends += 1

    def _cool_down(self, request: Request, endpoint: Endpoint, verdict: Verdict, now: float) -> None:
        """Pauses the endpoint and its quota group, until the moment that the provider names or by backoff."""
        endpoint.cool_down.rejected(request.sent_s)
        wait_s = verdict.wait_s
        if wait_s is None:
            wait_s = self._backoff.cool_down_s(endpoint.cool_down.in_a_row)
        endpoint.rejected(request.sent_s, wait_s, now)

    def _disable(self, endpoint: Endpoint, reason: str) -> None:
        self._scheduler.disable(endpoint, reason)
        if self._scheduler.is_exhausted:
            self.stop(ExitCode.REFUSED, f"every endpoint refuses us; the last one, {endpoint.name}: {reason}")

    def _check_reachable(self, verdict: Verdict) -> None:
        """An endpoint that has answered before is waited for; when none ever did, somebody has to look."""
        enabled = [endpoint for endpoint in self._scheduler.endpoints if endpoint.disabled is None]
        if all(endpoint.breaker.is_open for endpoint in enabled) and not any(e.breaker.has_answered for e in enabled):
            self.stop(ExitCode.REFUSED, f"no endpoint can be reached: {verdict.message}")

    def _retry_or_fail(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float) -> None:
        request.attempts += 1
        if self._is_left_to_its_rival(request):
            return
        if verdict.action is Action.RETRY and not self._backoff.gives_up(request.attempts):
            wait_s = self._backoff.retry_wait_s(request.attempts, was_used=verdict.was_used)
            self._again(request, now + max(wait_s, verdict.wait_s or 0.0), has_failed=True)
            return
        self._fail(
            Failure(
                line=request,
                error=verdict.message,
                code=verdict.code,
                status=reply.status,
                transient=verdict.transient,
                endpoint=endpoint.name,
                attempts=request.attempts,
                maybe_billed=request.ambiguous_sends + request.unusable_replies,
                body=reply.body if verdict.keeps_body else b"",
            )
        )

    def _again(self, request: Request, due_s: float, *, has_failed: bool = False) -> None:
        if self._is_left_to_its_rival(request):
            return
        self._counters.retries += 1
        self._scheduler.lanes.add_retry(request, due_s, has_failed=has_failed)

    def _is_left_to_its_rival(self, request: Request) -> bool:
        return self._hedging is not None and self._hedging.yields(request)

    def _fail(self, failure: Failure) -> None:
        self._counters.failed += 1
        self._counters.count_error(failure.code, failure.line.number, failure.error)
        self._sink.put(failure)
        if self._gives_up(self._counters):
            self.stop(ExitCode.GAVE_UP, f"{self._counters.failed:,} lines failed, more than --max-errors allows")


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task
