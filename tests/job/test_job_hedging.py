"""Hedging: who gets a hedge and when, what becomes of the two, and that nothing leaks or is told twice."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import pytest
from tenacity import wait_random

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import ExitCode
from llmblast.job.engine import Engine
from llmblast.job.hedging import MAX_SAVED, MIN_SAMPLES, Hedging, Send
from llmblast.job.run_scheduler import make_scheduler
from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings
from llmblast.models import Attempt, Cause, Failure, Line, Outcome, Reply, Request, Success
from llmblast.scheduling import Endpoint, Kind
from llmblast.sending import NO_LISTENER, TRANSPORTS, Backoff, Channel, ChannelListener
from llmblast.setting_loading import load
from llmblast.watching import Counters, EndpointCounters
from tests.openai_provider import make_target
from tests.scheduling.scheduling_samples import end
from tests.task_channel import TaskChannel

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

USUAL_S = 0.1
LINES = 300
SLOTS = 24
ANSWER = b'{"choices":[{"message":{"content":"yes"}}],"usage":{"prompt_tokens":3,"completion_tokens":5}}'


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Sink:
    """Keeps outcomes in memory; calls `on_reached` when there are `wanted` of them."""

    def __init__(self) -> None:
        self.is_full = False
        self.outcomes: list[Outcome] = []
        self.wanted = 0
        self.on_reached: Callable[[], None] = lambda: None

    def leave_out(self, line: Line) -> None:
        """Nothing waits for it."""

    def put(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if len(self.outcomes) == self.wanted:
            self.on_reached()


class HandChannel(TaskChannel):
    """Answers when it is told to; `sends` are those under way and those that have ended, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.sends: list[asyncio.Future[Reply]] = []
        self.attempts: list[Attempt] = []

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply:
        self.attempts.append(attempt)
        self.sends.append(asyncio.get_running_loop().create_future())
        return await self.sends[-1]

    def answer(self, number: int = 0) -> None:
        self.sends[number].set_result(Reply(200, {}, ANSWER))

    def fail(self, reply: Reply, number: int = 0) -> None:
        self.sends[number].set_result(reply)


def make_request(number: int) -> Request:
    body = b'{"model":"m","messages":[{"role":"user","content":"Question %d?"}]}' % number
    return Request(number, f"{number:016x}", b"{}", number, body=body)


def make_endpoint(index: int) -> Endpoint:
    return Endpoint(index, EndpointSettings(url="http://127.0.0.1:1/v1", name="ab"[index]))


def counters_of(*latencies_s: float, names: Sequence[str] = ("a", "b")) -> Counters:
    counters = Counters(endpoints=[EndpointCounters(name) for name in names])
    for latency_s in latencies_s:
        counters.endpoints[0].latency.add(latency_s)
    return counters


def knowing(quantile: float = 0.95, budget_share: float = 1.0) -> Hedging:
    """It has seen answers after 0.1 s."""
    hedging = Hedging(quantile, budget_share)
    hedging.learn(counters_of(*[USUAL_S] * MIN_SAMPLES))
    return hedging


def a_send(number: int, sent_s: float, endpoint: Endpoint | None = None) -> Send:
    task: asyncio.Task[None] | None = asyncio.current_task()
    assert task is not None
    return Send(Attempt(make_request(number), sent_s=sent_s), endpoint or make_endpoint(0), task)


def hedge_of(send: Send, now: float) -> Send:
    return a_send(send.attempt.request.number, now, make_endpoint(1))


async def test_nobody_is_slow_before_there_is_something_to_compare_with() -> None:
    """One answer less than a hundred says nothing; the hundredth tells the threshold."""
    hedging = Hedging(0.95, 1.0)
    hedging.watch(a_send(1, 0.0))

    hedging.learn(counters_of(*[USUAL_S] * (MIN_SAMPLES - 1)))
    before = list(hedging.slow_sends(1e9))
    hedging.learn(counters_of(*[USUAL_S] * MIN_SAMPLES))

    assert before == []
    assert [send.attempt.request.number for send in hedging.slow_sends(1e9)] == [1]


