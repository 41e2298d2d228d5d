"""Lending: a leader and workers in one process, whose frames come when the test says so: nothing is lost or doubled."""

import asyncio
import marshal
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.errors import ExitCode
from llmblast.job import hands as hands_module
from llmblast.job import worker as worker_module
from llmblast.job.crew import SLICES_AHEAD, Crew, CrewSink
from llmblast.job.engine import Engine
from llmblast.job.frames import Orders
from llmblast.job.hands import Forked
from llmblast.job.intake import Intake, TextLine
from llmblast.job.lending import Lending
from llmblast.job.stations import make_scheduler
from llmblast.job.worker import Worker
from llmblast.reading import Shaper
from llmblast.records import Cause, Outcome, Reply, Request, Success
from llmblast.sending import Backoff, Channel
from llmblast.settings import Settings, load
from llmblast.watching import Counters, EndpointCounters
from llmblast.writing import Writer
from tests.task_channel import TaskChannel

ANSWER = Reply(200, {}, b'{"choices":[{"message":{"content":"yes"},"finish_reason":"stop"}]}')
REPLIES = {
    "answer": ANSWER,
    "500": Reply(500, {}, b"{}"),
    "400": Reply(400, {}, b"{}"),
    "401": Reply(401, {}, b"{}"),
    "429": Reply(429, {b"retry-after": b"2"}, b"{}"),
    "429 at once": Reply(429, {b"retry-after": b"0"}, b"{}"),
    "not sent": Reply(cause=Cause.NOT_SENT, detail="refused"),
    "broken": Reply(cause=Cause.BROKEN, detail="broken"),
    "stale": Reply(cause=Cause.STALE, detail="closed"),
}
ROUNDS = 400
"""Of deliveries and answers, in which every run must have come to its end."""


class HeldLink:
    """One end of a link. What is sent there stays until the test has the other end hear it."""

    made: ClassVar[deque["HeldLink"]] = deque()

    def __init__(self, on_frame: Callable[[Any], None], on_lost: Callable[[], None]) -> None:
        self.on_frame = on_frame
        self.on_lost = on_lost
        self.sent: deque[bytes] = deque()
        self.made.append(self)

    def send(self, value: Any) -> None:
        self.sent.append(marshal.dumps(value, 2))


