"""The engine by itself: what a defect in it does, and what it counts."""

import asyncio
import time
from collections.abc import Callable
from random import Random

import pytest

from llmblast.errors import ExitCode
from llmblast.job.engine import Engine
from llmblast.job.stations import make_scheduler
from llmblast.records import Outcome, Reply, Request
from llmblast.sending import Backoff
from llmblast.settings import load
from llmblast.watching import Counters, EndpointCounters

ANSWER = b'{"choices":[{"message":{"content":"yes"},"finish_reason":"length"}]}'


class Channel:
    """Answers at once with what it was given; an exception is raised."""

    def __init__(self, reply: Reply | Exception) -> None:
        self.reply = reply
        self.on_late: Callable[[Request], None] = lambda request: None

    async def send(self, request: Request) -> Reply:
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    async def warm_up(self) -> None: ...

    def sweep(self, now: float) -> None: ...

    async def close(self) -> None: ...


class Sink:
    """Keeps outcomes in memory."""

    def __init__(self) -> None:
        self.is_full = False
        self.outcomes: list[Outcome] = []

    def put(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def make_engine(reply: Reply | Exception, sink: Sink, counters: Counters) -> Engine:
    settings = load({"endpoints": ["http://127.0.0.1:1/v1"]})
    return Engine(
        make_scheduler(settings),
        [Channel(reply)],
        sink,
        Backoff(3, Random(0)),
        counters,
        clock=time.monotonic,
        wall_clock=time.time,
        max_in_flight=4,
        gives_up=lambda counters: False,
    )


def request(number: int) -> Request:
    return Request(number, "0" * 16, b"{}", number, body=b"{}")


async def test_a_defect_ends_the_run_and_is_not_hidden() -> None:
    """An exception out of a send is a bug of ours: it comes out of the run, and nobody waits for ever."""
    counters = Counters(endpoints=[EndpointCounters("a")])
    engine = make_engine(RuntimeError("a bug"), Sink(), counters)
    engine.accept(request(1))
    engine.pump()

    await asyncio.wait_for(engine.stopping.wait(), 5)

    with pytest.raises(RuntimeError, match="a bug"):
        await engine.wait_until_done()


async def test_answers_that_were_cut_off_are_flagged() -> None:
    """`finish_reason` length is a success that the summary tells of."""
    sink, counters = Sink(), Counters(endpoints=[EndpointCounters("a")], input_ended=True)
    engine = make_engine(Reply(200, [], ANSWER), sink, counters)
    engine.accept(request(1))
    engine.pump()

    await asyncio.wait_for(engine.wait_until_done(), 5)

    engine.refresh_counters()
    assert (counters.sent, counters.succeeded, counters.flagged, counters.in_flight) == (1, 1, 1, 0)
    assert len(sink.outcomes) == 1


async def test_nothing_is_sent_while_the_sink_is_full() -> None:
    """Replies that cannot be written must not pile up in memory; when there is room, sending goes on."""
    sink, counters = Sink(), Counters(endpoints=[EndpointCounters("a")], input_ended=True)
    engine = make_engine(Reply(200, [], ANSWER), sink, counters)
    sink.is_full = True
    engine.accept(request(1))
    engine.pump()
    engine.refresh_counters()
    sent_while_full = counters.sent

    sink.is_full = False
    engine.pump()
    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert sent_while_full == 0
    assert len(sink.outcomes) == 1


async def test_a_stop_sends_nothing_more() -> None:
    """The first reason counts."""
    sink, counters = Sink(), Counters(endpoints=[EndpointCounters("a")])
    engine = make_engine(Reply(200, [], ANSWER), sink, counters)
    engine.stop(ExitCode.INTERRUPTED, "first")
    engine.stop(ExitCode.STOPPED, "second")
    engine.accept(request(1))
    engine.pump()

    await asyncio.wait_for(engine.wait_until_done(), 5)

    assert (engine.exit_code, engine.reason) == (ExitCode.INTERRUPTED, "first")
    assert sink.outcomes == []