@pytest.mark.parametrize(("quantile", "threshold_s"), [(0.5, 0.1), (0.95, 0.2), (0.999, 0.8)])
async def test_the_threshold_is_that_quantile_of_all_answers(quantile: float, threshold_s: float) -> None:
    """Those who are over it are due, the oldest first; the next look is when the oldest of the others is."""
    hedging = Hedging(quantile, 1.0)
    hedging.learn(counters_of(*[0.1] * 900, *[0.2] * 90, *[0.8] * 10))
    for number, age_s in ((1, 1.2), (2, 1.1), (3, 0.9)):
        hedging.watch(a_send(number, 1000.0 - age_s * threshold_s))

    assert [send.attempt.request.number for send in hedging.slow_sends(1000.0)] == [1, 2]
    assert hedging.due_s == pytest.approx(1000.0 - 0.2 * threshold_s, abs=0.05 * threshold_s)


async def test_hedges_are_never_more_than_their_share() -> None:
    """Were everybody slow, each twentieth would get a hedge, at any moment of the run."""
    hedging, hedges, worst = knowing(budget_share=0.05), 0, 0.0
    for sent in range(1, 2001):
        hedging.watch(a_send(sent, float(sent)))
        for slow in hedging.slow_sends(sent + 1.0):
            hedging.pair(slow, hedge_of(slow, sent + 1.0))
            hedges += 1
        worst = max(worst, hedges / sent)

    assert worst == 0.05


async def test_calm_hours_do_not_pay_for_a_storm() -> None:
    """What may go at once when all slow down is bounded."""
    hedging, hedges = knowing(budget_share=0.05), 0
    for number in range(10_000):
        hedging.watch(a_send(number, 1000.0))
    while found := list(hedging.slow_sends(2000.0)):
        hedging.pair(found[0], hedge_of(found[0], 2000.0))
        hedges += 1

    assert hedges == MAX_SAVED


async def test_a_request_gets_one_hedge_however_often_it_is_sent() -> None:
    """Both sends failed, it goes again, it is slow again."""
    hedging = knowing()
    send = a_send(1, 0.0)
    hedging.watch(send)
    hedging.pair(send, hedge := hedge_of(send, 1.0))
    hedging.defers_to_peer(hedge.attempt)
    hedging.defers_to_peer(send.attempt)

    hedging.watch(send)

    assert list(hedging.slow_sends(1000.0)) == []


async def test_a_slow_that_nobody_can_take_does_not_hide_the_next() -> None:
    """They are offered one after the other, and again a moment later."""
    hedging = knowing()
    for number in (1, 2):
        hedging.watch(a_send(number, 0.0))

    offered = [send.attempt.request.number for send in hedging.slow_sends(10.0)]

    assert offered == [1, 2]
    assert 10.0 < hedging.wake_at(10.0) <= 10.05


def count_attempts() -> int:
    return sum(isinstance(thing, Attempt) for thing in gc.get_objects())


async def test_what_has_ended_is_forgotten() -> None:
    """Memory follows what is in flight, however each send ends."""
    gc.collect()
    before = count_attempts()
    hedging = knowing()
    alone, paired, yielding = ([a_send(number, 1000.0) for number in range(50)] for _ in range(3))
    for send in [*alone, *paired, *yielding]:
        hedging.watch(send)
    for send in [*paired, *yielding]:
        hedging.pair(send, hedge_of(send, 1001.0))
    for send in yielding:
        peer = hedging._pairs[send.attempt].peer
        assert peer is not None
        hedging.defers_to_peer(send.attempt)
        hedging.defers_to_peer(peer.attempt)
    for send in [*alone, *paired]:
        hedging.on_answer(send.attempt)

    del alone, paired, yielding, send, peer
    gc.collect()

    assert count_attempts() <= before


