"""Engine: carries every request from the lanes to its end: admit, send, judge. `ResponseHandler` decides what follows.

There is no pool of workers, and at full speed no task either: what was admitted is sent on a connection that is at
hand, and its reply sends the next one. A task carries what has to wait for a connection first, and what hedging may
have to cancel. One timer wakes the queue at the very moment when somebody may go. With hedging, a straggler's twin goes
before the queue.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from llmblast.errors import ExitCode
from llmblast.job.hedging import Hedging, Send
from llmblast.job.response_handler import ResponseHandler, Sink
from llmblast.records import NO_TOKENS, Answer, Failure, Reply, Request
from llmblast.scheduling import Endpoint, OwnModel, Scheduler
from llmblast.sending import Backoff, Channel, judge
from llmblast.watching import Counters, duration

MAX_QUEUED_BYTES = 8 * 1024 * 1024
MAX_HELD_BYTES = 256 * 1024 * 1024
"""Of all that was read and has no record yet. What is in flight is bounded here, where lines come in, since that costs
the sends nothing: with so much under way none is read, and none goes, until another one has come to its end.
"""
DEFAULT_MAX_WAIT_S = 900.0
QUEUED_PER_SLOT = 4
MIN_QUEUED = 64
"""Lines read ahead for each request that may be in flight: a burst of replies must not find the lanes empty."""


class Engine:
    """Steps 4 to 7 of the flow. All state changes are synchronous; only the exchange itself is awaited."""

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
        self._counters = counters
        self._clock = clock
        self._wall_clock = wall_clock
        self._max_in_flight = max_in_flight
        self._max_queued = max(max_in_flight * QUEUED_PER_SLOT, MIN_QUEUED)
        self._hedging = hedging
        self._max_wait_s = max_wait_s
        self.ends_s = math.inf
        """When `--max-time` is over, in monotonic seconds."""
        self._handler = ResponseHandler(
            scheduler, sink, backoff, counters, self.stop, gives_up, notice, hedging, max_wait_s
        )
        for endpoint, channel in zip(scheduler.endpoints, channels, strict=True):
            channel.on_late = partial(self._left_late, endpoint)
            channel.on_reply = partial(self._replied, endpoint)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._feed_waits = False
        self.stopping = asyncio.Event()
        """Set once nothing more is sent."""
        self._done = asyncio.Event()
        self._bug: BaseException | None = None

    @property
    def is_full(self) -> bool:
        """Whether the intake should wait."""
        return self._sink.is_full or len(self._scheduler.lanes) >= self._max_queued or self._holds_much()

    def accept(self, request: Request) -> None:
        """Queues a request. Call `pump` after the last one of a batch."""
        self._scheduler.lanes.add(request)

    def refuse(self, failure: Failure) -> None:
        """Records a line that could not become a request."""
        self._counters.malformed += 1
        self._handler.fail(failure)

    async def room(self) -> None:
        """Waits until the lanes are half empty and there is memory for more, or the run stops."""
        while self.is_full and self.exit_code is None:
            self._room.clear()
            self._feed_waits = True
            await self._room.wait()
        self._feed_waits = False

    async def wait_until_done(self) -> None:
        """Waits until nothing is queued or in flight any more, or the run stopped and nothing is in flight."""
        self._check_done()
        await self._done.wait()
        if self._counters.left_pending:
            count = self._counters.left_pending
            what = "1 line waits" if count == 1 else f"{count:,} lines wait"
            self.stop(ExitCode.STOPPED, f"{what} for {self._handler.waits_for}")
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
        self._counters.abandoned += self._scheduler.abandon()
        for task in self._tasks:
            task.cancel()
        for channel in self._channels:
            channel.abandon()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._done.set()

    def unreachable(self, index: int, why: str) -> None:
        """No connection to an endpoint could be opened ahead: only probes go there, instead of the first crowd."""
        endpoint = self._scheduler.endpoints[index]
        endpoint.trouble = why
        endpoint.breaker.trip(self._clock())

    def pump(self) -> None:
        """Starts everything that may go now."""
        now = self._clock()
        if self._counters.first_sent_s is None:
            self._counters.first_sent_s = now
        try:
            while (dispatch := self._next(now)) is not None:
                self._send(*dispatch)
        except Exception as error:  # noqa: BLE001 -- a timer's call, say, would lose it: `wait_until_done` raises it
            self._fail(error)

    def refresh_counters(self) -> None:
        """Brings totals and gauges up to date, and what hedging knows of latencies: looked at a few times a second, not
        counted at every request.
        """
        counters = self._counters
        for mine, endpoint in zip(counters.endpoints, self._scheduler.endpoints, strict=True):
            mine.in_flight = endpoint.in_flight
            mine.state = endpoint.state(self._clock())
        counters.sent = sum(mine.sent for mine in counters.endpoints)
        counters.retries = self._scheduler.lanes.retried
        counters.in_flight = self._scheduler.in_flight
        counters.queued = len(self._scheduler.lanes)
        if self._hedging is not None:
            self._hedging.learn(counters)
            self._arm(self._clock())

    def check_waits(self) -> None:
        """End the run, or leave the lines of a model, where a rate limit lasts longer than may be waited for. Called a
        few times a second.
        """
        now, scheduler = self._clock(), self._scheduler
        if self.exit_code is not None:
            return
        blocked = list[tuple[float, int]]()
        for endpoint in scheduler.enabled:
            until_s = self._blocked_until_s(endpoint, now)
            endpoint.blocked = self._say_blocked(until_s, now) if until_s else ""
            if until_s:
                blocked.append((until_s, endpoint.index))
            for model in endpoint.models:
                if not model.is_out and (until_s := self._blocked_until_s(model, now)):
                    model.until_s, model.reason = until_s, self._say_blocked(until_s, now)
                    scheduler.lanes.recall(model.name, now)
                    self.pump()
        if blocked and len(blocked) == len(scheduler.enabled):
            first = scheduler.endpoints[min(blocked)[1]]
            self.stop(ExitCode.STOPPED, f"{first.name}: {first.blocked}")
        if self._handler.suspects:
            self._handler.decide_left_alone(now)
            self.pump()

    def _blocked_until_s(self, held: Endpoint | OwnModel, now: float) -> float:
        """Return until when a rate limit blocks, where that is beyond `--max-wait` or the end of the run; infinity
        where nothing was let in for `--max-wait`; else 0.
        """
        told_s = held.push_back.told_until_s
        if told_s > min(now + self._max_wait_s, self.ends_s):
            return told_s
        return math.inf if held.rejections.span_s > self._max_wait_s else 0.0

    def _say_blocked(self, until_s: float, now: float) -> str:
        if until_s == math.inf:
            return f"no request was let in for {duration(self._max_wait_s)}: HTTP 429 and the like only"
        moment = datetime.fromtimestamp(self._wall_clock() + until_s - now).astimezone()
        return f"its rate limit lasts until {moment:%Y-%m-%d %H:%M:%S}, for {duration(until_s - now)}"

    def _send(self, request: Request, endpoint: Endpoint) -> None:
        if not self._try_send(request, endpoint):
            self._start(request, endpoint)

    def _try_send(self, request: Request, endpoint: Endpoint) -> bool:
        """Sends it, and returns True, unless that has to be awaited in a task."""
        if self._hedging is None:
            return self._channels[endpoint.index].start(request)
        self._hedging.watch(Send(request, endpoint, self._start(request, endpoint)))
        return True

    def _start(self, request: Request, endpoint: Endpoint) -> asyncio.Task[None]:
        task = self._loop.create_task(self._carry(request, endpoint))
        self._tasks.add(task)
        task.add_done_callback(self._carried)
        return task

    def _next(self, now: float) -> tuple[Request, Endpoint] | None:
        if self.exit_code is not None:
            return None
        if self._sink.is_full:
            self._scheduler.wait_for_output(now)
            return None
        if self._hedging is not None and self._hedging.due_s <= now:
            self._hedging.send_twins(self._scheduler, self._counters, self._start, now)
        while (dispatch := self._scheduler.next(now)) is not None:
            request, endpoint = dispatch
            if endpoint is not None:
                self._counters.endpoints[endpoint.index].sent += 1
                self._counters.last_sent_s = now
                self._tell_feed()
                return request, endpoint
            self._handler.give_up_unsendable(request)
            self._check_done()
        self._arm(now)
        self._tell_feed()
        return None

    def _tell_feed(self) -> None:
        if self._feed_waits and self._has_room():
            self._room.set()

    def _holds_much(self) -> bool:
        lanes = self._scheduler.lanes
        return lanes.size_bytes >= MAX_QUEUED_BYTES or lanes.held_bytes >= MAX_HELD_BYTES

    def _has_room(self) -> bool:
        lanes = self._scheduler.lanes
        is_half_empty = len(lanes) * 2 <= self._max_queued and lanes.size_bytes * 2 <= MAX_QUEUED_BYTES
        return is_half_empty and lanes.held_bytes < MAX_HELD_BYTES

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
        dispatch: tuple[Request, Endpoint] | None = (request, endpoint)
        while dispatch is not None:
            request, endpoint = dispatch
            dispatch = self._go_on(request, endpoint, await self._channels[endpoint.index].send(request))

    def _replied(self, endpoint: Endpoint, request: Request, reply: Reply) -> None:
        try:
            dispatch = self._go_on(request, endpoint, reply)
            if dispatch is not None:
                self._start(*dispatch)
        except Exception as error:  # noqa: BLE001 -- no task would hold it: `wait_until_done` raises it
            self._fail(error)
        if not self._scheduler.in_flight:
            self._check_done()

    def _go_on(self, request: Request, endpoint: Endpoint, reply: Reply) -> tuple[Request, Endpoint] | None:
        """Sends the next one in its place, or more, since a settlement or a lifted pause may let more than one go.
        Returns one that still needs a task.
        """
        now = self._clock()
        self._conclude(request, endpoint, reply, now)
        if not self._scheduler.lanes and self._hedging is None:
            self._tell_feed()
            return None
        dispatch = self._next(now)
        if dispatch is None:
            return None
        is_sent = self._try_send(*dispatch)
        if self._scheduler.in_flight < self._max_in_flight and self._scheduler.lanes:
            self.pump()
        return None if is_sent else dispatch

    def _left_late(self, endpoint: Endpoint, request: Request, is_fresh: bool) -> None:
        self._scheduler.left_late(request, endpoint, self._clock(), is_fresh=is_fresh)

    def _carried(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._check_done()

    def _fail(self, bug: BaseException) -> None:
        """A defect of ours: the run ends, and `wait_until_done` raises it."""
        self._bug = bug
        self.stop(ExitCode.OUTPUT_FAILED, "internal error")
        self._done.set()  # what has failed half-way may count as in flight for ever

    def _check_done(self) -> None:
        if self._is_quiet and self.exit_code is None and self._handler.suspects:
            self._handler.decide_all()
            self.pump()
        if self._is_quiet or (self.exit_code is not None and not self._is_under_way):
            self._done.set()

    @property
    def _is_under_way(self) -> bool:
        return bool(self._tasks or self._scheduler.in_flight)

    @property
    def _is_quiet(self) -> bool:
        """Nothing is under way or queued, and no more lines come."""
        return not self._is_under_way and self._counters.input_ended and not self._scheduler.lanes

    def _conclude(self, request: Request, endpoint: Endpoint, reply: Reply, now: float) -> None:
        reply.latency_s = now - request.sent_s
        if reply.cause is None:
            endpoint.breaker.answered()
        wall_now_s = self._wall_clock()
        if reply.headers and endpoint.should_read_headers(now):
            self._handler.on_rate_limit_headers(request, endpoint, reply, wall_now_s, now)
        verdict = judge(request, reply, wall_now_s)
        if isinstance(verdict, Answer):
            clears = self._scheduler.on_answer(request, endpoint, reply.latency_s, now)
            used = endpoint.estimator.charged(request, verdict) if self._scheduler.counts_tokens else NO_TOKENS
            self._scheduler.release(request, endpoint, used, now)
            if self._hedging is not None:
                self._hedging.end_race(request, reply, self._scheduler, self._counters, self.pump)
            self._handler.succeed(request, endpoint, reply, verdict, now)
            if clears:
                self._handler.clear(endpoint, request)
        else:
            self._scheduler.release(request, endpoint, request.tokens_paid if verdict.was_used else NO_TOKENS, now)
            self._handler.handle(request, endpoint, reply, verdict, now)
