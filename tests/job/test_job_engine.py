"""The engine by itself: what a defect in it does, and what it counts."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest

from llmblast.errors import ExitCode
from llmblast.job.back_pressure import MAX_HELD_BYTES
from llmblast.job.engine import Engine
from llmblast.job.run_scheduler import make_scheduler
from llmblast.models import Attempt, Line, Outcome, Reply, Request, Success
from llmblast.sending import NO_LISTENER, Backoff, ChannelListener
from llmblast.setting_loading import load
from llmblast.settings import Settings
from llmblast.watching import Counters, EndpointCounters
from tests.task_channel import TaskChannel

ANSWER = b'{"choices":[{"message":{"content":"yes"},"finish_reason":"length"}]}'


class Channel(TaskChannel):
    """Answers with what it was given, one reply for each release of `gate`, else at once; an exception is raised."""

    def __init__(self, reply: Reply | Exception, gate: asyncio.Semaphore | None = None) -> None:
        super().__init__()
        self.reply = reply
        self.gate = gate

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply:
        if self.gate is not None:
            await self.gate.acquire()
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


class KeptChannel(TaskChannel):
    """Has a connection at hand for every request; a test answers."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Attempt] = []
        self.listeners: list[ChannelListener] = []
        self.abandoned = 0

    def start(self, attempt: Attempt, listener: ChannelListener) -> bool:
        self.started.append(attempt)
        self.listeners.append(listener)
        return True

    def answer(self, attempt: Attempt) -> None:
        self.listeners[self.started.index(attempt)].on_reply(attempt, Reply(200, {}, ANSWER))

    def abandon(self) -> None:
        self.abandoned += 1