class Bench:
    """An engine over two endpoints that answer by hand, on a clock that moves by hand. Whoever is older than 0.1 s is
    slow, and each send pays for one hedge.
    """

    def __init__(self, *, max_attempts: int = 3, **flags: object) -> None:
        settings = load({"endpoints": ["http://a/v1,name=a", "http://b/v1,name=b"], "hedge": "p95", **flags})
        self.clock, self.sink = Clock(), Sink()
        self.counters = counters_of()
        self.counters.input_ended = True
        self.scheduler = make_scheduler(settings)
        self.channels = (HandChannel(), HandChannel())
        self.first, self.second = self.channels
        self.engine = Engine(
            self.scheduler,
            self.channels,
            self.sink,
            Backoff(max_attempts, Random(0)),
            self.counters,
            clock=self.clock,
            wall_clock=self.clock,
            max_in_flight=settings.concurrency,
            gives_up=lambda counters: False,
            hedging=knowing(),
        )

    async def send(self, *numbers: int) -> None:
        for number in numbers:
            self.engine.accept(make_request(number))
        await self.after(0.0)

    async def after(self, seconds: float) -> None:
        """Time passes, and what is due then happens."""
        self.clock.now += seconds
        self.engine.dispatch_ready()
        for _ in range(4):
            await asyncio.sleep(0)

    async def over(self) -> None:
        """All that was accepted has its outcome."""
        await asyncio.wait_for(self.engine.wait_until_done(), 5)

    async def hedged(self) -> None:
        """One line, sent to the first endpoint and half a second later to the second one, too."""
        await self.send(1)
        await self.after(0.5)
        assert [len(channel.sends) for channel in self.channels] == [1, 1]

    @property
    def in_flight(self) -> list[int]:
        self.engine.refresh_counters()
        return [endpoint.traffic.in_flight for endpoint in self.scheduler.endpoints]

    @property
    def successes(self) -> list[Success]:
        return [outcome for outcome in self.sink.outcomes if isinstance(outcome, Success)]

    @property
    def failures(self) -> list[Failure]:
        return [outcome for outcome in self.sink.outcomes if isinstance(outcome, Failure)]


async def test_a_slow_request_is_sent_to_another_endpoint_and_the_first_answer_wins() -> None:
    """The other send is cancelled and may be billed; the latency is the line's, from the first send on."""
    bench = Bench()
    await bench.hedged()

    bench.clock.now += 0.25
    bench.second.answer()
    await bench.over()

    (success,) = bench.successes
    assert bench.first.sends[0].cancelled()
    assert (success.endpoint, success.attempts, success.maybe_billed) == ("b", 1, 1)
    assert success.reply.latency_s == pytest.approx(0.75)
    assert (bench.counters.hedged, bench.counters.maybe_billed, bench.scheduler.queue.retried) == (1, 1, 0)
    assert bench.in_flight == [0, 0]
    assert [mine.sent for mine in bench.counters.endpoints] == [1, 1]


async def test_the_first_send_may_win() -> None:
    """Then the hedge is the one that is cancelled."""
    bench = Bench()
    await bench.hedged()

    bench.first.answer()
    await bench.over()

    (success,) = bench.successes
    assert bench.second.sends[0].cancelled()
    assert (success.endpoint, success.maybe_billed) == ("a", 1)
    assert success.reply.latency_s == pytest.approx(0.5)
    assert bench.in_flight == [0, 0]


async def test_two_answers_at_the_same_moment_are_one_record() -> None:
    """Both are there before either is looked at."""
    bench = Bench()
    await bench.hedged()

    bench.first.answer()
    bench.second.answer()
    await bench.over()
    await bench.after(1.0)

    assert len(bench.sink.outcomes) == 1
    assert bench.in_flight == [0, 0]