class ServerSide(TaskChannel):
    """What a worker has under way; a test answers."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: list[Request] = []

    def start(self, request: Request) -> bool:
        self.under_way.append(request)
        return True

    def reply(self, place: int, kind: str) -> None:
        request = self.under_way.pop(place % len(self.under_way))
        reply = REPLIES[kind]
        self.on_reply(request, Reply(reply.status, reply.headers, reply.body, reply.cause, reply.detail))


class Output:
    """A writer that only counts."""

    def __init__(self) -> None:
        self.is_full = False
        self.answered: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()

    def put(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Success):
            self.failed[outcome.line.number] += 1
        elif outcome.reply.record:
            self.put_rendered(outcome.reply.record)
        else:
            self.answered[outcome.request.number] += 1

    def put_rendered(self, records: bytes) -> None:
        self.answered.update(orjson.loads(record)["line"] for record in records.splitlines())


class Pending:
    """An input of so many lines."""

    def __init__(self, texts: Sequence[bytes], slice_lines: int, counters: Counters) -> None:
        self.may_end = asyncio.Event()
        self.may_end.set()
        self._texts = texts
        self._slice_lines = slice_lines
        self._counters = counters

    async def pending(self) -> AsyncIterator[Sequence[TextLine]]:
        lines = [(number, f"{number:016}", text) for number, text in enumerate(self._texts, 1)]
        for start in range(0, len(lines), self._slice_lines):
            part = lines[start : start + self._slice_lines]
            self._counters.lines_read += len(part)
            yield part
            await asyncio.sleep(0)
        await self.may_end.wait()


class Company:
    """A leader and its workers over lines, on a clock of their own."""

    def __init__(self, job: Settings, texts: Sequence[bytes], slice_lines: int = 8) -> None:
        self.now = 1000.0
        self.slots = job.concurrency
        HeldLink.made.clear()
        self.sockets = [socket.socket() for _ in range(job.processes)]
        self.crew = Crew([Forked(0, connected) for connected in self.sockets], job)
        self.servers = [ServerSide() for _ in range(job.processes)]
        self.workers = [Worker(job, [cast(Channel, server)]) for server in self.servers]
        links = list(HeldLink.made)
        self.downward, self.upward = links[: job.processes], links[job.processes :]
        self.counters = Counters(endpoints=[EndpointCounters("a")])
        self.output = Output()
        self.scheduler = make_scheduler(job)
        self.engine = Engine(
            self.scheduler,
            self.crew.channels,
            CrewSink(self.output, Shaper(job)),
            Backoff(3, Random(0)),
            self.counters,
            clock=self.clock,
            wall_clock=self.clock,
            max_in_flight=job.concurrency,
            gives_up=lambda counters: False,
        )
        self.lending = Lending(
            self.scheduler, self.engine, cast(Writer, self.output), self.counters, self.crew.hands, clock=self.clock
        )
        self.crew.lending = self.lending
        self.engine.elsewhere = self.lending
        self.crew.work_for(self.engine)
        self.pending = Pending(texts, slice_lines, self.counters)
        self.intake = cast(Intake, self.pending)
        self.running = asyncio.create_task(self._run())

    @property
    def under_way(self) -> int:
        return sum(len(server.under_way) for server in self.servers)

    @property
    def ended(self) -> Counter[int]:
        return self.output.answered + self.output.failed

    def clock(self) -> float:
        return self.now

    async def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
            self.check()

    def check(self) -> None:
        assert self.under_way <= self.slots
        assert all(0 <= hand.asked <= hand.slots for hand in self.crew.hands)

    def tell(self, place: int) -> None:
        """The worker hears the next frame."""
        if self.downward[place].sent:
            self.upward[place].on_frame(marshal.loads(self.downward[place].sent.popleft()))

    def hear(self, place: int) -> None:
        """The leader hears the worker's next frame."""
        if self.upward[place].sent:
            self.downward[place].on_frame(marshal.loads(self.upward[place].sent.popleft()))

    def reply(self, place: int, of: int, kind: str) -> None:
        if self.servers[place].under_way:
            self.servers[place].reply(of, kind)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.engine.pump()

    async def pass_on(self) -> None:
        """Every frame comes, and whatever comes of it."""
        await self.turn(4)
        while any(link.sent for link in (*self.downward, *self.upward)):
            for place in range(len(self.workers)):
                self.tell(place)
                self.hear(place)
            await self.turn(4)

    async def finish(self) -> None:
        """Answers all until the run is over."""
        self.output.is_full = False
        for _ in range(ROUNDS):
            await self.pass_on()
            for place, server in enumerate(self.servers):
                for _ in range(len(server.under_way)):
                    self.reply(place, 0, "answer")
            await self.pass_on()
            if self.running.done():
                break
            self.wait(5.0)
        assert self.running.done(), "the run does not end"
        await self.running

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        for connected in self.sockets:
            connected.close()

    async def _run(self) -> None:
        feed = asyncio.create_task(self._feed())
        stop = asyncio.create_task(self.engine.stopping.wait())
        try:
            await asyncio.wait({feed, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not feed.done():
                feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
            await self.engine.wait_until_done()
        finally:
            stop.cancel()
            feed.cancel()

    async def _feed(self) -> None:
        async for shaped in self.crew.slices(self.intake, self.counters):
            for item in shaped:
                if isinstance(item, Request):
                    self.engine.accept(item)
                else:
                    self.engine.refuse(item)
            self.engine.pump()
            await asyncio.sleep(0)
            await self.engine.room()


@pytest.fixture(autouse=True, scope="module")
def _frames_are_held() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hands_module, "Link", HeldLink)
        patch.setattr(worker_module, "Link", HeldLink)
        patch.setattr(worker_module, "GATHER_S", 0.0)
        yield


def job_of(processes: int, slots: int, *, adaptive: bool = False) -> Settings:
    endpoint = {"url": "http://127.0.0.1:1/v1", "adaptive": adaptive}
    return load({"endpoints": [endpoint], "processes": processes, "concurrency": slots})


@asynccontextmanager
async def company(job: Settings, texts: Sequence[bytes], slice_lines: int = 8) -> AsyncIterator[Company]:
    with pytest.MonkeyPatch.context() as patch:
        it = Company(job, texts, slice_lines)
        patch.setattr(worker_module, "time", SimpleNamespace(monotonic=it.clock))
        try:
            yield it
        finally:
            await it.close()


def questions(count: int) -> list[bytes]:
    return [b'{"input": "Question %d?"}' % number for number in range(count)]


places = st.integers(0, 2)
kinds = st.sampled_from(["answer"] * 6 + ["500", "400", "429", "429 at once", "not sent", "broken", "stale"])
steps = st.one_of(
    st.tuples(st.just("turn"), st.integers(1, 3)),
    st.tuples(st.just("tell"), places),
    st.tuples(st.just("hear"), places),
    st.tuples(st.just("reply"), places, st.integers(0, 9), kinds),
    st.tuples(st.just("pass on")),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 1.0, 5.0])),
    st.tuples(st.just("full"), st.booleans()),
)
lines = st.lists(
    st.sampled_from([b'{"input": "a"}'] * 8 + [b'{"input": "b", "priority": -1}', b"no JSON"]),
    min_size=40,
    max_size=160,
)


