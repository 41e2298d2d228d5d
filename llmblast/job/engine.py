"""Engine: carries every request from the lanes to its end: admit, send, judge. `Consequences` does what follows.

There is no pool of workers, and at full speed no task either: what was admitted is sent on a connection that is at
hand, and its reply sends the next one. A task carries what has to wait for a connection first, and what hedging may
have to cancel. One timer wakes the queue at the very moment when somebody may go. With hedging, a straggler's twin goes
before the queue.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from llmblast.errors import ExitCode
from llmblast.job.consequences import Consequences, Sink
from llmblast.job.hedging import Hedging, Send
from llmblast.job.wake_up import WakeUp
from llmblast.records import NO_TOKENS, Answer, Failure, Reply, Request
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.sending import Backoff, Channel, judge
from llmblast.watching import Counters

MAX_QUEUED_BYTES = 8 * 1024 * 1024
MAX_HELD_BYTES = 256 * 1024 * 1024
"""Of all that was read and has no record yet. What is in flight is bounded here, where lines come in, since that costs
the sends nothing: with so much under way none is read, and none goes, until another one has come to its end.
"""
WRITING_S = 0.00005
"""Time that the write of a request takes at least. One that took longer was held up, and left only at its end."""
QUEUED_PER_SLOT = 4
"""Lines read ahead for each request that may be in flight: a burst of replies must not find the lanes empty."""


class Elsewhere(Protocol):
    """Requests that somebody else sends on slots of ours."""

    @property
    def lines(self) -> int:
        """Those that have not come back."""

    @property
    def in_flight(self) -> int:
        """Those under way."""

    @property
    def slots(self) -> int:
        """Slots for them, in use or not."""

    def balance(self) -> None:
        """Looks at how things stand, some times a second and whenever they have changed."""


class _Nowhere:
    """Everything is sent by this process."""

    lines = in_flight = slots = 0

    def balance(self) -> None:
        """There is nothing to balance."""


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
        self._max_queued = max_in_flight * QUEUED_PER_SLOT
        self._hedging = hedging
        self._consequences = Consequences(scheduler, sink, backoff, counters, self.stop, gives_up, notice, hedging)
        for endpoint, channel in zip(scheduler.endpoints, channels, strict=True):
            channel.leave = partial(self._leave, endpoint)
            channel.on_late = partial(self._left_late, endpoint)
            channel.on_reply = partial(self._replied, endpoint)
        self._loop = asyncio.get_running_loop()
        self._is_even = scheduler.is_even
        self._wake_up = WakeUp(self.pump, clock, is_precise=self._is_even)
        self._leaving: Sequence[deque[asyncio.Future[None]]] = [deque() for _ in channels]
        """Requests of each endpoint that have a connection and wait until the last departure lets them follow."""
        self._leaves_at = math.inf
        """Moment at which one of them may leave; infinity: none waits."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._feed_waits = False
        self.stopping = asyncio.Event()
        """Set once nothing more is sent."""
        self.elsewhere: Elsewhere = _Nowhere()
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
        self._consequences.fail(failure)

    async def room(self) -> None:
        """Waits until the lanes are half empty and there is memory for more, or the run stops."""
        while self.is_full and self.exit_code is None:
            self._room.clear()
            self._feed_waits = True
            await self._room.wait()
        self._feed_waits = False

    async def wait_until_done(self) -> None:
        """Waits until nothing is queued or in flight any more, or the run stopped and nothing is in flight."""
        self.elsewhere.balance()
        self.check_done()
        await self._done.wait()
        if self._bug is not None:
            raise self._bug

    def stop(self, exit_code: ExitCode, reason: str) -> None:
        """Sends nothing more; what is in flight may finish. The first reason counts."""
        if self.exit_code is None:
            self.exit_code, self.reason = exit_code, reason
        self.stopping.set()
        self._room.set()
        self.elsewhere.balance()
        self.check_done()

    async def cut_short(self) -> None:
        """Abandons what is in flight: those lines have no record and run again."""
        self._counters.abandoned += self._scheduler.abandon() - self._idle_slots
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
        endpoint.breaker.trip(self._clock())

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
        except Exception as error:  # noqa: BLE001 -- a timer's call, say, would lose it: `wait_until_done` raises it
            self.fail(error)
        self.elsewhere.balance()

    def adopt(self, request: Request, sent_s: float, reply: Reply) -> None:
        """Goes on with what was sent elsewhere and not answered."""
        self._replied(self._scheduler.adopt(request, sent_s), request, reply)

    def hear(self, sent_s: float, headers: Mapping[bytes, bytes]) -> None:
        """Of what was sent elsewhere, what the provider says of its limits."""
        now, (endpoint,) = self._clock(), self._scheduler.endpoints
        if endpoint.listens(now):
            request = Request(0, "", b"", 0, sent_s=sent_s)
            self._consequences.hear(request, endpoint, Reply(200, headers), self._wall_clock(), now)

    def take_back(self, slots: int) -> None:
        """Lent slots are free again."""
        self._scheduler.give_back(slots, self._clock())
        self.check_done()

    def refresh_counters(self) -> None:
        """Brings totals and gauges up to date, and what hedging knows of latencies: looked at a few times a second, not
        counted at every request.
        """
        counters = self._counters
        for mine, endpoint in zip(counters.endpoints, self._scheduler.endpoints, strict=True):
            mine.in_flight = endpoint.in_flight - (self._idle_slots if endpoint.in_flight else 0)
            mine.state = endpoint.state(self._clock())
        counters.sent = sum(mine.sent for mine in counters.endpoints)
        counters.retries = self._scheduler.lanes.retried
        counters.in_flight = self._scheduler.in_flight - self._idle_slots
        counters.queued = len(self._scheduler.lanes)
        counters.queued += self.elsewhere.lines - self.elsewhere.in_flight
        self.elsewhere.balance()
        if self._hedging is not None:
            self._hedging.learn(counters)
            self._arm(self._clock())

    @property
    def _idle_slots(self) -> int:
        return self.elsewhere.slots - self.elsewhere.in_flight

    def _send(self, request: Request, endpoint: Endpoint) -> None:
        if not self._try_send(request, endpoint):
            self._start(request, endpoint)

    def _try_send(self, request: Request, endpoint: Endpoint) -> bool:
        """Sends it, and returns True, unless that has to be awaited in a task."""
        if self._hedging is None:
            start = self._channels[endpoint.index].start
            return self._try_leave(start, request, endpoint) if self._is_even else start(request)
        self._hedging.watch(Send(request, endpoint, self._start(request, endpoint)))
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
        if self._hedging is not None and self._hedging.due_s <= now:
            self._hedging.send_twins(self._scheduler, self._counters, self._start, now)
        dispatch = self._scheduler.next(now)
        if dispatch is None:
            self._arm(now)
        else:
            self._counters.endpoints[dispatch[1].index].sent += 1
            self._counters.last_sent_s = now
        self._tell_feed()
        return dispatch

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
                wake_at = min(wake_at, self._hedging.wake_at(now))
        self._wake_up.set(wake_at, now)

    def _leave(self, endpoint: Endpoint, request: Request) -> asyncio.Future[None] | None:
        """Let a request that a task carries leave, or return what ends when the pace allows that."""
        if not self._is_even:
            return None
        future: asyncio.Future[None] = self._loop.create_future()
        self._leaving[endpoint.index].append(future)
        self._let_leave(self._clock())
        return None if future.done() else future

    def _let_leave(self, now: float) -> None:
        self._leaves_at = math.inf
        for endpoint, waiting in zip(self._scheduler.endpoints, self._leaving, strict=True):
            while waiting:
                if not waiting[0].done():  # else it was cancelled
                    leaves_at = self._scheduler.leaves_at(endpoint)
                    if leaves_at > now:
                        self._leaves_at = min(self._leaves_at, leaves_at)
                        break
                    waiting[0].set_result(None)
                    self._depart(endpoint, now)
                waiting.popleft()
        if self._leaves_at < math.inf:
            self._arm(now)

    def _depart(self, endpoint: Endpoint, now: float) -> None:
        """Record the departure of what a task carries, now and once more when the task has written it."""
        self._scheduler.leave(endpoint, now)
        self._loop.call_soon(lambda: self._scheduler.leave(endpoint, self._clock()))

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
            self.fail(error)
        if not self._scheduler.in_flight:
            self.check_done()

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
            self.fail(error)
        self.check_done()

    def fail(self, bug: BaseException) -> None:
        """A defect of ours: the run ends, and `wait_until_done` raises it."""
        self._bug = bug
        self.stop(ExitCode.OUTPUT_FAILED, "internal error")
        self._done.set()  # what has failed half-way may count as in flight for ever

    def check_done(self) -> None:
        """Looks whether that was the last one. Whatever ends a line or a send calls this."""
        is_drained = self.exit_code is not None or (self._counters.input_ended and not self._scheduler.lanes)
        if self.elsewhere.lines and self.exit_code is None:
            return
        if is_drained and not self._tasks and not self._scheduler.in_flight:
            self._done.set()

    def _conclude(self, request: Request, endpoint: Endpoint, reply: Reply, now: float) -> None:
        answer = reply.answer
        if answer is None:
            reply.latency_s = now - request.sent_s
        if reply.cause is None:
            endpoint.breaker.answered()
        wall_now_s = self._wall_clock()
        if reply.headers and endpoint.listens(now):
            self._consequences.hear(request, endpoint, reply, wall_now_s, now)
        verdict = answer or judge(request, reply, wall_now_s)
        if isinstance(verdict, Answer):
            self._scheduler.answered(request, endpoint, reply.latency_s)
            used = endpoint.estimator.charged(request, verdict) if self._scheduler.counts_tokens else NO_TOKENS
            self._scheduler.release(request, endpoint, used, now)
            if self._hedging is not None:
                self._hedging.end_race(request, reply, self._scheduler, self._counters, self.pump)
            self._consequences.succeed(request, endpoint, reply, verdict, now)
        else:
            self._scheduler.release(request, endpoint, request.tokens_paid if verdict.was_used else NO_TOKENS, now)
            self._consequences.handle(request, endpoint, reply, verdict, now)