async def test_a_hedge_that_has_not_begun_when_the_answer_comes_is_not_sent() -> None:
    """Its task had been made and had not run."""
    bench = Bench()
    await bench.send(1)
    bench.first.answer()
    bench.clock.now += 0.5
    bench.engine.dispatch_ready()
    await bench.over()

    assert bench.counters.hedged == 1
    assert bench.second.sends == []
    assert len(bench.sink.outcomes) == 1
    assert bench.in_flight == [0, 0]


async def test_who_is_in_time_gets_no_hedge() -> None:
    """Nor does anybody on whom one was spent already."""
    bench = Bench()
    await bench.send(1, 2)
    await bench.after(0.05)
    before = bench.counters.hedged

    await bench.after(0.5)
    await bench.after(0.5)

    assert before == 0
    assert bench.counters.hedged == 2
    assert [len(channel.sends) for channel in bench.channels] == [2, 2]


FAILED = Reply(500, {}, b"{}")
LIMITED = Reply(429, {b"retry-after": b"7"}, b"{}")
BROKEN = Reply(cause=Cause.BROKEN, detail="broken")


@pytest.mark.parametrize(
    ("reply", "attempts", "maybe_billed"),
    [(FAILED, 2, 0), (LIMITED, 1, 0), (BROKEN, 2, 1), (Reply(401, {}, b"{}"), 1, 0), (Reply(400, {}, b"{}"), 2, 0)],
)
@pytest.mark.parametrize("failed", [0, 1])
async def test_when_one_fails_the_other_decides(reply: Reply, failed: int, attempts: int, maybe_billed: int) -> None:
    """Nothing is queued and nothing is told of the line; what the failed send cost is remembered."""
    bench = Bench()
    await bench.hedged()

    bench.channels[failed].fail(reply)
    await bench.after(0.0)
    outcomes, queued = list(bench.sink.outcomes), len(bench.scheduler.queue)
    bench.channels[1 - failed].answer()
    await bench.over()

    (success,) = bench.successes
    assert (outcomes, queued) == ([], 0)
    assert (success.attempts, success.maybe_billed) == (attempts, maybe_billed)
    assert success.reply.latency_s == pytest.approx(0.5)
    assert (bench.scheduler.queue.retried, bench.counters.maybe_billed) == (0, maybe_billed)
    assert bench.in_flight == [0, 0]


async def test_one_that_is_rejected_for_good_leaves_the_line_to_the_other() -> None:
    """A line whose rejections are enough for an error record still has a send in flight."""
    bench = Bench(max_attempts=1)
    await bench.hedged()
    bench.second.attempts[0].rejections = 1000

    bench.second.fail(LIMITED)
    await bench.after(0.0)
    bench.first.answer()
    await bench.over()

    assert [type(outcome) for outcome in bench.sink.outcomes] == [Success]
    assert bench.scheduler.queue.held_bytes == 0


async def test_an_endpoint_learns_from_a_send_whose_line_the_other_decides() -> None:
    """A 429 holds it back, whatever becomes of the line."""
    bench = Bench()
    await bench.hedged()

    bench.second.fail(LIMITED)
    await bench.after(0.0)

    assert bench.scheduler.endpoints[1].hold.push_back.is_held
    assert (bench.counters.rate_limited, bench.counters.endpoints[1].rate_limited) == (1, 1)


async def test_when_both_fail_the_request_goes_the_way_of_the_last() -> None:
    """It is tried again, once, without another hedge, and both endpoints count as tried."""
    bench = Bench()
    await bench.hedged()

    bench.first.fail(FAILED)
    bench.second.fail(FAILED)
    await bench.after(0.0)
    queued = len(bench.scheduler.queue)
    await bench.after(10.0)
    await bench.after(10.0)
    sends = sum(len(channel.sends) for channel in bench.channels)
    last = bench.first if len(bench.first.sends) == 2 else bench.second
    last.answer(1)
    await bench.over()

    (success,) = bench.successes
    assert (queued, sends, bench.scheduler.queue.retried, bench.counters.hedged) == (1, 3, 1, 1)
    assert (success.attempts, last.attempts[1].failed_on) == (3, 0b11)
    assert success.reply.latency_s == pytest.approx(10.0)
    assert bench.in_flight == [0, 0]