async def take(it: Company, step: tuple[Any, ...]) -> None:
    match step:
        case ("turn", turns):
            await it.turn(turns)
        case ("tell", place):
            it.tell(place % len(it.workers))
        case ("hear", place):
            it.hear(place % len(it.workers))
        case ("reply", place, of, kind):
            it.reply(place % len(it.workers), of, kind)
        case ("pass on",):
            await it.pass_on()
        case ("wait", seconds):
            it.wait(seconds)
        case ("full", is_full):
            it.output.is_full = is_full
            it.engine.pump()
    it.check()


def waiting(it: Company) -> Iterator[Request]:
    lanes = it.scheduler.lanes
    while lanes:
        lanes.is_outage, lanes.is_behind = False, False
        yield lanes.pop(1e9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 3),
    st.integers(12, 20),
    st.booleans(),
    lines,
    st.integers(1, 16),
    st.lists(steps, min_size=60, max_size=250),
    st.booleans(),
    st.booleans(),
)
def test_whatever_crosses_slots_and_lines_are_conserved(
    processes: int,
    slots: int,
    adaptive: bool,
    texts: list[bytes],
    slice_lines: int,
    taken: list[tuple[Any, ...]],
    are_lent_first: bool,
    is_stopped: bool,
) -> None:
    """In flight is never more than the slots, at the end all are back, and every line has ended once; of a run that was
    stopped, each that was sent. Slots are lent before there is a line, where nothing has to open first, or later.
    """

    async def live() -> None:
        async with company(job_of(processes, slots, adaptive=adaptive), texts, slice_lines) as it:
            it.scheduler.endpoints[0].breaker.answered()  # else three refused connections end the run
            if are_lent_first:
                it.engine.pump()
            for step in taken:
                await take(it, step)
            if is_stopped:
                it.engine.stop(ExitCode.INTERRUPTED, "interrupted")
            await it.finish()
            it.engine.refresh_counters()
            assert it.scheduler.in_flight == it.lending.slots == it.lending.lines == 0
            assert adaptive or it.scheduler.free_slots == slots
            assert [hand.asked for hand in it.crew.hands] == [0] * processes
            assert set(it.ended.values()) <= {1}
            assert it.engine.exit_code is not None or it.ended.keys() == set(range(1, len(texts) + 1))
            assert it.counters.succeeded == it.output.answered.total()
            assert it.scheduler.lanes.held_bytes == sum(request.size_bytes for request in waiting(it))

    asyncio.run(live())


async def test_an_endpoint_that_is_gone_is_not_sent_to() -> None:
    """Three refused connections to workers' own sends open the breaker, and others that follow leave it open."""
    async with company(job_of(3, 12), questions(100)) as it:
        it.scheduler.endpoints[0].breaker.answered()
        it.engine.pump()
        await it.pass_on()
        for place in (0, 1, 2, 0):
            it.reply(place, 0, "not sent")
            await it.pass_on()

        assert it.scheduler.endpoints[0].breaker.is_open
        assert not it.lending.is_on


