"""Crew: several processes at one run's work, as the one that leads them sees it.

The leader reads, decides and writes as a run of one process does, with one scheduler, one set of limits and one writer;
to its engine the crew is a set of channels. Its workers do what takes the most time: they make requests of lines, send
them when they are told to, read the replies and render the records.

An answered request costs the leader one line, one number and one record to pass on. Everything else that may come of a
send, a worker hands over as it is, and the leader judges it as it would its own.
"""

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from llmblast.errors import UsageError
from llmblast.job.consequences import Sink
from llmblast.job.engine import MAX_HELD_BYTES, MAX_QUEUED_BYTES, QUEUED_PER_SLOT
from llmblast.job.frames import News, Orders
from llmblast.job.intake import SLICE_LINES, Intake, TextLine
from llmblast.job.lending import Lending
from llmblast.job.links import Link, frame_of
from llmblast.job.worker import serve
from llmblast.reading import BAD_LINE, OversizedLine, Shaper
from llmblast.records import Answer, Cause, Failure, Line, Outcome, Reply, Request, Success
from llmblast.sending import resolve
from llmblast.settings import Settings
from llmblast.watching import Counters

SLICES_AHEAD = 4
"""Slices of lines that each worker may have to shape: one at work, the others so that it never waits."""
_NO_HEADERS: Mapping[bytes, bytes] = {}
_MEASURES = ("body_bytes", "max_tokens", "deferred")
"""What a worker tells of a request; of a line that is none, two words."""

Done = Callable[[Request, Reply], None]
_Ahead = asyncio.Queue[asyncio.Future[Sequence[Request | Failure]] | Exception | None]
"""What lines will have become, and the end of the input."""


@dataclass(frozen=True, slots=True)
class Forked:
    """A worker's process and our end of the socket to it."""

    pid: int
    connected: socket.socket