async def test_a_hedge_goes_to_an_endpoint_that_has_not_failed_the_request() -> None:
    """Nor to the one that has it: while the only other one is paused there is none."""
    tried, paused = Bench(), Bench()
    await tried.send(1)
    tried.first.fail(FAILED)
    await tried.after(0.0)
    await tried.after(10.0)
    await tried.after(0.5)
    paused.scheduler.endpoints[1].wait_for_key()
    await paused.send(1)
    await paused.after(0.5)
    before = paused.counters.hedged
    paused.scheduler.endpoints[1].on_new_key()
    await paused.after(0.6)

    assert [len(channel.sends) for channel in tried.channels] == [1, 1]
    assert (tried.counters.hedged, before, paused.counters.hedged) == (0, 0, 1)
    assert [len(channel.sends) for channel in paused.channels] == [1, 1]


def test_a_hedge_of_what_needs_a_fresh_connection_does_not() -> None:
    """It was the other endpoint that had closed a kept one."""
    scheduler = make_scheduler(load({"endpoints": ["http://a/v1", "http://b/v1"]}))
    attempt = Attempt(make_request(1), resent=True)

    hedge = scheduler.hedge(attempt, scheduler.endpoints[0], 1000.0)

    assert hedge is not None
    assert (hedge[0].resent, attempt.resent) == (False, True)


@pytest.mark.parametrize("reply", [BROKEN, Reply(200, {}, b"no JSON")])
async def test_when_both_fail_for_good_there_is_one_error(reply: Reply) -> None:
    """The last one's, with what both may have cost."""
    bench = Bench(max_attempts=1)
    await bench.hedged()

    bench.second.fail(reply)
    bench.first.fail(reply)
    await bench.over()

    (failure,) = bench.failures
    assert (failure.endpoint, failure.attempts, failure.maybe_billed) == ("a", 2, 2)
    assert bench.successes == []
    assert bench.in_flight == [0, 0]


async def test_a_hedge_pays_every_limit() -> None:
    """No slot of the run, none of the endpoint: no hedge, until there is one; then it goes before the queue."""
    full = Bench(concurrency=1)
    await full.send(1, 2)
    await full.after(0.5)
    narrow = Bench(endpoints=["http://a/v1,name=a,concurrency=2", "http://b/v1,name=b,concurrency=1"])
    await narrow.send(1, 2, 3, 4)
    await narrow.after(0.5)
    held = narrow.counters.hedged

    narrow.second.answer()
    await narrow.after(0.0)

    assert (full.counters.hedged, held, narrow.counters.hedged) == (0, 0, 1)
    assert [attempt.request.number for attempt in narrow.second.attempts] == [2, 1]
    assert len(narrow.scheduler.queue) == 1


async def test_the_slot_of_a_cancelled_send_is_used_at_once() -> None:
    """Two slots, one line in both: the answer lets the next two lines go."""
    bench = Bench(concurrency=2)
    await bench.hedged()
    await bench.send(2, 3)

    bench.second.answer()
    await bench.after(0.0)

    assert sorted(attempt.request.number for channel in bench.channels for attempt in channel.attempts) == [1, 1, 2, 3]


async def test_a_cancelled_send_counts_its_tokens_as_used() -> None:
    """They may be billed: only the winner's estimate is settled by what it really used."""
    bench = Bench(tpm=100_000)
    await bench.hedged()
    paid = sum(channel.attempts[0].tokens_paid[0] for channel in bench.channels)
    loser_paid = bench.first.attempts[0].tokens_paid[0]

    bench.second.answer()
    await bench.over()

    (used,) = bench.scheduler.used(2, 1.0).values()
    assert paid > loser_paid > 100
    assert used * 100_000 / 60 / (1 - 1 / 2) == pytest.approx(loser_paid + 8)