class Sink:
    """Keeps outcomes in memory."""

    def __init__(self) -> None:
        self.is_full = False
        self.outcomes: list[Outcome] = []
        self.has_more = asyncio.Event()

    def leave_out(self, line: Line) -> None:
        """Nothing waits for it."""

    def put(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.has_more.set()


def make_engine(
    reply: Reply | Exception, sink: Sink, counters: Counters, gate: asyncio.Semaphore | None = None
) -> Engine:
    return engine_on(Channel(reply, gate), sink, counters)


def fail(*arguments: object) -> None:
    raise RuntimeError("a bug")


def engine_on(channel: TaskChannel, sink: Sink, counters: Counters, reports: list[str] | None = None) -> Engine:
    """`reports` gets the messages of defects."""

    def report(defect: BaseException) -> str:
        (reports if reports is not None else []).append(str(defect))
        return str(defect) if reports is not None else repr(defect)

    settings = load({"endpoints": ["http://127.0.0.1:1/v1"]})
    return Engine(
        make_scheduler(settings),
        [channel],
        sink,
        Backoff(3, Random(0)),
        counters,
        clock=time.monotonic,
        wall_clock=time.time,
        max_in_flight=4,
        gives_up=lambda counters: False,
        report_defect=report,
    )


def request(number: int, body: bytes = b"{}") -> Request:
    return Request(number, "0" * 16, b"{}", number, body=body)


@pytest.mark.parametrize(("rps", "admitted"), [(None, 4), (1e6, 81)])
def test_where_a_rate_is_set_no_slow_start_comes_first(rps: float | None, admitted: int) -> None:
    """It would keep a known rate from being used; only the first request of a cold server holds back the next ones."""
    scheduler = make_scheduler(load({"endpoints": ["http://127.0.0.1:1/v1"], "rps": rps}))
    for number in range(100):
        scheduler.queue.add(Attempt(request(number)))
    now = 1000.0
    while now < 1000.1:
        scheduler.next(now)
        now += 0.001

    assert scheduler.endpoints[0].traffic.in_flight == admitted


async def test_a_defect_ends_the_run_and_is_not_hidden() -> None:
    """An exception out of a send is a bug of ours: the run ends with it, and nothing waits for ever."""
    counters = Counters(endpoints=[EndpointCounters("a")])
    engine = make_engine(RuntimeError("a bug"), Sink(), counters)
    engine.accept(request(1))
    engine.dispatch_ready()

    await asyncio.wait_for(engine.end.stopping.wait(), 5)
    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert (engine.end.exit_code, engine.end.reason) == (ExitCode.DEFECT, "RuntimeError('a bug')")


@pytest.mark.pure
async def test_after_a_defect_nothing_is_sent_and_what_arrives_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer whose handling failed keeps its record, too: it was put first."""
    channel, sink, counters = KeptChannel(), Sink(), Counters(endpoints=[EndpointCounters("a")], input_ended=True)
    engine = engine_on(channel, sink, counters)
    for number in range(70):
        engine.accept(request(number))
    engine.dispatch_ready()
    in_flight = list(channel.started)

    monkeypatch.setattr(engine._scheduler, "release", fail)
    for sent in in_flight:
        channel.answer(sent)
    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert engine.end.exit_code is ExitCode.DEFECT
    assert channel.started == in_flight
    assert [outcome.request for outcome in sink.outcomes if isinstance(outcome, Success)] == [
        sent.request for sent in in_flight
    ]
    assert engine._scheduler.queue


@pytest.mark.pure
async def test_after_a_defect_replies_to_come_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed half-way counts as in flight for ever; only the channel knows what still comes."""
    channel, counters = KeptChannel(), Counters(endpoints=[EndpointCounters("a")])
    engine = engine_on(channel, Sink(), counters)
    for number in (1, 2):
        engine.accept(request(number))
    engine.dispatch_ready()
    monkeypatch.setattr(engine._scheduler, "release", fail)
    channel.is_busy = True
    channel.answer(channel.started[0])
    done = asyncio.create_task(engine.wait_until_done())
    await asyncio.sleep(0)
    was_done = done.done()

    channel.is_busy = False
    channel.answer(channel.started[1])
    await asyncio.wait_for(done, 5)

    assert not was_done


async def test_each_record_that_cannot_be_rendered_is_left_out_alone() -> None:
    """Others that arrive later are written; a defect counts more than the stop before it."""

    class Broken(Sink):
        def put(self, outcome: Outcome) -> None:
            if isinstance(outcome, Success) and outcome.request.number < 2:
                raise RuntimeError(f"bug {outcome.request.number}")
            super().put(outcome)

    channel, sink, reports = KeptChannel(), Broken(), list[str]()
    engine = engine_on(channel, sink, Counters(endpoints=[EndpointCounters("a")]), reports)
    for number in range(4):
        engine.accept(request(number))
    engine.dispatch_ready()
    engine.stop(ExitCode.INTERRUPTED, "interrupted")

    for sent in channel.started:
        channel.answer(sent)
    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert [outcome.request.number for outcome in sink.outcomes if isinstance(outcome, Success)] == [2, 3]
    assert reports == ["bug 0", "bug 1"]
    assert (engine.end.exit_code, engine.end.reason) == (ExitCode.DEFECT, "bug 0")


async def test_a_defect_in_a_send_is_not_lost_with_whoever_asked_for_it() -> None:
    """A timer or the writer may have: nobody would wait for the end of that request but the run."""

    class Broken(KeptChannel):
        def start(self, attempt: Attempt, listener: ChannelListener) -> bool:
            raise RuntimeError("a bug")

    engine = engine_on(Broken(), Sink(), Counters(endpoints=[EndpointCounters("a")]))
    engine.accept(request(1))

    engine.dispatch_ready()
    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert engine.end.exit_code is ExitCode.DEFECT


async def test_a_reply_on_a_kept_connection_sends_the_next_request() -> None:
    """Or two, since the limit opens, in the order of the file; the last reply ends the run."""
    channel, sink, counters = KeptChannel(), Sink(), Counters(endpoints=[EndpointCounters("a")], input_ended=True)
    engine = engine_on(channel, sink, counters)
    for number in range(6):
        engine.accept(request(number))
    engine.dispatch_ready()
    at_once = len(channel.started)

    for number in range(6):
        channel.answer(channel.started[number])
    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert at_once == 4
    assert [outcome.request.number for outcome in sink.outcomes if isinstance(outcome, Success)] == list(range(6))


async def test_what_was_started_is_abandoned_and_counted_once() -> None:
    """Those lines have no record and run again."""
    channel, sink, counters = KeptChannel(), Sink(), Counters(endpoints=[EndpointCounters("a")])
    engine = engine_on(channel, sink, counters)
    for number in range(3):
        engine.accept(request(number))
    engine.dispatch_ready()

    await engine.abort_in_flight()
    await engine.abort_in_flight()

    engine.refresh_counters()
    assert channel.abandoned
    assert (counters.abandoned, counters.in_flight, sink.outcomes) == (3, 0, [])


async def test_answers_that_were_cut_off_are_flagged() -> None:
    """`finish_reason` length is a success that the summary tells of."""
    sink, counters = Sink(), Counters(endpoints=[EndpointCounters("a")], input_ended=True)
    engine = make_engine(Reply(200, {}, ANSWER), sink, counters)
    engine.accept(request(1))
    engine.dispatch_ready()

    await asyncio.wait_for(engine.wait_until_done(), 5)

    engine.refresh_counters()
    assert (counters.sent, counters.succeeded, counters.flagged, counters.in_flight) == (1, 1, 1, 0)
    assert len(sink.outcomes) == 1


async def test_nothing_is_sent_while_the_sink_is_full() -> None:
    """Replies that cannot be written must not pile up in memory; when there is room, sending goes on."""
    sink, counters = Sink(), Counters(endpoints=[EndpointCounters("a")], input_ended=True)
    engine = make_engine(Reply(200, {}, ANSWER), sink, counters)
    sink.is_full = True
    engine.accept(request(1))
    engine.dispatch_ready()
    engine.refresh_counters()
    sent_while_full = counters.sent
    waited_s = engine._scheduler.waited(time.monotonic() + 60)["output"]

    sink.is_full = False
    engine.dispatch_ready()
    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert sent_while_full == 0
    assert waited_s >= 60
    assert len(sink.outcomes) == 1


async def test_a_stop_sends_nothing_more() -> None:
    """The first reason counts."""
    sink, counters = Sink(), Counters(endpoints=[EndpointCounters("a")])
    engine = make_engine(Reply(200, {}, ANSWER), sink, counters)
    engine.stop(ExitCode.INTERRUPTED, "first")
    engine.stop(ExitCode.STOPPED, "second")
    engine.accept(request(1))
    engine.dispatch_ready()

    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert (engine.end.exit_code, engine.end.reason) == (ExitCode.INTERRUPTED, "first")
    assert sink.outcomes == []


@pytest.mark.parametrize("reply", [Reply(200, {}, ANSWER), Reply(413, {}, b"{}")], ids=["answered", "failed"])
async def test_what_is_in_flight_is_bounded_by_bytes(reply: Reply) -> None:
    """Nothing waits, and still no more is read while so much is under way; each end makes room for another line."""
    counters, gate = Counters(endpoints=[EndpointCounters("a")]), asyncio.Semaphore(0)
    engine = make_engine(reply, Sink(), counters, gate)
    fourth = bytes(MAX_HELD_BYTES // 4)
    for number in range(4):
        assert not engine.is_full
        engine.accept(request(number, fourth))
        engine.dispatch_ready()
    room = asyncio.create_task(engine.room())
    await asyncio.sleep(0)
    engine.refresh_counters()
    was_held_back = engine.is_full and not room.done()

    gate.release()
    await asyncio.wait_for(room, 5)

    assert (counters.queued, counters.sent) == (0, 4)
    assert was_held_back
    assert not engine.is_full
    await engine.abort_in_flight()


async def test_a_line_beyond_every_bound_is_sent() -> None:
    """One at a time at least."""
    sink, counters = Sink(), Counters(endpoints=[EndpointCounters("a")], input_ended=True)
    engine = make_engine(Reply(200, {}, ANSWER), sink, counters)
    engine.accept(request(1, bytes(MAX_HELD_BYTES + 1)))
    engine.dispatch_ready()

    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert len(sink.outcomes) == 1
    assert not engine.is_full


class ConnectingChannel(TaskChannel):
    """Opens a connection for each request, which takes longer for some, and notes when each leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.left_s: list[float] = []
        self.waiting = asyncio.Semaphore(0)

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply:
        await asyncio.sleep(0.02 * (attempt.request.number % 3))
        if (leave := listener.leave(attempt, True)) is not None:
            self.waiting.release()
            await leave
        self.left_s.append(time.monotonic())
        return Reply(200, {}, ANSWER)


def engine_of(settings: Settings, channels: Sequence[TaskChannel], sink: Sink, counters: Counters) -> Engine:
    return Engine(
        make_scheduler(settings),
        channels,
        sink,
        Backoff(3, Random(0)),
        counters,
        clock=time.monotonic,
        wall_clock=time.time,
        max_in_flight=100,
        gives_up=lambda counters: False,
    )


def paced_engine(channel: TaskChannel, sink: Sink, counters: Counters, rps: float) -> Engine:
    settings = load({"endpoints": ["http://127.0.0.1:1/v1"], "rps": rps})
    return engine_of(settings, [channel], sink, counters)


async def test_requests_whose_connections_take_time_leave_no_closer_together_than_the_rate_allows() -> None:
    """Fifteen at twenty a second; the connections of those that are admitted one after the other open together."""
    channel, sink, counters = ConnectingChannel(), Sink(), Counters(endpoints=[EndpointCounters("a")])
    engine = paced_engine(channel, sink, counters, rps=20)
    for number in range(15):
        engine.accept(request(number))
    counters.input_ended = True
    engine.dispatch_ready()

    await asyncio.wait_for(engine.wait_until_done(), 20)
    await engine.abort_in_flight()

    assert len(sink.outcomes) == 15
    assert not channel.waiting.locked(), "none had to wait"
    assert min(later - earlier for earlier, later in pairwise(channel.left_s)) >= 1 / 20


async def test_what_waits_for_its_departure_ends_with_the_run() -> None:
    """Its line has no record, and runs again; the timer is closed."""
    open_files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    channel, counters = ConnectingChannel(), Counters(endpoints=[EndpointCounters("a")])
    engine = paced_engine(channel, Sink(), counters, rps=100)
    engine._scheduler.leave(
        engine._scheduler.endpoints[0], time.monotonic() + 3600, is_fresh=True
    )  # none leaves for an hour
    engine.accept(request(3))
    engine.dispatch_ready()
    await asyncio.wait_for(channel.waiting.acquire(), 5)

    await asyncio.wait_for(engine.abort_in_flight(), 5)
    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert channel.left_s == []
    assert counters.abandoned == 1
    assert sys.platform != "linux" or len(os.listdir("/proc/self/fd")) == open_files


async def test_what_waits_for_its_departure_holds_back_no_other_endpoint() -> None:
    """Nothing may leave to the slow one for an hour, and the other one answers all the same."""
    channels, sink = [ConnectingChannel(), ConnectingChannel()], Sink()
    counters = Counters(endpoints=[EndpointCounters("slow"), EndpointCounters("fast")])
    settings = load({"endpoints": ["http://127.0.0.1:1/v1,rps=1", "http://127.0.0.1:2/v1"]})
    engine = engine_of(settings, channels, sink, counters)
    engine._scheduler.leave(engine._scheduler.endpoints[0], time.monotonic() + 3600, is_fresh=True)
    for number in range(10):
        engine.accept(request(number))
    engine.dispatch_ready()
    await asyncio.wait_for(channels[0].waiting.acquire(), 5)
    engine.accept(request(10))
    engine.dispatch_ready()

    while len(sink.outcomes) < 10:
        await asyncio.wait_for(sink.has_more.wait(), 5)
        sink.has_more.clear()
    await engine.abort_in_flight()

    assert channels[0].left_s == []
    assert len(channels[1].left_s) == 10


async def test_one_that_has_a_connection_waits_for_the_last_departure_too() -> None:
    """That was on a fresh connection, just now, and the schedule knows nothing of it."""

    class Kept(ConnectingChannel):
        def start(self, attempt: Attempt, listener: ChannelListener) -> bool:
            self.left_s.append(time.monotonic())
            return True

    channel, counters = Kept(), Counters(endpoints=[EndpointCounters("a")])
    engine = paced_engine(channel, Sink(), counters, rps=100)
    engine._scheduler.leave(engine._scheduler.endpoints[0], time.monotonic() + 3600, is_fresh=True)
    engine.accept(request(3))
    engine.dispatch_ready()
    await asyncio.wait_for(channel.waiting.acquire(), 5)
    await engine.abort_in_flight()

    assert channel.left_s == []
