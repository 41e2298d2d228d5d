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
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial

from llmblast.errors import ExitCode, UsageError
from llmblast.job.consequences import Sink
from llmblast.job.engine import MAX_HELD_BYTES, MAX_QUEUED_BYTES, QUEUED_PER_SLOT, Engine
from llmblast.job.frames import News
from llmblast.job.hands import Assigned, Done, Forked, Hand
from llmblast.job.intake import SLICE_LINES, Intake, TextLine
from llmblast.job.lending import Lending
from llmblast.job.worker import serve
from llmblast.reading import Shaper
from llmblast.records import Cause, Failure, Outcome, Reply, Request, Success
from llmblast.scheduling import Scheduler
from llmblast.sending import Leave, leave_now, resolve
from llmblast.settings import Settings
from llmblast.watching import Counters
from llmblast.writing import Writer

SLICES_AHEAD = 4
"""Slices of lines that each worker may have to shape: one at work, the others so that it never waits."""
_Ahead = asyncio.Queue[asyncio.Future[Sequence[Request | Failure]] | Exception | None]
"""What lines will have become, and the end of the input."""


def fork_workers(settings: Settings) -> Sequence[Forked]:
    """Starts `processes` workers, which wait for their first frame. First thing in a run: a fork inherits every open
    file, and no thread but the one that makes it.

    Raises UsageError where the system does not start so many.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    _let_children_end()
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


def _let_children_end() -> None:
    """Where it is ignored, which is inherited, that a child has ended, nobody could wait for it."""
    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class CrewChannel:
    """One endpoint, over the channels that the workers have to it. Those are swept and closed by their processes."""

    def __init__(self, index: int, endpoints: int) -> None:
        self._index = index
        self._endpoints = endpoints
        self._hands: Sequence[Hand] = ()
        self.leave: Leave = leave_now
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
        self._engine: Engine | None = None
        self._lost_early: list[Hand] = []
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

    def sink(self, writer: Writer, shaper: Shaper) -> Sink:
        """Where outcomes go."""
        return CrewSink(writer, shaper)

    def lend_from(self, scheduler: Scheduler, engine: Engine, writer: Writer, counters: Counters) -> None:
        """Workers may send on their own account where the scheduler finds nothing against it."""
        self.lending = engine.elsewhere = Lending(scheduler, engine, writer, counters, self.hands, clock=time.monotonic)

    def work_for(self, engine: Engine) -> None:
        """It is told when a worker is gone before the end, or was before this."""
        self._engine = engine
        for hand in self._lost_early:
            self.lost(hand)

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
                for part in _parts(lines):
                    await self._hand_over(part, ahead)
        except Exception as error:  # noqa: BLE001 -- raised where the slices are taken
            end = error
        await ahead.put(end)

    async def _hand_over(self, lines: Sequence[TextLine], ahead: _Ahead) -> None:
        is_small = not _names_images(lines[-1])  # the leader bounds the bytes of what it decides on
        even = -(-len(lines) // len(self.hands))
        while lines:
            hand = min(self.hands, key=self._load)
            if self.lending is None or not self.lending.is_on or not is_small:
                await ahead.put(hand.shape(lines))
                return
            size = hand.free_slots if hand.is_half_idle else max(hand.slots, even)  # the others have slots, too
            part = lines[:size]
            hand.give(part)
            lines = lines[len(part) :]
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        while all(self._is_full(hand) for hand in self.hands):
            self._room.clear()
            await self._room.wait()

    def _load(self, hand: Hand) -> tuple[bool, int]:
        return self._is_full(hand), hand.lines

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
        if self._engine is None:
            self._lost_early.append(hand)
            return
        why = f"worker process {hand.pid} is gone: was it killed, or was there no memory left?"
        self._engine.stop(ExitCode.PROCESS_LOST, why)
        if self.lending is not None:
            self.lending.lost(hand)
        hand.break_off(why)

    def fail(self, bug: BaseException) -> None:
        """A defect of ours."""
        if self._engine is not None:
            self._engine.fail(bug)


def _parts(lines: Sequence[TextLine]) -> Iterator[Sequence[TextLine]]:
    """The same, cut behind each line that may become much larger than it is."""
    start = 0
    for end, line in enumerate(lines, 1):
        if _names_images(line):
            yield lines[start:end]
            start = end
    if start < len(lines):
        yield lines[start:]


def _names_images(line: TextLine) -> bool:
    return b'"images"' in line[2]


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