def fork_workers(settings: Settings) -> Sequence[Forked]:
    """Starts `processes` workers, which wait for their first frame. First thing in a run: a fork inherits every open
    file, and no thread but the one that makes it.

    Raises UsageError where the system does not start so many.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    forked: list[Forked] = []
    for _ in range(settings.processes):
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except (OSError, AttributeError) as error:
            why = getattr(error, "strerror", None) or "this system cannot fork"
            raise UsageError(f"--processes {settings.processes}: {why}. Try fewer.") from None
        if pid == 0:
            for connected in (ours, *(other.connected for other in forked)):
                connected.close()
            serve(theirs, settings)
        theirs.close()
        forked.append(Forked(pid, ours))
    return forked


@dataclass(slots=True, eq=False)
class Assigned(Request):
    """A request of which the leader knows the line only: its body is in the process of `hand`."""

    hand: "Hand | None" = None
    is_known: bool = False
    """Whether its worker has told what a record needs of it: it does with the first reply."""


class Hand:
    """One worker: what it is to do next, and what it has under way. What is told in one turn of the loop goes in one
    frame.
    """

    def __init__(self, forked: Forked, crew: "Crew") -> None:
        self.pid = forked.pid
        self.lines = 0
        """How many it has that have not come to their end."""
        self.own_lines = 0
        """Of these, those on its own account, with as many in flight and as many bytes as it last told."""
        self.own_in_flight = 0
        self.own_bytes = 0
        self.slots = 0
        """Lent to it; `asked` of them it is to give back."""
        self.asked = 0
        self.sent: dict[int, tuple[Request, Done]] = {}
        self._connected = forked.connected
        self._crew = crew
        self._link = Link(self._hear, partial(crew.lost, self))
        self._shaping: deque[tuple[Sequence[TextLine], asyncio.Future[Sequence[Request | Failure]]]] = deque()
        self._calls: dict[int, asyncio.Future[str | None]] = {}
        self._loop = asyncio.get_running_loop()
        self._orders = Orders()
        self._will_flush = False
        self._is_abandoned = False
        self._told_waiting_bytes = 0
        self._untold_bytes: deque[int] = deque()

    @property
    def untold(self) -> int:
        """Slices of its own lines that it has not told of: nobody knows yet what they have become."""
        return len(self._untold_bytes)

    @property
    def waiting_bytes(self) -> int:
        """Of its own lines that it has not sent, those on their way to it included."""
        return self._told_waiting_bytes + sum(self._untold_bytes)

    async def open(self, places: Sequence[tuple[str, str | None]]) -> None:
        """Tells the worker the URL and the key of each endpoint; it begins with that."""
        with suppress(OSError):  # it is gone already, which the link tells
            self._connected.sendall(frame_of(places))
        await self._link.open(self._connected)

    def shape(self, lines: Sequence[TextLine]) -> asyncio.Future[Sequence[Request | Failure]]:
        """Hands over lines, and what will have become of them, in their order."""
        shaped: asyncio.Future[Sequence[Request | Failure]] = self._loop.create_future()
        self._shaping.append((lines, shaped))
        self.lines += len(lines)
        self._flush_soon().lines.append(_packed(lines))
        return shaped

    def give(self, lines: Sequence[TextLine]) -> None:
        """Hands over lines that it is to send on its own account."""
        self.lines += len(lines)
        self.own_lines += len(lines)
        self._untold_bytes.append(sum(len(text) for _, _, text in lines))
        self._flush_soon().own_lines.append(_packed(lines))

    def start(self, send: int, request: Request, done: Done) -> None:
        """`done` gets the request and its reply."""
        self.sent[send] = request, done
        orders = self._flush_soon()
        if request.failed_on or request.hedged:
            history = request.attempts, request.ambiguous_sends, request.resent
            orders.restarts.append((send, request.sent_s, history))
        else:
            orders.starts += (send, request.sent_s)

    def cancel(self, send: int) -> None:
        """Nobody waits for its reply any more."""
        if self.sent.pop(send, None) is not None:
            self._flush_soon().cancelled.append(send)

    def forget(self, request: Request) -> None:
        """The line has come to its end."""
        self.lines -= 1
        self._flush_soon().forgotten.append(request.number)

    def warm_up(self, index: int, connections: int) -> asyncio.Future[str | None]:
        """Why no connection to an endpoint could be opened, if none could."""
        number = len(self._calls)
        self._flush_soon().warm_ups.append((number, index, connections))
        return self._calls.setdefault(number, self._loop.create_future())

    def lend(self, slots: int) -> None:
        """More slots, which the scheduler has paid for."""
        self.slots += slots
        self._flush_soon().lent += slots

    def ask_back(self, slots: int) -> None:
        """It gives so many back as they become free."""
        self.asked += slots
        self._flush_soon().asked += slots

    def call_in(self) -> None:
        """It gives all slots back, and the lines that it has not sent."""
        self.ask_back(self.slots - self.asked)
        self._flush_soon().recall = True

    def got_back(self, slots: int) -> None:
        """It has given back what it was asked for."""
        self.slots -= slots
        self.asked -= slots

    def lost_slot(self) -> None:
        """One came back with a line that was not answered."""
        self.slots -= 1
        orders = self._flush_soon()
        if self.asked > self.slots:
            self.asked = self.slots
            orders.asked = max(orders.asked - 1, 0)  # it has not heard of those yet, and takes one off what it has
        orders.go_on = True

    def abandon(self) -> None:
        """Nobody waits for any reply any more."""
        self._is_abandoned = True
        self.sent.clear()
        self.slots = self.asked = self.own_lines = self.own_in_flight = 0

    def break_off(self, why: str) -> None:
        """It is gone, and with it whatever it had sent."""
        sent, self.sent = self.sent, {}
        for request, done in sent.values():
            done(request, Reply(cause=Cause.BROKEN, detail=why))

    async def end(self) -> None:
        """Ends the process, which has nothing that could be lost. Returns when it is gone."""
        self._link.close()
        os.kill(self.pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, self.pid, 0)

    def assign(self, line: Sequence[Any], measures: Sequence[Any]) -> "Assigned":
        """The request that the worker made of a line."""
        number, key, text, *_ = line
        body_bytes, max_tokens, deferred = measures
        return Assigned(
            number,
            key,
            text,
            number,
            body_bytes=body_bytes,
            max_tokens=max_tokens,
            deferred=deferred,
            hand=self,
        )

    def reply_of(self, request: Request, parts: Sequence[Any]) -> Reply:
        """What the worker handed over as it is, and to the request what a verdict and a record need of the line."""
        status, headers, body, cause, detail, own = parts
        assert isinstance(request, Assigned)
        request.is_known = True
        request.path, request.needs_model, request.output_format, request.id, request.extra, is_json, shown = own
        request.input = orjson.Fragment(shown) if is_json else shown
        return Reply(status, headers, body, None if cause is None else Cause[cause], detail)

    def _flush_soon(self) -> Orders:
        if not self._will_flush:
            self._will_flush = True
            self._loop.call_soon(self._flush)
        return self._orders

    def _flush(self) -> None:
        self._will_flush = False
        orders, self._orders = self._orders, Orders()
        self._link.send(orders.packed())

    def _hear(self, frame: Any) -> None:
        news = News(*frame)
        for entries in news.shaped:
            lines, future = self._shaping.popleft()
            if not future.done():
                future.set_result([self._shaped(line, entry) for line, entry in zip(lines, entries, strict=True)])
        for number, detail in news.results:
            if not (call := self._calls[number]).done():
                call.set_result(detail)
        channels = self._crew.channels
        for send, is_fresh in news.late:
            if (under_way := self.sent.get(send)) is not None:
                channels[send % len(channels)].on_late(under_way[0], is_fresh)
        for send, latency_s, finish_reason, prompt_tokens, completion_tokens, headers, record in news.answered:
            if (under_way := self.sent.pop(send, None)) is not None:
                request, done = under_way
                self.lines -= 1
                answer = Answer(None, finish_reason, None, prompt_tokens, completion_tokens)
                done(request, Reply(200, headers or _NO_HEADERS, b"", None, "", latency_s, answer, record))
        for send, *parts in news.replies:
            if (under_way := self.sent.pop(send, None)) is not None:
                request, done = under_way
                done(request, self.reply_of(request, parts))
        self.own_bytes, self._told_waiting_bytes = news.own_bytes, news.waiting_bytes
        for _ in range(news.taken):
            self._untold_bytes.popleft()
        if not self._is_abandoned:
            self.own_in_flight = news.in_flight
            self._crew.heard(self, news)

    def _shaped(self, line: TextLine, entry: Sequence[Any]) -> Request | Failure:
        if len(entry) == len(_MEASURES):
            return self.assign(line, entry)
        self.lines -= 1
        number, key, text = line
        message, name = entry
        return Failure(Line(number, key, bytes(text), name), message, BAD_LINE)


def _packed(lines: Sequence[TextLine]) -> list[tuple[Any, ...]]:
    return [line if type(line[2]) is bytes else _oversized(*line) for line in lines]


def _oversized(number: int, key: str, text: bytes) -> tuple[Any, ...]:
    return number, key, bytes(text), text.size_bytes if isinstance(text, OversizedLine) else None


class CrewChannel:
    """One endpoint, over the channels that the workers have to it. Those are swept and closed by their processes."""

    def __init__(self, index: int, endpoints: int) -> None:
        self._index = index
        self._endpoints = endpoints
        self._hands: Sequence[Hand] = ()
        self.on_late: Callable[[Request, bool], None] = lambda request, is_fresh: None
        self.on_reply: Done = lambda request, reply: None

    def join(self, hands: Sequence[Hand]) -> None:
        """The workers that are there."""
        self._hands = hands

    async def warm_up(self, connections: int = 1) -> Reply | None:
        """So many connections, over all workers."""
        each = -(-connections // len(self._hands))
        details = await asyncio.gather(*(hand.warm_up(self._index, each) for hand in self._hands))
        failed = [detail for detail in details if detail is not None]
        return Reply(cause=Cause.NOT_SENT, detail=failed[0]) if len(failed) == len(details) else None

    def start(self, request: Request) -> bool:
        """Always sends: what has to be waited for, the worker waits for."""
        _hand_of(request).start(request.number * self._endpoints + self._index, request, self.on_reply)
        return True

    async def send(self, request: Request) -> Reply:
        """The same, for whoever wants to be able to cancel it."""
        replied: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        send = request.number * self._endpoints + self._index
        _hand_of(request).start(send, request, partial(resolve, replied))
        try:
            return await replied
        except BaseException:
            _hand_of(request).cancel(send)
            raise

    def abandon(self) -> None:
        for hand in self._hands:
            hand.abandon()

    def sweep(self, now: float) -> None:
        """The workers do it."""

    async def close(self) -> None:
        """The workers end with all of their connections."""


def _hand_of(request: Request) -> Hand:
    assert isinstance(request, Assigned)
    assert request.hand is not None
    return request.hand


class Crew:
    """All workers."""

    def __init__(self, forked: Sequence[Forked], settings: Settings) -> None:
        self._on_lost: Callable[[str], None] = self._keep
        self._kept: list[str] = []
        endpoints = len(settings.endpoints)
        self.channels = [CrewChannel(index, endpoints) for index in range(endpoints)]
        self.hands = [Hand(one, self) for one in forked]
        self.lending: Lending | None = None
        self._most_lines = max(settings.concurrency * QUEUED_PER_SLOT // len(forked), 2 * SLICE_LINES)
        self._most_waiting_bytes = MAX_QUEUED_BYTES // len(forked)
        self._most_bytes = MAX_HELD_BYTES // len(forked)
        self._room = asyncio.Event()
        self._is_closing = False
        for channel in self.channels:
            channel.join(self.hands)

    async def open(self, places: Sequence[tuple[str, str | None]]) -> None:
        """Sets all to work; `places` are the URL and the key of each endpoint."""
        for hand in self.hands:
            await hand.open(places)

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """`on_lost` is called with what has happened, in words, when a worker is gone before the end, or was before."""
        self._on_lost = on_lost
        for why in self._kept:
            on_lost(why)

    async def slices(self, intake: Intake, counters: Counters) -> AsyncIterator[Sequence[Request | Failure]]:
        """Like `Intake.slices`, with the work done by the workers, in the order of the input. Lines that they send on
        their own account are not among it.

        Raises InputDamagedError where the input breaks off, after what could be read.
        """
        ahead: _Ahead = asyncio.Queue(SLICES_AHEAD * len(self.hands))
        reading = asyncio.create_task(self._read(intake, ahead))  # apart, since a pipe may give nothing more for long
        try:
            while (shaped := await ahead.get()) is not None:
                if isinstance(shaped, Exception):
                    raise shaped
                yield await shaped
        finally:
            reading.cancel()
        counters.input_ended = True

    async def _read(self, intake: Intake, ahead: _Ahead) -> None:
        end: Exception | None = None
        try:
            async for lines in intake.pending():
                hand = min(self.hands, key=_lines_of)
                if self.lending is not None and self.lending.is_on:
                    hand.give(lines)
                    await self._wait_for_room()
                else:
                    await ahead.put(hand.shape(lines))
        except Exception as error:  # noqa: BLE001 -- raised where the slices are taken
            end = error
        await ahead.put(end)

    async def _wait_for_room(self) -> None:
        while all(self._is_full(hand) for hand in self.hands):
            self._room.clear()
            await self._room.wait()

    def _is_full(self, hand: Hand) -> bool:
        if hand.untold >= SLICES_AHEAD or hand.own_lines >= self._most_lines:
            return True
        return hand.waiting_bytes >= self._most_waiting_bytes or hand.own_bytes >= self._most_bytes

    async def close(self) -> None:
        """Ends all workers."""
        self._is_closing = True
        for hand in self.hands:
            await hand.end()

    def heard(self, hand: Hand, news: News) -> None:
        """A worker's word of its own lines."""
        if self.lending is not None:
            self.lending.hear(hand, news)
        self._room.set()

    def lost(self, hand: Hand) -> None:
        """A worker's process is gone."""
        if self._is_closing:
            return
        why = f"worker process {hand.pid} is gone: was it killed, or was there no memory left?"
        self._on_lost(why)
        if self.lending is not None:
            self.lending.lost(hand)
        hand.break_off(why)

    def _keep(self, why: str) -> None:
        self._kept.append(why)


def _lines_of(hand: Hand) -> int:
    return hand.lines


class CrewSink:
    """Takes outcomes for the writer, and tells the workers of the lines that they did not see the end of. What a worker
    cannot tell of a line any more, since it is lost, is read from the line itself.
    """

    def __init__(self, sink: Sink, shaper: Shaper) -> None:
        self._sink = sink
        self._shaper = shaper

    @property
    def is_full(self) -> bool:
        """The writer's."""
        return self._sink.is_full

    def put(self, outcome: Outcome) -> None:
        """Takes the outcome, full or not."""
        if isinstance(outcome, Success):
            if not outcome.reply.record:
                _hand_of(outcome.request).forget(outcome.request)
        elif isinstance(outcome.line, Assigned):
            _hand_of(outcome.line).forget(outcome.line)
            if not outcome.line.is_known:
                line = outcome.line
                shaped = self._shaper.shape(line.number, line.key, line.text)
                outcome.line = shaped.line if isinstance(shaped, Failure) else shaped
        self._sink.put(outcome)
