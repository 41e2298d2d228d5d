"""Engine: carries every request from the lanes to its end: admit, send, judge. `ResponseHandler` decides what follows.

There is no pool of workers, and at full speed no task either: what was admitted is sent on a connection that is at
hand, and its reply sends the next one. A task carries what has to wait for a connection first, and what hedging may
have to cancel. One timer wakes the queue at the very moment when somebody may go. With hedging, a straggler's twin goes
before the queue.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from llmblast.errors import ExitCode
from llmblast.fence import Fence
from llmblast.job.hedging import Hedging, Send
from llmblast.job.key_refresh import renew_key
from llmblast.job.response_handler import ResponseHandler, Sink
from llmblast.job.wait_limit import WaitLimit
from llmblast.job.wake_up import WakeUp
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.records import NO_TOKENS, Answer, Failure, Provider, Reply, Request
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.sending import Backoff, Channel, EndpointKey, judge
from llmblast.watching import Counters

MAX_QUEUED_BYTES = 8 * 1024 * 1024
MAX_HELD_BYTES = 256 * 1024 * 1024
"""Of all that was read and has no record yet. What is in flight is bounded here, where lines come in, since that costs
the sends nothing: with so much under way none is read, and none goes, until another one has come to its end.
"""
_UNAUTHORIZED = 401
DEFAULT_MAX_WAIT_S = 900.0
WRITING_S = 0.0002
"""A request leaves when its write begins, since each write takes as long. A longer one was held up, and its request may
have left as late as at its end."""
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
        keys: Sequence[EndpointKey] = (),
        providers: Sequence[Provider] = (),
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
        self._keys = keys
        self._providers = providers or [DEFAULT_PROVIDER] * len(channels)
        self.wait_limit = WaitLimit(scheduler, self.stop, wall_clock, max_wait_s)
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
            self._providers,
        )
        for endpoint, channel in zip(scheduler.endpoints, channels, strict=True):
            channel.leave = partial(self._leave, endpoint)
            channel.on_late = partial(self._left_late, endpoint)
            channel.on_reply = partial(self._replied, endpoint)
        self._loop = asyncio.get_running_loop()
        self._is_even = scheduler.is_even
        self._wake_up = WakeUp(self.pump, clock, is_precise=self._is_even)
        self._leaving: Sequence[deque[tuple[asyncio.Future[None], bool]]] = [deque() for _ in channels]
        """Requests of each endpoint that have a connection, fresh or not, and wait until the last departure lets them
        follow.
        """
        self._leaves_at = math.inf
        """Moment at which one of them may leave; infinity: none waits."""
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

    @property
    def has_endpoints(self) -> bool:
        """Whether any endpoint is left that may take requests."""
        return not self._scheduler.is_exhausted

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
        self._wake_up.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._done.set()

    def unreachable(self, index: int, why: str) -> None:
        """No connection to an endpoint could be opened ahead: only probes go there, instead of the first crowd."""
        endpoint = self._scheduler.endpoints[index]
        endpoint.trouble = why
        endpoint.trip(self._clock())

    def pump(self) -> None:
        """Starts everything that may go now."""
        now = self._clock()
        if self._counters.first_sent_s is None:
            self._counters.first_sent_s = now
        try:
            if self._leaves_at <= now:
                self._let_leave(now)
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
        """Decide on what has waited for too long. Called a few times a second."""
        if self.exit_code is not None:
            return
        now, has_suspects = self._clock(), bool(self._handler.suspects)
        if has_suspects:
            self._handler.decide_left_alone(now)
        if self.wait_limit.check(now) or has_suspects:
            self.pump()

    def _can_renew_key(self, request: Request, endpoint: Endpoint) -> bool:
        """Return whether a key that has worked may have expired, so that a new one is worth asking for."""
        if not self._keys or request.key_renewed or not self._keys[endpoint.index].can_refresh:
            return False
        key_since_s = self._keys[endpoint.index].since_s
        return request.sent_s < key_since_s or endpoint.last_answered_sent_s >= key_since_s

    def _send_with_new_key(self, request: Request, endpoint: Endpoint, now: float) -> None:
        """Send the request again with the present key, or with one that is asked for now; the endpoint waits for it."""
        request.key_renewed = True
        endpoint.passed_over(request.sent_s, now)
        if request.sent_s >= self._keys[endpoint.index].since_s and not endpoint.refusals.is_paused:
            endpoint.pause()
            task = self._loop.create_task(self._renew_key(endpoint))
            self._tasks.add(task)
            task.add_done_callback(self._carried)
        self._scheduler.lanes.add_retry(request, now)

    async def _renew_key(self, endpoint: Endpoint) -> None:
        try:
            await renew_key(self._keys[endpoint.index], self._channels[endpoint.index])
        finally:
            endpoint.refusals.is_paused = False
        self.pump()

    def _send(self, request: Request, endpoint: Endpoint) -> None:
        if not self._try_send(request, endpoint):
            self._start(request, endpoint)

    def _try_send(self, request: Request, endpoint: Endpoint) -> bool:
        """Sends it, and returns True, unless that has to be awaited in a task."""
        if self._hedging is None:
            start = self._channels[endpoint.index].start
            return self._try_leave(start, request, endpoint) if self._is_even else start(request)
        send = Send(request, endpoint, self._start(request, endpoint))
        try:
            self._hedging.watch(send)
        except Exception as error:  # noqa: BLE001 -- advice
            self._switch_off_hedging(error)
        return True

    def _try_leave(self, start: Callable[[Request], bool], request: Request, endpoint: Endpoint) -> bool:
        now = self._clock()
        if self._leaving[endpoint.index] or self._scheduler.leaves_at(endpoint) > now or not start(request):
            return False
        self._scheduler.leave(endpoint, max(now, self._clock() - WRITING_S))
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
        dispatch = self._scheduler.next(now)
        if self._scheduler.unsendable:
            self._give_up_unsendable()
        if dispatch is None:
            self._arm(now)
        else:
            self._counters.endpoints[dispatch[1].index].sent += 1
            self._counters.last_sent_s = now
        self._tell_feed()
        return dispatch

    def _give_up_unsendable(self) -> None:
        unsendable, self._scheduler.unsendable = self._scheduler.unsendable, []
        for request in unsendable:
            self._handler.give_up_unsendable(request)
        self._check_done()

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
        """Set the one timer."""
        wake_at = self._leaves_at
        if self.exit_code is None and not self._sink.is_full:
            wake_at = min(wake_at, self._scheduler.wake_at)
            if self._hedging is not None:
                try:
                    wake_at = min(wake_at, self._hedging.wake_at(now))
                except Exception as error:  # noqa: BLE001 -- advice
                    self._switch_off_hedging(error)
        self._wake_up.set(wake_at, now)

    def _leave(self, endpoint: Endpoint, request: Request, is_fresh: bool) -> asyncio.Future[None] | None:
        """Let a request that a task carries leave, or return what ends when the pace allows that."""
        if not self._is_even:
            return None
        future: asyncio.Future[None] = self._loop.create_future()
        self._leaving[endpoint.index].append((future, is_fresh))
        self._let_leave(self._clock())
        return None if future.done() else future

    def _let_leave(self, now: float) -> None:
        self._leaves_at = math.inf
        for endpoint, waiting in zip(self._scheduler.endpoints, self._leaving, strict=True):
            while waiting:
                future, is_fresh = waiting[0]
                if not future.done():  # else it was cancelled
                    leaves_at = self._scheduler.leaves_at(endpoint)
                    if leaves_at > now:
                        self._leaves_at = min(self._leaves_at, leaves_at)
                        break
                    future.set_result(None)
                    self._depart(endpoint, now, is_fresh)
                waiting.popleft()
        if self._leaves_at < math.inf:
            self._arm(now)

    def _depart(self, endpoint: Endpoint, now: float, is_fresh: bool) -> None:
        """Record the departure of what a task carries: now, or when it was written, if that was held up. That is two
        turns of the loop later: aiohttp needs one of its own.
        """
        self._scheduler.leave(endpoint, now, is_fresh=is_fresh)
        self._loop.call_soon(self._loop.call_soon, self._on_written, endpoint, is_fresh)

    def _on_written(self, endpoint: Endpoint, is_fresh: bool) -> None:
        self._scheduler.leave(endpoint, self._clock() - WRITING_S, is_fresh=is_fresh)

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
        if self._is_quiet and self.exit_code is None and self._handler.suspects:
            try:
                self._handler.decide_all()
            except Exception as error:  # noqa: BLE001 -- whoever asks whether all is done would lose it
                self.fail_internal(error)
            self.pump()
        if self._is_quiet or (self.exit_code is not None and not self._is_under_way):
            self._done.set()

    @property
    def _is_under_way(self) -> bool:
        """After a defect only the channels know: what has failed half-way may count as in flight for ever."""
        if self.defect is None:
            return bool(self._tasks or self._scheduler.in_flight)
        return bool(self._tasks) or any(channel.is_busy for channel in self._channels)

    @property
    def _is_quiet(self) -> bool:
        """Nothing is under way or queued, and no more lines come."""
        return not self._is_under_way and self._counters.input_ended and not self._scheduler.lanes

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
        verdict = judge(request, reply, wall_now_s, self._providers[endpoint.index])
        if isinstance(verdict, Answer):
            if self._hedging is not None:
                self._end_race(self._hedging, request, reply, now)
            self._handler.succeed(request, endpoint, reply, verdict, now)  # whatever fails below, the record is written
            clears = self._scheduler.on_answer(request, endpoint, latency_s, now)
            used = endpoint.estimator.charged(request, verdict) if self._scheduler.counts_tokens else NO_TOKENS
            self._scheduler.release(request, endpoint, used, now)
            if clears:
                self._handler.clear(endpoint, request)
        else:
            if reply.cause is None:
                endpoint.breaker.record_success()
            self._scheduler.release(request, endpoint, request.tokens_paid if verdict.was_used else NO_TOKENS, now)
            if reply.status == _UNAUTHORIZED and self._can_renew_key(request, endpoint):
                self._send_with_new_key(request, endpoint, now)
                return
            self._handler.handle(request, endpoint, reply, verdict, now)