async def test_a_probe_that_is_cancelled_does_not_close_its_endpoint_for_good() -> None:
    """Another one may go."""
    bench = Bench()
    first = bench.scheduler.endpoints[0]
    for _ in range(3):
        end(first, Kind.UNREACHABLE, bench.clock.now, bench.clock.now)
    await bench.after(60.0)
    await bench.hedged()

    bench.second.answer()
    await bench.over()

    assert first.health.breaker.is_open
    assert first.health.breaker.ready_at(1.0, bench.clock.now) <= bench.clock.now


async def test_a_stop_sends_no_hedges_and_lets_a_race_end() -> None:
    """What is in flight may finish, and is recorded once."""
    bench = Bench()
    await bench.hedged()
    await bench.send(2)

    bench.engine.stop(ExitCode.INTERRUPTED, "interrupted")
    await bench.after(5.0)
    for channel in bench.channels:
        for send in channel.sends:
            if not send.done():
                send.set_result(Reply(200, {}, ANSWER))
    await bench.over()

    assert bench.counters.hedged == 1
    assert sorted(success.request.number for success in bench.successes) == [1, 2]
    assert bench.in_flight == [0, 0]


async def test_a_race_that_is_cut_short_leaves_no_record_and_no_task() -> None:
    """Its line runs again; both sends are told as abandoned."""
    bench = Bench()
    await bench.hedged()

    bench.engine.stop(ExitCode.INTERRUPTED, "interrupted")
    await bench.engine.abort_in_flight()
    await bench.after(0.0)

    assert bench.sink.outcomes == []
    assert bench.counters.abandoned == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Field:
    """An engine over real servers, with real channels and the real clock. `stop_after` outcomes it is interrupted."""

    def __init__(self, servers: Sequence[MockServer], hedging: Hedging, transport: str = "lean") -> None:
        loop = asyncio.get_running_loop()
        endpoints = [{"url": server.url, "name": str(n), "adaptive": False} for n, server in enumerate(servers)]
        settings = load({"endpoints": endpoints, "concurrency": SLOTS})
        self.sink = Sink()
        self.counters = counters_of(names=[endpoint.name for endpoint in settings.endpoints])
        self.counters.input_ended = True
        self.scheduler = make_scheduler(settings)
        open_channel = TRANSPORTS[transport]
        self.channels: list[Channel] = [open_channel(make_target(e, "m", None), 5.0, 5.0) for e in settings.endpoints]
        self.engine = Engine(
            self.scheduler,
            self.channels,
            self.sink,
            Backoff(3, Random(0), retry_bound=wait_random(0, 0.02)),
            self.counters,
            clock=loop.time,
            wall_clock=loop.time,
            max_in_flight=settings.concurrency,
            gives_up=lambda counters: False,
            hedging=hedging,
        )

    def begin(self, stop_after: int = 0) -> None:
        self.sink.wanted = stop_after
        self.sink.on_reached = lambda: self.engine.stop(ExitCode.INTERRUPTED, "interrupted")
        for number in range(LINES):
            self.engine.accept(make_request(number))
        self.engine.dispatch_ready()

    async def end(self) -> None:
        """Waits until all is over, and for what the loop does in its next rounds."""
        await asyncio.wait_for(self.engine.wait_until_done(), 30)
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def carriers(self) -> list[asyncio.Task[object]]:
        return [task for task in asyncio.all_tasks() if "_send_in_task" in repr(task.get_coro())]

    @property
    def most_told(self) -> int:
        """How often the line is told that is told most often."""
        told = Counter((o.request if isinstance(o, Success) else o.line).key for o in self.sink.outcomes)
        return max(told.values())

    @property
    def in_flight(self) -> int:
        return sum(endpoint.traffic.in_flight for endpoint in self.scheduler.endpoints)

    def count_free_slots(self) -> int:
        """How many requests may go when every pause is over."""
        for number in range(2 * SLOTS):
            self.scheduler.queue.add(Attempt(make_request(number)))
        now = asyncio.get_running_loop().time() + 100
        return len(list(iter(lambda: self.scheduler.next(now), None)))


