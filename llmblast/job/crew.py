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
from llmblast.job.intake import Intake, TextLine
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
        sockets: Sequence[socket.socket] = ()
        try:
            sockets = ours, theirs = socket.socketpair()
            pid = os.fork()
        except (OSError, AttributeError) as error:
            for connected in (*sockets, *(other.connected for other in forked)):
                connected.close()
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

    def __init__(self, forked: Forked, channels: Sequence["CrewChannel"], on_lost: Callable[["Hand"], None]) -> None:
        self.pid = forked.pid
        self.lines = 0
        """How many it has that have not come to their end."""
        self.sent: dict[int, tuple[Request, Done]] = {}
        self._connected = forked.connected
        self._channels = channels
        self._link = Link(self._hear, partial(on_lost, self))
        self._shaping: deque[tuple[Sequence[TextLine], asyncio.Future[Sequence[Request | Failure]]]] = deque()
        self._calls: dict[int, asyncio.Future[str | None]] = {}
        self._loop = asyncio.get_running_loop()
        self._will_flush = False
        self._texts: list[Sequence[tuple[Any, ...]]] = []
        self._starts: list[float] = []
        self._restarts: list[tuple[int, float, tuple[int, int, bool]]] = []
        self._forgotten: list[int] = []
        self._cancelled: list[int] = []
        self._warm_ups: list[tuple[int, int, int]] = []

    async def open(self, places: Sequence[tuple[str, str | None]]) -> None:
        """Tells the worker the URL and the key of each endpoint; it begins with that."""
        with suppress(OSError):  # it is gone already, which the link tells
            self._connected.sendall(frame_of(places))
        await self._link.open(self._connected)

    def shape(self, lines: Sequence[TextLine]) -> asyncio.Future[Sequence[Request | Failure]]:
        """Hands over lines, and what will have become of them, in their order."""
        shaped: asyncio.Future[Sequence[Request | Failure]] = self._loop.create_future()
        self._shaping.append((lines, shaped))
        self._texts.append([line if type(line[2]) is bytes else _oversized(*line) for line in lines])
        self.lines += len(lines)
        self._flush_soon()
        return shaped

    def start(self, send: int, request: Request, done: Done) -> None:
        """`done` gets the request and its reply."""
        self.sent[send] = request, done
        if request.failed_on or request.hedged:
            history = request.attempts, request.ambiguous_sends, request.resent
            self._restarts.append((send, request.sent_s, history))
        else:
            self._starts += (send, request.sent_s)
        if not self._will_flush:
            self._flush_soon()

    def cancel(self, send: int) -> None:
        """Nobody waits for its reply any more."""
        if self.sent.pop(send, None) is not None:
            self._cancelled.append(send)
            self._flush_soon()

    def forget(self, request: Request) -> None:
        """The line has come to its end."""
        self.lines -= 1
        self._forgotten.append(request.number)
        self._flush_soon()

    def warm_up(self, index: int, connections: int) -> asyncio.Future[str | None]:
        """Why no connection to an endpoint could be opened, if none could."""
        number = len(self._calls)
        self._warm_ups.append((number, index, connections))
        self._flush_soon()
        return self._calls.setdefault(number, self._loop.create_future())

    def abandon(self) -> None:
        """Nobody waits for any reply any more."""
        self.sent.clear()

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

    def _flush_soon(self) -> None:
        if not self._will_flush:
            self._will_flush = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._will_flush = False
        self._link.send((self._texts, self._starts, self._restarts, self._forgotten, self._cancelled, self._warm_ups))
        self._texts, self._starts, self._restarts = [], [], []
        self._forgotten, self._cancelled, self._warm_ups = [], [], []

    def _hear(self, frame: Any) -> None:
        shaped, answered, replies, late, results = frame
        for entries in shaped:
            lines, future = self._shaping.popleft()
            if not future.done():
                future.set_result([self._shaped(*line, *entry) for line, entry in zip(lines, entries, strict=True)])
        for number, detail in results:
            if not (call := self._calls[number]).done():
                call.set_result(detail)
        for send, is_fresh in late:
            if (under_way := self.sent.get(send)) is not None:
                self._channels[send % len(self._channels)].on_late(under_way[0], is_fresh)
        for send, latency_s, finish_reason, prompt_tokens, completion_tokens, headers, record in answered:
            if (under_way := self.sent.pop(send, None)) is not None:
                request, done = under_way
                self.lines -= 1
                answer = Answer(None, finish_reason, None, prompt_tokens, completion_tokens)
                done(request, Reply(200, headers or _NO_HEADERS, b"", None, "", latency_s, answer, record))
        for send, status, headers, body, cause, detail, *own in replies:
            if (under_way := self.sent.pop(send, None)) is not None:
                request, done = under_way
                _restore(request, own)
                done(request, Reply(status, headers, body, None if cause is None else Cause[cause], detail))

    def _shaped(self, number: int, key: str, text: bytes, *entry: Any) -> Request | Failure:
        if len(entry) == 2:
            self.lines -= 1
            message, name = entry
            return Failure(Line(number, key, bytes(text), name), message, BAD_LINE)
        body_bytes, max_tokens, deferred = entry
        request = Assigned(number, key, text, number, max_tokens=max_tokens, deferred=deferred, hand=self)
        request.body_bytes = body_bytes
        return request


def _oversized(number: int, key: str, text: bytes) -> tuple[Any, ...]:
    return number, key, bytes(text), text.size_bytes if isinstance(text, OversizedLine) else None


def _restore(request: Request, own: Sequence[Any]) -> None:
    """What a verdict and a record need of the line and only the worker knew."""
    assert isinstance(request, Assigned)
    request.is_known = True
    request.path, request.needs_model, request.output_format, request.id, request.extra, is_json, shown = own
    request.input = orjson.Fragment(shown) if is_json else shown


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

    def __init__(self, forked: Sequence[Forked], endpoints: int) -> None:
        self._on_lost: Callable[[str], None] = self._keep
        self._kept: list[str] = []
        self.channels = [CrewChannel(index, endpoints) for index in range(endpoints)]
        self._hands = [Hand(one, self.channels, self._lost) for one in forked]
        self._is_closing = False
        for channel in self.channels:
            channel.join(self._hands)

    async def open(self, places: Sequence[tuple[str, str | None]]) -> None:
        """Sets all to work; `places` are the URL and the key of each endpoint."""
        for hand in self._hands:
            await hand.open(places)

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """`on_lost` is called with what has happened, in words, when a worker is gone before the end, or was before."""
        self._on_lost = on_lost
        for why in self._kept:
            on_lost(why)

    async def slices(self, intake: Intake, counters: Counters) -> AsyncIterator[Sequence[Request | Failure]]:
        """Like `Intake.slices`, with the work done by the workers, in the order of the input.

        Raises InputDamagedError where the input breaks off, after what could be read.
        """
        ahead: _Ahead = asyncio.Queue(SLICES_AHEAD * len(self._hands))
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
                await ahead.put(min(self._hands, key=_lines_of).shape(lines))
        except Exception as error:  # noqa: BLE001 -- raised where the slices are taken
            end = error
        await ahead.put(end)

    async def close(self) -> None:
        """Ends all workers."""
        self._is_closing = True
        for hand in self._hands:
            await hand.end()

    def _lost(self, hand: Hand) -> None:
        if not self._is_closing:
            why = f"worker process {hand.pid} is gone: was it killed, or was there no memory left?"
            self._on_lost(why)
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