async def test_quick_errors_among_slow_answers_are_no_outage() -> None:
    """Ten lines in a row fail while hundreds were sent that take their time: only a quarter of them would be one."""
    async with company(job_of(2, 400), questions(1600)) as it:
        it.engine.pump()
        await it.pass_on()
        for _ in range(10):
            it.wait(0.01)
            for _ in range(10):
                it.reply(0, 0, "answer")  # to what was sent before the row began
            await it.pass_on()
            it.reply(0, -1, "500")
            await it.pass_on()

        assert not it.scheduler.endpoints[0].outage.is_open


async def test_what_fills_slots_that_come_later_is_told_at_once() -> None:
    """Lines are at a worker before it has slots: the leader hears that they were sent before there is a reply."""
    async with company(job_of(2, 12), []) as it:
        lines = [(number, "0" * 16, text) for number, text in enumerate(questions(20), 1)]
        it.crew.hands[0].give(lines[:10])
        it.crew.hands[1].give(lines[10:])
        await it.pass_on()

        assert it.lending.in_flight == it.under_way == 12


async def test_a_slot_that_is_asked_for_as_it_is_lost_is_not_owed() -> None:
    """A worker's last slot fails while it is being asked for, and others are lent in the same turn: it keeps those."""
    async with company(job_of(2, 12), []) as it:
        hand = it.crew.hands[0]
        hand.lend(1)
        await it.turn()
        hand.ask_back(1)
        hand.lost_slot()
        hand.lend(3)
        await it.turn()

        orders = [Orders(*marshal.loads(frame)) for frame in it.downward[0].sent]

        assert (hand.slots, hand.asked) == (3, 0)
        assert [(frame.lent, frame.asked) for frame in orders] == [(1, 0), (3, 0)]


async def test_what_is_abandoned_is_counted_once() -> None:
    """Slots that nobody uses are not requests; a second look, when all has ended, changes nothing."""
    async with company(job_of(2, 12), questions(5)) as it:
        it.engine.pump()
        await it.pass_on()
        under_way = it.under_way
        await it.engine.cut_short()
        it.reply(0, 0, "answer")
        it.reply(1, 0, "answer")
        await it.pass_on()
        await it.engine.cut_short()
        it.engine.refresh_counters()

        assert it.counters.abandoned == under_way == 5
        assert it.counters.in_flight == it.counters.endpoints[0].in_flight == 0


async def test_deferred_lines_wait_for_those_at_the_workers() -> None:
    """One is read before slots are lent; it goes with the last ones, when nothing else waits."""
    async with company(
        job_of(2, 12), [*questions(20), b'{"input": "may wait", "priority": -1}', *questions(300)]
    ) as it:
        sent: list[bytes] = []
        while not it.running.done():
            await it.pass_on()
            for server in it.servers:
                sent += [request.text for request in server.under_way]
                for _ in range(len(server.under_way)):
                    server.reply(0, "answer")

        assert any(b"may wait" in text for text in sent[-it.slots :])


async def test_slots_of_a_worker_without_lines_are_for_the_lines_of_the_other() -> None:
    """Its requests take less time; when no more lines come in, it has none before the other has."""
    async with company(job_of(2, 12), questions(60)) as it:
        it.engine.pump()
        await it.pass_on()
        while it.servers[0].under_way:
            it.reply(0, 0, "answer")
            await it.pass_on()

        assert len(it.servers[1].under_way) == 12


async def test_lines_that_come_together_fill_the_slots_of_all() -> None:
    """Sixty-four at once, from a pipe that then gives nothing more for long."""
    async with company(job_of(4, 64), questions(64), slice_lines=64) as it:
        it.pending.may_end.clear()
        it.engine.pump()
        await it.pass_on()

        assert [len(server.under_way) for server in it.servers] == [16] * 4
        it.pending.may_end.set()
        await it.finish()


async def test_lines_beyond_the_slots_of_all_are_for_all() -> None:
    """Seventy at once on twelve slots: no worker is idle while another has lines that wait."""
    async with company(job_of(3, 12), questions(70), slice_lines=70) as it:
        it.pending.may_end.clear()
        it.engine.pump()
        for _ in range(3):
            await it.pass_on()
            assert it.under_way == 12
            for place in range(3):
                for _ in range(4):
                    it.reply(place, 0, "answer")
        it.pending.may_end.set()
        await it.finish()


