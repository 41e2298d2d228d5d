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
from llmblast.fence import Fence
from llmblast.job.hedging import Hedging, Send
from llmblast.job.response_handler import ResponseHandler, Sink
from llmblast.job.suspects import MAX_WAIT_S
from llmblast.records import NO_TOKENS, Answer, Failure, Reply, Request
from llmblast.scheduling import Endpoint, Scheduler
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
        fence: Fence | None = None,
        report_defect: Callable[[BaseException], str] = repr,
    ) -> None:
        self.exit_code: ExitCode | None = None
        """Set when the run was stopped before its end, with `reason` in words."""
        self.reason = ""
        self.defect: BaseException | None = None
        """The first defect in the path of a record; it ends the run."""
        self._fence = fence or Fence()
        self._report_defect = report_defect
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
            scheduler,
            sink,
            backoff,
            counters,
            self.stop,
            gives_up,
            notice,
            hedging,
            max_wait_s,
            self._fence,
            self._on_hedging_defect,
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
            self.stop(ExitCode.STOPPED, self._say_left_pending())

    def fail_internal(self, defect: BaseException) -> None:
        """End the run because of a defect of ours: send nothing more; replies to what is in flight are still handled,
        as far as the defect lets them be.
        """
        reason = self._report_defect(defect)
        if self.defect is None:
            self.defect, self.exit_code, self.reason = defect, ExitCode.DEFECT, reason
        self.stop(ExitCode.DEFECT, reason)

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
        except Exception as error:  # noqa: BLE001 -- a timer's call, say, would lose it
            self.fail_internal(error)

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
            try:
                self._hedging.learn(counters)
            except Exception as error:  # noqa: BLE001 -- advice
                self._switch_off_hedging(error)
            self._arm(self._clock())

    def check_waits(self) -> None:
        """End the run, or leave the lines of a model, where a rate limit lasts longer than may be waited for. Called a
        few times a second.
        """
        now, scheduler = self._clock(), self._scheduler
        if self.exit_code is not None:
            return
        may_wait_s = max(min(self._max_wait_s, self.ends_s - now), 0.0)
        for endpoint in scheduler.enabled:
            for model in endpoint.models:
                until_s = endpoint.blocked_until_s(model.push_back, now, may_wait_s)
                if until_s and not model.reason:
                    model.until_s, model.reason = until_s, self._say_blocked(until_s, now)
                    scheduler.lanes.recall(model.name, now)
                    self.pump()
        blocked = [e.blocked_until_s(e.push_back, now, may_wait_s) for e in scheduler.enabled]
        if blocked and all(blocked):
            name = scheduler.enabled[blocked.index(min(blocked))].name
            self.stop(ExitCode.STOPPED, f"{name}: {self._say_blocked(min(blocked), now)}")
        suspects = self._handler.suspects
        is_quiet = not scheduler.lanes and not scheduler.in_flight and not self._tasks
        if suspects and is_quiet and now - suspects.oldest_s > MAX_WAIT_S:
            self._decide_suspects()

    def _say_left_pending(self) -> str:
        models = [model for endpoint in self._scheduler.endpoints for model in endpoint.models if model.until_s]
        first = min(models, key=lambda model: model.until_s)
        return f"{self._counters.left_pending:,} lines wait for the model {first.name}: {first.reason}"

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
        send = Send(request, endpoint, self._start(request, endpoint))
        try:
            self._hedging.watch(send)
        except Exception as error:  # noqa: BLE001 -- advice
            self._switch_off_hedging(error)
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
        if self._hedging is not None:
            try:
                if self._hedging.due_s <= now:
                    self._hedging.send_twins(self._scheduler, self._counters, self._start, now)
            except Exception as error:  # noqa: BLE001 -- advice
                self._switch_off_hedging(error)
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
            try:
                wake_at = min(wake_at, self._hedging.wake_at(now))
            except Exception as error:  # noqa: BLE001 -- advice
                self._switch_off_hedging(error)
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
        except Exception as error:  # noqa: BLE001 -- no task would hold it
            self.fail_internal(error)
        if not self._scheduler.in_flight or self.defect is not None:
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
            self.fail_internal(error)
        self._check_done()

    def _check_done(self) -> None:
        if self._tasks or self._has_replies_to_come():
            return
        if self.exit_code is None and self._counters.input_ended and not self._scheduler.lanes:
            self._decide_suspects()
        if self.exit_code is not None or (self._counters.input_ended and not self._scheduler.lanes):
            self._done.set()

    def _has_replies_to_come(self) -> bool:
        """After a defect only the channels know: what has failed half-way may count as in flight for ever."""
        if self.defect is None:
            return self._scheduler.in_flight > 0
        return any(channel.is_busy for channel in self._channels)

    def _decide_suspects(self) -> None:
        """No other line will show more: what the replies say decides, and lines may go elsewhere."""
        if self._handler.suspects:
            try:
                self._handler.decide()
            except Exception as error:  # noqa: BLE001 -- whoever asks whether all is done would lose it
                self.fail_internal(error)
            self.pump()

    def _switch_off_hedging(
        self, error: Exception, returned: Request | None = None, *, has_answer: bool = False
    ) -> bool:
        """Go on without hedging: every line keeps one send. `returned` is a request whose reply has just come. Return
        whether its line has another send, which keeps the line where the reply was no answer.
        """
        hedging, self._hedging, self._handler.hedging = self._hedging, None, None
        self._fence.switch_off("hedging", error)
        rivals = {} if hedging is None else hedging.rivals()
        peer = None if returned is None else rivals.pop(returned, None)
        if peer is not None:
            rivals.pop(peer.request, None)
            if has_answer:
                self._cancel(peer, self._clock())
        while rivals:
            _, peer_of_another = rivals.popitem()
            rivals.pop(peer_of_another.request, None)
            self._cancel(peer_of_another, self._clock())
        return peer is not None

    def _on_hedging_defect(self, error: Exception, failed: Request) -> bool:
        return self._switch_off_hedging(error, failed)

    def _cancel(self, send: Send, now: float) -> None:
        """Cancel a send that is not needed any more; it may be billed all the same."""
        send.task.add_done_callback(lambda _: self.pump())  # its slot is free then
        send.task.cancel()
        self._scheduler.release(send.request, send.endpoint, send.request.tokens_paid, now)
        send.endpoint.passed_over(send.request.sent_s, now)
        self._counters.maybe_billed += 1

    def _end_race(self, hedging: Hedging, winner: Request, reply: Reply, now: float) -> None:
        """Cancel the other send of a hedged request that has its answer. The latency becomes the line's: it counts
        from the first send.
        """
        try:
            race = hedging.won(winner)
        except Exception as error:  # noqa: BLE001 -- advice
            winner.ambiguous_sends += self._switch_off_hedging(error, winner, has_answer=True)
            return
        if race is None:
            return
        reply.latency_s = now - race.first_sent_s
        if race.rival is not None:
            winner.ambiguous_sends += 1
            self._cancel(race.rival, now)

    def _conclude(self, request: Request, endpoint: Endpoint, reply: Reply, now: float) -> None:
        latency_s = reply.latency_s = now - request.sent_s
        wall_now_s = self._wall_clock()
        if reply.headers and endpoint.should_read_headers(now):
            self._handler.on_rate_limit_headers(request, endpoint, reply, wall_now_s, now)
        verdict = judge(request, reply, wall_now_s)
        if isinstance(verdict, Answer):
            if self._hedging is not None:
                self._end_race(self._hedging, request, reply, now)
            self._handler.succeed(request, endpoint, reply, verdict, now)  # whatever fails below, the record is written
            endpoint.breaker.answered()
            clears = self._scheduler.on_answer(request, endpoint, latency_s, now)
            used = endpoint.estimator.charged(request, verdict) if self._scheduler.counts_tokens else NO_TOKENS
            self._scheduler.release(request, endpoint, used, now)
            if clears:
                self._handler.clear(endpoint)
        else:
            if reply.cause is None:
                endpoint.breaker.answered()
            self._scheduler.release(request, endpoint, request.tokens_paid if verdict.was_used else NO_TOKENS, now)
            self._handler.handle(request, endpoint, reply, verdict, now)