@asynccontextmanager
async def mayhem(seed: int, transport: str) -> AsyncIterator[Field]:
    """Three servers, where one request in five fails in one way or another, and half of all may have a hedge. Answers
    take up to 24 ms, so at least five of six take longer than the threshold, however fast the machine is.
    """
    faults = "latency=0.012&jitter=1&errors=0.06&broken=0.05&malformed=0.04&rate_limited=0.05&retry_after=0"
    hedging = Hedging(0.5, 0.5)
    hedging.learn(counters_of(*[Random(seed).uniform(0.001, 0.004)] * MIN_SAMPLES))
    async with AsyncExitStack() as stack:
        servers = [MockServer(MockSettings.from_query(f"{faults}&seed={seed}{index}")) for index in range(3)]
        for server in servers:
            await stack.enter_async_context(server)
        field = Field(servers, hedging, transport)
        for channel in field.channels:
            stack.push_async_callback(channel.close)
        yield field


whatever_happens = pytest.mark.parametrize(
    ("seed", "transport"), [(seed, transport) for seed in range(4) for transport in TRANSPORTS]
)


@whatever_happens
async def test_every_line_is_told_once(seed: int, transport: str) -> None:
    """And no slot, task, send or memory is left over."""
    async with mayhem(seed, transport) as field:
        field.begin()
        await field.end()

        assert (len(field.sink.outcomes), field.most_told) == (LINES, 1)
        assert field.counters.hedged > LINES // 4
        assert field.scheduler.queue.held_bytes == 0
        assert (field.in_flight, field.carriers, field.count_free_slots()) == (0, [], SLOTS)


@whatever_happens
async def test_a_line_is_told_once_or_still_queued_after_a_stop(seed: int, transport: str) -> None:
    """What was in flight has finished, races too."""
    async with mayhem(seed, transport) as field:
        field.begin(stop_after=LINES // 2)
        await field.end()

        assert (len(field.sink.outcomes) + len(field.scheduler.queue), field.most_told) == (LINES, 1)
        assert len(field.scheduler.queue) > 0
        assert (field.in_flight, field.carriers) == (0, [])


@whatever_happens
async def test_no_line_is_told_twice_when_races_are_cut_short(seed: int, transport: str) -> None:
    """No task goes on either."""
    async with mayhem(seed, transport) as field:
        field.begin(stop_after=LINES // 2)
        await field.engine.end.stopping.wait()
        await field.engine.abort_in_flight()
        await field.end()

        assert field.counters.abandoned > 0
        assert (field.most_told, field.carriers) == (1, [])


async def test_a_slow_is_found_when_nothing_else_happens() -> None:
    """The last line of a run hangs: the engine's own timer sees it, though the threshold came to be known after it was
    sent.
    """
    async with MockServer(MockSettings.from_query("latency=60")) as hung, MockServer() as quick:
        field = Field([hung, quick], Hedging(0.95, 1.0))
        field.counters.endpoints[1].latency = counters_of(*[0.02] * 200).latency
        field.engine.accept(make_request(1))
        field.engine.dispatch_ready()
        await asyncio.sleep(0)
        field.engine.refresh_counters()

        await asyncio.wait_for(field.engine.wait_until_done(), 20)
        for channel in field.channels:
            await channel.close()

    assert [(type(outcome), outcome.endpoint) for outcome in field.sink.outcomes] == [(Success, "1")]