async def test_bad_lines_that_are_told_last_end_the_run() -> None:
    """Of a worker that never had a slot, since the leader's own requests took them all."""
    async with company(job_of(2, 12), questions(12), slice_lines=12) as it:
        await it.pass_on()
        assert len(it.servers[0].under_way) == 12
        it.crew.hands[1].give([(13, "0" * 16, b"no JSON")])
        for _ in range(12):
            it.reply(0, 0, "answer")
        for _ in range(6):
            await it.turn(9)
            it.hear(0)
        assert not it.running.done()
        await it.finish()

        assert it.ended == Counter(range(1, 14))


@pytest.mark.parametrize("kind", ["answer", "500", "429", "not sent"])
async def test_a_recall_that_crosses_a_reply_leaves_nothing_behind(kind: str) -> None:
    """The output is full for a moment while replies are on their way; later the workers send again, on all slots."""
    async with company(job_of(2, 12), questions(600)) as it:
        it.scheduler.endpoints[0].breaker.answered()
        it.engine.pump()
        await it.pass_on()
        it.reply(0, 0, kind)
        it.output.is_full = True
        it.engine.pump()
        await it.turn()
        it.tell(0)
        it.reply(0, 0, kind)
        await it.pass_on()
        await it.finish()

        assert [hand.asked for hand in it.crew.hands] == [0, 0]
        assert it.ended == Counter(range(1, 601))


async def test_large_lines_fill_all_slots() -> None:
    """What is in flight is not among the 8 MiB that may wait."""
    async with company(job_of(2, 60), [b'{"input": "%b"}' % (b"x" * 300_000)] * 200, slice_lines=2) as it:
        it.engine.pump()
        for _ in range(10):
            await it.pass_on()

        assert it.under_way == 60


async def test_lines_wait_until_it_is_known_what_those_before_them_became() -> None:
    """A line of a few bytes may name images of many megabytes."""
    async with company(job_of(2, 64), questions(400)) as it:
        it.engine.pump()
        await it.turn(200)

        assert [hand.own_lines for hand in it.crew.hands] == [8 * SLICES_AHEAD] * 2


async def test_errors_that_are_told_with_answers_are_no_outage() -> None:
    """What comes in one frame comes in no order: a dozen errors with an answer among them are no row."""
    async with company(job_of(2, 400), questions(1600)) as it:
        it.engine.pump()
        await it.pass_on()
        for _ in range(12):
            it.reply(0, 0, "answer")
            it.reply(0, 0, "500")
        await it.pass_on()

        assert not it.scheduler.endpoints[0].outage.is_open


async def test_lines_that_wait_for_lent_slots_count_as_waiting_for_the_limit() -> None:
    """As they do in a run of one process; not while there is nothing that waits."""
    async with company(job_of(2, 40), questions(400)) as it:
        it.engine.pump()
        await it.pass_on()
        before_s = it.scheduler.waited(it.now)["run concurrency"]
        it.wait(3.0)
        it.reply(0, 0, "answer")
        await it.pass_on()

        assert it.scheduler.waited(it.now)["run concurrency"] - before_s == pytest.approx(3.0)


async def test_what_the_leader_has_queued_waits_for_the_limit_too() -> None:
    """All slots are taken by its own requests, while it could lend."""
    async with company(job_of(3, 12), questions(100), slice_lines=100) as it:
        await it.pass_on()
        before_s = it.scheduler.waited(it.now)["run concurrency"]
        for _ in range(4):
            it.now += 1.0
            it.engine.refresh_counters()

        assert it.under_way == 12
        assert it.scheduler.waited(it.now)["run concurrency"] - before_s == pytest.approx(4.0)


async def test_a_worker_that_halts_goes_on_when_the_leader_knows_why() -> None:
    """Not when it has heard of an error before that only."""
    async with company(job_of(2, 40), questions(400)) as it:
        it.engine.pump()
        await it.pass_on()
        it.reply(0, 0, "500")
        await it.turn(2)
        it.hear(0)
        await it.turn(2)
        it.reply(0, 0, "429")
        await it.turn(2)
        it.reply(0, 0, "answer")
        before = len(it.servers[0].under_way)
        it.tell(0)
        await it.turn(2)

        assert len(it.servers[0].under_way) == before
